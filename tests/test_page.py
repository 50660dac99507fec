"""The page's folder: what is in it, and what it does not do to other folders. tests/page/ opens it in a browser."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from harness import evidence, page, store
from harness.errors import UserError
from tests import synthetic
from tests.factory import record
from tests.test_cli import rollbench


@pytest.fixture
def root(tmp_path: Path) -> Path:
    synthetic.write(synthetic.records(12), tmp_path / "results")
    return tmp_path / "results"


def data(folder: Path) -> Any:
    text = (folder / "data.js").read_text()
    assert text.isascii()
    return json.loads(text.removeprefix("rollbench.data(").removesuffix(");\n"))


def test_it_holds_figures_and_the_records_as_they_are(root: Path, tmp_path: Path) -> None:
    found = evidence.read(root)
    assert page.write(found, tmp_path / "page") == 12
    held = data(tmp_path / "page")
    assert held["records"] == 12
    cell = held["rows"][0]["metrics"]["output_throughput"]
    assert cell["levels"]["vllm"][3].endswith("]")
    assert cell["ratio"][0] == pytest.approx(0.85, rel=0.1)
    about = held["rows"][0]["records"]["vllm"]
    call = (tmp_path / "page" / "records" / f"{about['id']}.js").read_text()
    name, path, text = json.loads(f"[{call.removeprefix('rollbench.record(').removesuffix(');' + chr(10))}]")
    assert (name, text) == (about["id"], (root / path).read_text())


def test_the_same_records_give_the_same_page(root: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        page.write(evidence.read(root), tmp_path / name)
    files = [
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in tmp_path.glob("[ot]?[eo]")
    ]
    assert files[0] == files[1]


def test_a_page_is_replaced_and_other_folders_are_left_alone(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "page"
    page.write(evidence.read(root), folder)
    (folder / "records" / "old.js").write_text("")
    page.write(evidence.read(root), folder)
    assert not (folder / "records" / "old.js").exists()
    with pytest.raises(UserError, match="holds other files than a page"):
        page.write(evidence.read(root), root)
    assert evidence.read(root).entries


def test_a_record_that_is_gone_is_told(root: Path, tmp_path: Path) -> None:
    found = evidence.read(root)
    (root / found.entries[0].path).unlink()
    assert page.write(found, tmp_path / "page") == 11
    assert len(data(tmp_path / "page")["skipped"]) == 1


def test_nothing_in_the_page_makes_markup_of_text_or_asks_a_network() -> None:
    for path in page.SITE.glob("*.js"):
        if not path.name.startswith("uPlot"):
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch\(|XMLHttp|https?:", path.read_text()
            )
    index = (page.SITE / "index.html").read_text()
    assert "connect-src 'none'" in index
    assert not re.search(r"<script>|style=|onclick|https?:", index)


def test_the_charting_library_has_its_licence_beside_it() -> None:
    assert "MIT License" in (page.SITE / "uPlot.LICENSE").read_text()
    assert "uPlot (v" in (page.SITE / "uPlot.iife.min.js").read_text()[:200]


def contrast(one: str, other: str) -> float:
    """By WCAG 2."""

    def light(colour: str) -> float:
        parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_stands_out_in_both_themes() -> None:
    css = (page.SITE / "page.css").read_text()
    for block in re.findall(r"color-scheme: (?:light|dark);(.*?)}", css, re.DOTALL):
        colours = dict(re.findall(r"--(\w+): (#\w{6})", block))
        assert all(
            contrast(colours[t], colours[g]) >= 4.5
            for t in ("text", "muted", "accent", "bad")
            for g in ("ground", "raised")
        )
        assert all(
            contrast(colours[line], colours["raised"]) >= 3
            for line in ("sglang", "vllm", *(f"c{i}" for i in range(1, 9)))
        )


def test_the_command_writes_the_page(results: Path, tmp_path: Path) -> None:
    store.save(record(), results)
    done = rollbench("report", "--html", "--to", str(tmp_path / "page"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "page" / "index.html").is_file()
    assert "1 records, 1 of them in full" in done.stdout
    assert rollbench("report", "--html", "--to", str(results)).returncode == 2
