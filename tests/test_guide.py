"""The guide: every claim of the old one, by section; nothing that no record says."""

import re
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote

import pytest

from harness import evidence, guide, plots, report, scenario, store
from harness.claims import CLAIMS, SECTIONS
from harness.metrics import METRICS
from tests import synthetic
from tests.factory import record
from tests.test_cli import rollbench


def text(root: Path) -> str:
    return guide.text(list(plots.sections(evidence.read(root))), "../results")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Records of every scenario with their report, in results/ of a folder, and what the guide says of them."""
    root = tmp_path_factory.mktemp("guide") / "results"
    synthetic.write(synthetic.records(700), root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "svgs", lambda figures: ["<svg/>"] * len(figures))
        report.write(root, report.files(root)[0])
    return root, text(root)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: f"{claim.section}: {claim.text}")
def test_a_claim_names_what_there_is(claim: "guide.Claim") -> None:
    assert claim.section in SECTIONS
    assert not claim.metric or claim.metric in METRICS
    names = list(scenario.cases())
    for pattern in claim.cases:
        if "70B-ipc" not in pattern and "70B-own" not in pattern:
            assert any(fnmatchcase(name, pattern) for name in names), pattern


def test_no_claim_stands_twice_in_a_section() -> None:
    assert [found for found, count in Counter((c.section, c.text) for c in CLAIMS).items() if count > 1] == []
    assert {claim.section for claim in CLAIMS} == set(SECTIONS)


def test_every_claim_has_a_verdict_and_tables_are_whole(whole: tuple[Path, str]) -> None:
    _, made = whole
    rows = [
        line
        for line in made.splitlines()
        if re.search(r"\| \*\*(holds|does not hold|inconclusive|not measured)\*\*", line)
    ]
    assert len(rows) == len(CLAIMS)
    assert Counter(re.search(r"\*\*([a-z ]+)\*\*", row)[1] for row in rows).keys() >= {  # type: ignore[index]
        "holds", "does not hold", "not measured",
    }  # fmt: skip
    width = 0
    for line in made.splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not width or not cells or cells == width, line
        width = cells


def test_what_nobody_measured_says_so(tmp_path: Path) -> None:
    store.save(record("vllm"), tmp_path)
    made = text(tmp_path)
    assert "| Megatron training: vLLM yes | none | **not measured** | trainers/ has FSDP2 alone |" in made
    assert "| multi-node: SGLang yes | none | **not measured** |" in made
    assert "| Ray (not in the old guide): SGLang yes | none | **not measured** |" in made
    assert re.search(r"several inference engines .* \*\*not measured\*\*", made)
    assert "no record; `rollbench run multi_turn/0.5B-agent -e sglang -e vllm` would tell" in made
    assert "on a GPU named RTX 3090 would tell" in made


def test_links_and_plots_lead_to_files(whole: tuple[Path, str]) -> None:
    root, made = whole
    links = re.findall(r"(?<!\\)\]\(([^)\s]+)\)", made)
    assert sum(link.endswith(".svg") for link in links) >= 5
    assert [link for link in links if not (root.parent / "docs" / unquote(link)).resolve().exists()] == []


def test_hostile_text_is_shown_as_text(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>|[x](y)\u202e"
    for engine in ("sglang", "vllm"):
        store.save(record(engine, machine=record().machine.model_copy(update={"id": hostile})), tmp_path / "m")
    made = text(tmp_path)
    assert "<script>" not in made
    assert "\u202e" not in made


def test_the_command_writes_and_checks(results: Path, tmp_path: Path) -> None:
    path = tmp_path / "docs" / "guide.md"
    none = rollbench("guide", "--to", str(path))
    assert none.returncode == 2
    assert "no records; `rollbench run` makes them" in none.stderr
    store.save(record(), results)
    assert rollbench("guide", "--check", "--to", str(path)).returncode == 1
    done = rollbench("guide", "--to", str(path))
    assert done.returncode == 0, done.stderr
    assert "(../results/README.md)" in path.read_text()
    assert rollbench("guide", "--check", "--to", str(path)).returncode == 0
