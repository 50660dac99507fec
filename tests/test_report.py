"""The report: tables that say what the records say, the same bytes each time, and a check of what is tracked."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from harness import evidence, machine, page, report, standings, store
from harness.errors import UserError
from harness.record import Certificate
from tests import synthetic
from tests.commands import apart, rollbench
from tests.factory import launch, record

HOSTILE = '<img src=x onerror="alert(1)">|`[x](y) \u202e' + "long" * 40


def pair(root: Path, **changes: object) -> None:
    store.save(record("sglang", (100.0, 101.0, 99.0), **changes), root)
    store.save(record("vllm", (150.0, 151.0, 149.0), **changes), root)


def made(root: Path, **options: object) -> dict[str, str]:
    return report.files(root, **options)[0]  # type: ignore[arg-type]


def test_engines_side_by_side_with_ratio_and_evidence(tmp_path: Path) -> None:
    pair(tmp_path)
    text = made(tmp_path)["README.md"]
    row = next(line for line in text.splitlines() if "| output |" in line)
    assert r"[100.0 tok/s \[97.5, 102.5\]][" in row
    assert r"1.50 \[1.49, 1.51\] | vLLM better |" in row
    assert re.search(r"\| `tiny-16` \| vLLM \| 3 \| all hold \| torch 2.13.0 \| cpu \| `c0ffee` \| 2026-01-02 \|", text)


def test_every_link_leads_to_a_file(tmp_path: Path) -> None:
    synthetic.write(synthetic.records(60), tmp_path)
    store.save(record(machine=machine.fingerprint().model_copy(update={"id": HOSTILE})), tmp_path / "odd (1) [2]")
    files = made(tmp_path)
    report.write(tmp_path, files)
    links = [
        (name, target) for name, text in files.items() if name.endswith(".md")
        for found in re.findall(r"(?<!\\)\]\(([^)\s]+)\)|^\[\w+\]: (\S+)$", text, re.MULTILINE)
        for target in found if target
    ]  # fmt: skip
    assert len(links) > 100
    assert [found for found in links if not (tmp_path / found[0]).parent.joinpath(unquote(found[1])).exists()] == []
    for name, text in files.items():
        if name.endswith(".md"):
            assert set(re.findall(r"\]\[(\w+)\]", text)) == set(re.findall(r"^\[(\w+)\]: ", text, re.MULTILINE)), name


def test_details_hold_every_metric_and_the_command(tmp_path: Path) -> None:
    pair(tmp_path)
    (text,) = (text for name, text in made(tmp_path).items() if name.count("/") == 2 and name.endswith("README.md"))
    assert "| TTFT |" in text
    assert "`rollbench run single_turn/tiny-16 -e sglang -e vllm --launches 3`" in text


def test_a_model_from_outside_is_in_the_command() -> None:
    again = standings.command([record(params={"model": "my model", "prompts": 1})])
    assert again == "rollbench run single_turn/tiny-16 --model 'my model' -e vllm --launches 3"
    replayed = standings.command([record(case="replay/mine", params={"model": "m", "trace": "a.jsonl (sha256 00)"})])
    assert replayed == "rollbench run --trace a.jsonl -e vllm --launches 3"


def test_no_change_in_records_no_change_in_bytes(tmp_path: Path) -> None:
    synthetic.write(synthetic.records(40), tmp_path)
    first = made(tmp_path)
    assert report.write(tmp_path, first) == sorted(first)
    assert made(tmp_path) == first
    assert report.write(tmp_path, made(tmp_path)) == []


def test_no_byte_hangs_on_locale_time_zone_or_hash_seed(tmp_path: Path) -> None:
    odd = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONHASHSEED": "7", "TZ": "Asia/Kathmandu"}
    found = []
    for name, run, environment in (("here", rollbench, {}), ("odd", apart, odd)):
        root = tmp_path / name / "results"
        synthetic.write(synthetic.records(4), root)
        pair(root, machine=machine.fingerprint().model_copy(update={"cpu": "größe 机"}))
        for command in (("report",), ("report", "--html"), ("guide", "--to", str(root.parent / "guide.md"))):
            done = run(*command, "--results", str(root), **environment)
            assert done.returncode == 0, done.stderr
        files = [path for path in root.parent.rglob("*") if path.is_file()]
        found.append({path.relative_to(root.parent): path.read_bytes() for path in files})
    assert found[0] == found[1]


def test_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    pair(tmp_path)
    odd = Path(os.fsdecode(b"l\xf6sung"))  # Latin-1
    pair(tmp_path / odd, case="single_turn/other")
    text = made(tmp_path)["README.md"]
    assert text.count("]: l%F6sung/") == 2
    assert page.write(evidence.read(tmp_path), tmp_path / "html") == 4


def test_options_that_do_nothing_are_refused(results: Path) -> None:
    pair(results)
    for options in (("--to", "page"), ("--html", "--check")):
        done = rollbench("report", *options)
        assert (done.returncode, "has no --check" in done.stderr) == (2, True)


def test_what_an_earlier_report_left_is_taken_away(tmp_path: Path) -> None:
    pair(tmp_path)
    report.write(tmp_path, made(tmp_path))
    mine = tmp_path / "notes" / "README.md"
    mine.parent.mkdir()
    mine.write_text("written by hand")
    old = tmp_path / "gone" / "history.svg"
    old.parent.mkdir()
    old.write_text(f"<svg>{report.MADE}</svg>")
    assert report.stale(tmp_path, made(tmp_path)) == ["gone/history.svg"]
    report.write(tmp_path, made(tmp_path))
    assert (mine.exists(), old.exists()) == (True, False)


def test_why_a_figure_is_missing_is_said(tmp_path: Path) -> None:
    bad = launch(1, 100, certificates={"cache": Certificate(ok=False, figure=5, reason="5 tokens | <b>")})
    store.save(record("sglang", launches=[bad]), tmp_path)
    store.save(record("vllm", launches=[launch(1, 1, samples={}, unsupported="no <sleep> here")]), tmp_path)
    text = made(tmp_path)["README.md"]
    assert r"- invalid: single_turn/tiny-16 on sglang: launch 1, cache: 5 tokens \| \<b\>" in text
    assert r"- not supported: single_turn/tiny-16 on vllm: no \<sleep\> here" in text
    assert "[invalid][" in text
    store.save(record("fake"), tmp_path / "other")
    assert "no ratio of single_turn/tiny-16: no record of SGLang and vLLM" in made(tmp_path / "other")["README.md"]


def test_hostile_text_is_shown_as_text(tmp_path: Path) -> None:
    pair(tmp_path, case=f"single_turn/{HOSTILE.replace('/', '')}"[:120], params={"model": HOSTILE}, lane=HOSTILE)
    for name, text in made(tmp_path).items():
        assert "<img" not in re.sub(r"`[^`]*`", "", text).replace(r"\<img", ""), name
        assert "\u202e" not in text
        assert not name.startswith((".", "/"))


def test_names_of_folders_are_safe_and_never_the_same() -> None:
    assert report.slug("1x-h100") == "1x-h100"
    names = {report.slug(name) for name in ("../../etc", "..-..-etc", "a/b", "a b", "", "\ud800", "x" * 200)}
    assert len(names) == 7
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in names)


VERDICTS = [
    ((150.0, 151.0, 149.0), "vLLM better", "vLLM better"),
    ((70.0, 71.0, 69.0), "SGLang better", "SGLang better"),
    ((100.0, 101.0, 99.0), "alike", "alike"),
    ((60.0, 170.0, 110.0), "inconclusive", "inconclusive"),
    ((150.0,), "inconclusive", "inconclusive"),
]


@pytest.mark.parametrize(("values", "output", "ttft"), VERDICTS)
def test_the_gate_says_which_engine_is_better(
    tmp_path: Path, values: tuple[float, ...], output: str, ttft: str
) -> None:
    store.save(record("sglang", (100.0, 101.0, 99.0)), tmp_path)
    store.save(record("vllm", values), tmp_path)
    (standing,) = standings.standings(evidence.read(tmp_path))
    assert standings.by_gate(standing) == {"output_throughput": output, "ttft": ttft}


def test_no_verdict_where_a_certificate_does_not_hold(tmp_path: Path) -> None:
    bad = launch(1, 100, certificates={"cache": Certificate(ok=False, figure=5, reason="5 tokens")})
    store.save(record("sglang", launches=[bad]), tmp_path)
    store.save(record("vllm"), tmp_path)
    (standing,) = standings.standings(evidence.read(tmp_path))
    assert standings.by_gate(standing) == {}


def test_another_judge_may_be_asked(tmp_path: Path) -> None:
    pair(tmp_path)
    assert "| IMPROVE |" in made(tmp_path, judge=lambda standing: {"output_throughput": "IMPROVE"})["README.md"]


def test_a_new_scenario_appears_without_code(tmp_path: Path) -> None:
    pair(tmp_path, case="brand_new/tiny", scenario="brand_new")
    text = made(tmp_path)["README.md"]
    assert "### brand\\_new" in text or "### brand_new" in text
    assert "| output |" in text


def test_without_records_it_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no records; `rollbench run` makes them"):
        report.files(tmp_path)
    (tmp_path / "alien.json").write_text("{}")
    with pytest.raises(UserError, match=r"no records \(1 files are none: alien.json: not a record"):
        report.files(tmp_path)


def test_a_record_that_is_gone_by_then_is_told(tmp_path: Path) -> None:
    pair(tmp_path)
    found = evidence.read(tmp_path)
    (tmp_path / found.entries[0].path).unlink()
    (standing,) = standings.standings(found)
    assert list(standing.records) == ["vllm"]
    assert "cannot be read" in found.skipped[0]


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    odd = [launch(i, 1, samples={"ttft": [float("nan"), 0.1], "tpot": [float("inf")]}) for i in (1, 2)]
    store.save(record("sglang", launches=odd), tmp_path)
    pair(tmp_path / "other", case="single_turn/other")
    files = made(tmp_path)
    assert not re.search(r"\b(nan|inf)\b", "".join(files.values()), re.IGNORECASE)
    assert "[100 ms" in files["README.md"]


def test_the_command_writes_and_checks(results: Path) -> None:
    pair(results)
    stale = rollbench("report", "--check")
    assert stale.returncode == 1
    assert "stale: README.md" in stale.stderr
    assert "`rollbench report` writes it anew" in stale.stderr
    assert rollbench("report").stdout.startswith(f"{results / 'README.md'}: 2 records of 1 cases")
    assert rollbench("report", "--check").returncode == 0
    (results / "README.md").write_text("edited")
    assert "stale: README.md" in rollbench("report", "--check").stderr
