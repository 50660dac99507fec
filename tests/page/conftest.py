"""A page of invented records in a real Chromium: `nox -s page`, or `pytest tests/page --chromium PATH`."""

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from harness import evidence, page, store
from harness.record import Certificate
from tests import synthetic
from tests.factory import START, launch, record

HOSTILE = "<script>window.hit=1</script><img src=x onerror=window.hit=1> \u202egnol\u202c שלום " + "long" * 60


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """The unit tests stay without a browser."""
    return None if config.getoption("--chromium") else True


@pytest.fixture(scope="session")
def browser(pytestconfig: pytest.Config) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        path = pytestconfig.getoption("--chromium")
        found = playwright.chromium.launch(executable_path=path, args=sandbox)
        yield found
        found.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every tiny case twice, a history, hostile text, a broken certificate; in a folder with an odd name."""
    root = tmp_path_factory.mktemp("results")
    synthetic.write(synthetic.records(800), root)
    hostile = {"case": f"single_turn/{HOSTILE.replace('/', '')[:150]}", "params": {"model": HOSTILE}, "lane": HOSTILE}
    store.save(record("sglang", **hostile), root)
    store.save(record("vllm", **hostile), root)
    for hour, value in enumerate((100.0, 90.0)):
        store.save(record("vllm", (value, value), started=START + timedelta(hours=hour), run=str(hour)), root)
    broken = {"cache": Certificate(ok=False, figure=5, reason=f"5 tokens {HOSTILE}")}
    store.save(record("sglang", launches=[launch(1, 100.0, certificates=broken)]), root)
    folder = tmp_path_factory.mktemp("page") / "my page #1"
    (root / "alien.json").write_text("{}")
    page.write(evidence.read(root), folder)
    return folder


class Seen:
    """What a page said or asked for that it should not."""

    def __init__(self, tab: Any) -> None:
        self.wrong = list[str]()
        tab.on("console", lambda message: self.wrong.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        tab.on("dialog", lambda dialog: self.wrong.append(f"dialog: {dialog.message}"))
        tab.on("request", self.ask)

    def ask(self, request: Any) -> None:
        if not request.url.startswith(("file:///", "data:,", "blob:")):
            self.wrong.append(f"request: {request.url}")


@pytest.fixture(params=["wide"])
def tab(browser: Any, site: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, opened from disk; nothing wrong may have been seen at the end."""
    sizes = {"wide": (1280, 900), "phone": (360, 740)}
    width, height = sizes[request.param]
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(10_000)
    opened = context.new_page()
    seen = Seen(opened)
    opened.goto(f"{(site / 'index.html').as_uri()}")
    yield opened
    assert seen.wrong == []
    assert not opened.evaluate("window.hit")
    context.close()
