"""Options and fixtures of all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engine", default="fake", help="the engine that the contract is run on")
    parser.addoption("--chromium", help="the browser that tests/page opens the page in")
    parser.addoption("--model", default="tiny-qwen3", help="the model that the contract is run with")
    parser.addoption("--long", action="store_true", help="also what CI has no time for")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip("CI has no time for it: --long"))


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty results folder that all commands of a test use, and a lock that no other run on the machine holds."""
    monkeypatch.setenv("ROLLBENCH_LOCK", str(tmp_path / "lock"))
    monkeypatch.setenv("ROLLBENCH_RESULTS", str(tmp_path / "results"))
    yield tmp_path / "results"
