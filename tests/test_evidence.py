"""Records as reports need them: the newest of each cell, a history of what can be compared."""

from datetime import timedelta
from pathlib import Path

import pytest

from harness import evidence, store
from harness.errors import UserError
from harness.record import Certificate, Commit
from tests import synthetic
from tests.factory import START, launch, record


def later(hours: int, **changes: object) -> object:
    return record(
        started=START + timedelta(hours=hours), commit=Commit(id=f"c{hours}", tree="", dirty=False), **changes
    )


def test_newest_and_history_by_engine(tmp_path: Path) -> None:
    for made in (later(2), later(1), record("sglang"), later(3, params={"model": "tiny-qwen3", "requests": 9})):
        store.save(made, tmp_path)  # type: ignore[arg-type]
    found = evidence.read(tmp_path)
    (key,) = found.cases()
    assert {engine: entry.commit for engine, entry in found.newest(key).items()} == {"sglang": "c0ffee", "vllm": "c3"}
    assert [entry.commit for entry in found.history(key)["vllm"]] == ["c3"]  # the others measured something else


def test_history_is_in_order_of_time(tmp_path: Path) -> None:
    for made in (later(2), later(1), later(3)):
        store.save(made, tmp_path)  # type: ignore[arg-type]
    found = evidence.read(tmp_path)
    past = found.history(found.cases()[0])["vllm"]
    assert [entry.commit for entry in past] == ["c1", "c2", "c3"]
    assert past[0].values["output_throughput"] == (100.0, 101.0, 99.0)


def test_records_of_several_schema_versions_are_one_history(tmp_path: Path) -> None:
    old = record(params={"model": "tiny-qwen3", "requests": 16}, options={"dtype": "float32"})
    path = store.save(old, tmp_path)
    text = path.read_text()
    assert '"prompts"' in text  # a record has today's names once it is read; so it is put back to those of its time
    path.write_text(text.replace('"prompts"', '"requests"'))
    new = record(started=START + timedelta(hours=1), params=old.params | {"rate": 0}, options=old.options)
    store.save(new, tmp_path)
    found = evidence.read(tmp_path)
    assert len(found.history(found.cases()[0])["vllm"]) == 2


def test_one_case_with_two_models_is_two_cells(tmp_path: Path) -> None:
    for model in ("tiny-qwen3", "tiny-llama"):
        store.save(record(params={"model": model}), tmp_path)
    assert [key.model for key in evidence.read(tmp_path).cases()] == ["tiny-llama", "tiny-qwen3"]


def test_what_is_no_record_is_passed_over_with_its_reason(tmp_path: Path) -> None:
    path = store.save(record(), tmp_path)
    (path.parent / "gone.json").symlink_to(tmp_path / "nowhere.json")
    (tmp_path / "alien.json").write_text("{}")
    found = evidence.read(tmp_path)
    assert len(found.entries) == 1
    assert len(found.skipped) == 2
    assert "alien.json: not a record" in found.skipped[0]
    assert "gone.json: cannot be read: No such file" in found.skipped[1]
    assert str(tmp_path) not in "".join(found.skipped)


def test_a_record_that_goes_after_it_was_read_is_one_clear_error(tmp_path: Path) -> None:
    path = store.save(record(), tmp_path)
    found = evidence.read(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        found.load(found.entries[0])


def test_a_broken_certificate_leaves_no_values(tmp_path: Path) -> None:
    bad = launch(1, 100, certificates={"cache": Certificate(ok=False, figure=5, reason="5 tokens")})
    store.save(record(launches=[bad]), tmp_path)
    assert evidence.read(tmp_path).entries[0].values == {}


def test_several_processes_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic.write(synthetic.records(30), tmp_path)
    (tmp_path / "alien.json").write_text("{}")
    alone = evidence.read(tmp_path)
    monkeypatch.setattr(evidence, "MANY", 10)
    monkeypatch.setattr(evidence, "CHUNK", 7)
    together = evidence.read(tmp_path)
    assert together.entries == alone.entries
    assert together.skipped == alone.skipped


def test_numbers_in_names_sort_as_numbers() -> None:
    names = ["tiny-64", "7B-16", "tiny-2", "0.5B-512", "0.5B-16", "tiny"]
    assert sorted(names, key=evidence.natural) == ["0.5B-16", "0.5B-512", "7B-16", "tiny", "tiny-2", "tiny-64"]


def test_an_unknown_scenario_has_headlines_too() -> None:
    assert evidence.headlines("new", ["step_time", "ttft", "startup"]) == ["step_time", "ttft", "startup"]
    assert evidence.headlines("weight_sync", ["startup", "sync_latency"]) == ["sync_latency"]


def test_what_is_no_number_is_left_out() -> None:
    assert evidence.finite([[1.0, float("nan")], [float("inf")], []]) == [[1.0]]


def red(*names: str) -> dict[str, object]:
    """A launch for each certificate that does not hold in it."""
    wrong = {name: Certificate(ok=False, figure=1, reason="+20% from the first to the last step") for name in names}
    return {"launches": [launch(i, 100.0, certificates={name: wrong[name]}) for i, name in enumerate(names, 1)]}


def test_a_record_that_the_machine_spoilt_stands_behind_an_older_one(tmp_path: Path) -> None:
    def shown() -> tuple[str, list[str]]:
        found = evidence.read(tmp_path)
        (key,) = found.cases()
        return found.newest(key)["vllm"].commit, [entry.commit for entry in found.set_aside(key)["vllm"]]

    store.save(later(1, **red("steady")), tmp_path)  # type: ignore[arg-type]
    assert shown() == ("c1", [])  # there is no other
    store.save(later(2), tmp_path)  # type: ignore[arg-type]
    store.save(later(3, **red("load")), tmp_path)  # type: ignore[arg-type]
    assert shown() == ("c2", ["c3"])
    store.save(later(4, **red("steady", "steady")), tmp_path)  # type: ignore[arg-type]
    assert shown() == ("c4", [])  # one launch drifts by chance, not two
    store.save(later(5, **red("proof")), tmp_path)  # type: ignore[arg-type]
    assert shown() == ("c5", [])  # wrong outputs are nothing of the machine's
    store.save(later(6, **red("load")), tmp_path)  # type: ignore[arg-type]
    assert shown() == ("c6", [])  # and what is wrong stands before nothing
    other = {"model": "tiny-qwen3", "prompts": 9}
    store.save(later(7, params=other, **red("gpu")), tmp_path)  # type: ignore[arg-type]
    assert shown() == ("c7", [])  # measured something else
