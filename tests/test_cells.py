"""From records to cells: pairs of launches, and every way in which there is nothing to compare."""

from pathlib import Path
from typing import Any

import pytest

from harness import cells, gate, store
from harness.cells import Failure, Side
from harness.errors import NotComparable, UserError
from harness.gate import Cell, Looks
from harness.record import Certificate, Record
from tests.factory import launch, record

BAD = Certificate(ok=False, figure=1, reason="128 tokens came from the cache")


def side(*records: Record, failures: dict[Any, Any] | None = None) -> Side:
    return Side("x", {(r.case, r.engine): r for r in records}, failures or {})


def only(base: Side, head: Side, apart: bool = False) -> Cell:
    (cell,) = cells.cells(base, head, apart)
    return cell


def by_metric(base: Record, head: Record, apart: bool = False) -> dict[str, Cell]:
    return {cell.metric.name: cell for cell in cells.cells(side(base), side(head), apart) if cell.metric}


def test_launches_meet_by_pair_with_their_medians() -> None:
    base = record(launches=[launch(1, 100.0, 1), launch(4, 101.0, 2), launch(5, 99.0, 3)])
    head = record(launches=[launch(3, 81.0, 2), launch(2, 80.0, 1)])
    found = by_metric(base, head)["output_throughput"]
    assert (found.base, found.head, found.apart) == ((100.0, 101.0), (80.0, 81.0), False)
    assert by_metric(base, head)["ttft"].head == (1 / 80, 1 / 81)


def test_a_pair_over_two_boots_does_not_count() -> None:
    base = record(launches=[launch(1, 100.0), launch(2, 101.0)])
    head = record(launches=[launch(1, 80.0), launch(2, 81.0, boot_id="another")])
    assert by_metric(base, head)["ttft"].pairs == 1


def test_what_the_machine_spoilt_is_set_aside_and_the_rest_counts() -> None:
    spoilt = launch(2, 50.0, certificates={"load": Certificate(ok=False, figure=0.5, reason="others used half")})
    base, head = record(), record(launches=[launch(1, 100.0), spoilt, launch(3, 99.0)])
    assert by_metric(base, head)["ttft"].pairs == 2
    alone = only(side(base), side(record(launches=[spoilt])))
    assert (alone.settled, alone.reason) == ("invalid", "no pair is left whose launches both count "
                                             "(load: others used half)")  # fmt: skip


DRIFT = {"steady": Certificate(ok=False, figure=-0.132, reason="-13.2% from the first to the last step")}


@pytest.mark.parametrize(
    ("base", "head", "pairs"), [(0, 1, 3), (1, 0, 3), (1, 1, 2), (2, 2, 0), (0, 2, None), (1, 2, None)]
)
def test_a_launch_that_drifts_is_set_aside_but_not_a_head_that_does(base: int, head: int, pairs: int | None) -> None:
    def drifting(first: int, count: int) -> Record:
        places = range(first, first + count)
        return record(launches=[launch(n, 100.0, certificates=DRIFT if n in places else {}) for n in (1, 2, 3, 4)])

    found = cells.cells(side(drifting(1, base)), side(drifting(3, head)))
    if pairs:
        assert {cell.pairs for cell in found if cell.metric} == {pairs}
    else:
        (whole,) = found
        assert whole.settled == "invalid"
        words = "no pair is left whose launches both count (steady" if pairs == 0 else "head: 2 of 4 launches, steady"
        assert whole.reason.startswith(words)


def test_a_head_whose_steps_were_measured_anew_drifts_too() -> None:
    anew = record(launches=[launch(n, 100.0, facts={"drifted": [[1.0, 2.0]]} if n < 3 else {}) for n in (1, 2, 3, 4)])
    (whole,) = cells.cells(side(record()), side(anew))
    assert (whole.settled, whole.reason) == ("invalid", "head: 2 of 4 launches, steady: measured anew")
    assert {cell.pairs for cell in cells.cells(side(anew), side(anew)) if cell.metric} == {4}


@pytest.mark.parametrize("which", ["base", "head"])
def test_a_broken_certificate_is_invalid_and_named(which: str) -> None:
    broken = record(launches=[launch(1, 100.0), launch(2, 100.0, certificates={"cache": BAD})])
    pair = (broken, record()) if which == "base" else (record(), broken)
    found = only(*map(side, pair))
    assert (found.settled, found.reason) == ("invalid", f"{which}: launch 2, cache: {BAD.reason}")


def test_records_of_two_runs_are_judged_only_when_asked() -> None:
    base, head = record(run="monday"), record(run="tuesday", values=(50.0, 51.0, 49.0))
    assert by_metric(base, head)["ttft"].settled == "inconclusive"
    assert "not measured together" in by_metric(base, head)["ttft"].reason
    found = by_metric(base, head, apart=True)["output_throughput"]
    assert found.apart
    assert [row.verdict for row in gate.judge([found], Looks())] == ["regress"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"params": {"model": "tiny-qwen3", "prompts": 32}}, "params.prompts was 16, now 32"),
        ({"options": {"dtype": "bfloat16", "native": {}}}, "options.dtype was 'float32', now 'bfloat16'"),
        ({"lane": "carried"}, "lane was 'cpu', now 'carried'"),
    ],
)
def test_what_differs_is_refused_by_name(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(NotComparable, match=words):
        cells.cells(side(record()), side(record(**changes)))
    some = cells.cells(side(record(), record("sglang")), side(record(**changes), record("sglang")))
    assert [cell.reason for cell in some if cell.settled == "invalid"] == [f"single_turn/tiny-16: {words}" + (
        ": records cannot be compared" if "lane" not in changes else "")]  # fmt: skip


def test_another_machine_is_refused() -> None:
    other = record().machine.model_copy(update={"cores": 999})
    with pytest.raises(NotComparable, match=r"machine.cores was \d+, now 999"):
        cells.cells(side(record()), side(record(machine=other)))


FAILED = {("single_turn/tiny-16", "vllm"): [Failure(case="single_turn/tiny-16", engine="vllm", pair=1, error="died in "
                                                    "start\n--- the end", log="/x/1.log")]}  # fmt: skip
REFUSED = record(launches=[launch(1, 1.0, samples={}, unsupported="no device memory", certificates={})])


@pytest.mark.parametrize(
    ("base", "head", "verdict", "words"),
    [
        (side(), side(record()), None, "base has no such benchmark"),
        (side(record()), side(), "inconclusive", "head has no such benchmark"),
        (side(record()), side(failures=FAILED), "regress", "fails on head alone: died in start (log: /x/1.log)"),
        (side(failures=FAILED), side(record()), None, "base failed, head does not"),
        (side(failures=FAILED), side(failures=FAILED), "invalid", "fails on both: died in start"),
        (side(record()), side(record(), failures=FAILED), "invalid", "1 launch(es) failed on head: died in start"),
        (side(record()), side(REFUSED), "regress", "head cannot do this: no device memory"),
        (side(REFUSED), side(record()), None, "base could not do this, head can"),
        (side(REFUSED), side(REFUSED), None, "not supported: no device memory"),
        (side(), side(REFUSED), None, "unsupported on head; base: absent"),
        (side(), side(failures=FAILED), "invalid", "failed on head; base: absent"),
    ],
)
def test_a_case_without_figures_on_a_side(base: Side, head: Side, verdict: str | None, words: str) -> None:
    found = only(base, head)
    assert (found.settled, found.new) == (verdict, verdict is None)
    assert words in found.reason


def test_a_metric_that_one_side_lacks() -> None:
    base = record(launches=[launch(n, 1.0, samples={"ttft": [1.0], "energy": [1.0]}) for n in (1, 2)])
    head = record(launches=[launch(n, 1.0, samples={"ttft": [1.0], "latency": [1.0]}) for n in (1, 2)])
    found = by_metric(base, head)
    assert found["latency"].new
    assert (found["energy"].settled, found["energy"].reason) == ("inconclusive", "head does not give it any more")


def test_no_ratio_of_what_is_not_positive() -> None:
    base, head = (record(launches=[launch(n, 1.0, samples={"ttft": [v]}) for n in (1, 2)]) for v in (0.0, 1.0))
    assert by_metric(base, head)["ttft"].reason == "no ratio: a launch's value is not above 0"


def test_old_and_new_tokens_have_no_direction_and_no_cell() -> None:
    held = record(launches=[launch(1, 1.0, samples={"ttft": [1.0], "tokens_old": [0.5]})])
    assert "tokens_old" not in by_metric(held, held)


def test_a_side_is_read_from_a_folder_or_a_file(tmp_path: Path) -> None:
    path = store.save(record(), tmp_path)
    store.save(record("sglang"), tmp_path)
    (tmp_path / "alien.json").write_text("{}")
    (tmp_path / cells.FAILED).write_text(FAILED[("single_turn/tiny-16", "vllm")][0].model_dump_json() + "\n")
    whole = cells.read(tmp_path)
    assert {engine for _, engine in whole.records} == {"vllm", "sglang"}
    assert [*whole.failures] == [("single_turn/tiny-16", "vllm")]
    assert "alien.json: not a record" in whole.skipped[0]
    assert [*cells.read(path).records] == [("single_turn/tiny-16", "vllm")]
    assert [*cells.read(tmp_path, engines=["sglang"]).records] == [("single_turn/tiny-16", "sglang")]


def test_the_newest_record_of_a_case_counts(tmp_path: Path) -> None:
    old, new = record(), record(started=record().ended, values=(1.0, 1.0))
    for found in (new, old):
        store.save(found, tmp_path)
    assert cells.read(tmp_path).records[("single_turn/tiny-16", "vllm")] == new


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"path": "nowhere"}, "no such record or folder"),
        ({"path": "."}, "holds no records"),
        ({"path": "full", "engines": ["sglang"]}, "holds no records of what was asked for"),
        ({"path": "damaged"}, "cannot be read"),
    ],
)
def test_a_side_without_records_is_a_mistake(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    store.save(record(), tmp_path / "full")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / cells.FAILED).write_text("{")
    path = tmp_path / arguments["path"] if arguments["path"] != "." else tmp_path / "damaged" / ".." / "empty"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        cells.read(path, engines=arguments.get("engines", ()))


def test_a_version_bump_is_told() -> None:
    base, head = side(record()), side(record(versions={"torch": "2.14.0", "vllm": "0.33.0"}))
    assert cells.upgrades(base, head) == ["vllm: its environment differs (torch 2.13.0 to 2.14.0, vllm none to 0.33.0)"]
    assert cells.upgrades(base, side(record(lock_hash="other")))[0].endswith("(another lock, the same versions)")
    assert cells.upgrades(base, base) == []
