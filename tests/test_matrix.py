"""The feature matrix: what proves a yes, what does not, and the launches that fill it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness import envs, evidence, machine, matrix, runner, scenario, standings, store
from harness.envs import PAIR
from harness.matrix import Cell
from harness.matrix_commands import within
from harness.probes import PROBES, Probe, State, root_cause
from harness.record import Certificate, Record
from harness.scenario import Scenario
from tests import synthetic
from tests.commands import rollbench
from tests.factory import launch, record

FINE, RED = Certificate(ok=True, figure=0, reason="fine"), Certificate(ok=False, figure=1, reason="128 apart")
RL = {"proof": FINE, "mismatch": FINE}


def probed(case: str, *, params: dict[str, Any] | None = None, **changes: Any) -> Record:
    """A record of one launch of vLLM on this machine."""
    fields = {name: changes.pop(name) for name in ("flags", "options", "engine", "machine") if name in changes}
    of_case = {"model": "tiny-qwen3"} | (params or {})
    one = launch(1, 100.0, **changes)
    return record(case=case, scenario=case.partition("/")[0], params=of_case, launches=[one], **fields)


def judged(root: Path, feature: str, *records: Record, gpus: int = 0) -> Cell:
    for one in records:
        store.save(one, root)
    found = list(standings.standings(evidence.read(root)))
    return matrix.cell(PROBES[feature], "vllm", found, gpus)


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({"certificates": RL}, State.YES, "1 launch"),
        ({"certificates": {"mismatch": FINE}}, State.INVALID, "launch 1, proof: not judged"),
        ({"certificates": RL | {"proof": Certificate(ok=None, figure=0, reason="too few")}}, State.INVALID, "too few"),
        ({"certificates": RL | {"cache": RED}}, State.INVALID, "launch 1, cache: 128 apart"),
        ({"unsupported": "cannot sleep", "samples": {}}, State.NO, "cannot sleep"),
        ({"error": "vllm: died (log: x)\n--- the end:\nValueError: no such way\nat line 3", "samples": {}},
         State.FAILED, "ValueError: no such way"),
    ],
)  # fmt: skip
def test_what_a_record_says(tmp_path: Path, changes: dict[str, Any], state: State, words: str) -> None:
    found = judged(tmp_path, "GRPO", probed("rl_step/tiny-grpo", **changes))
    assert (found.state, words in found.words) == (state, True), found
    assert (tmp_path / found.path).is_file()
    assert bool(found.case) == (state not in (State.YES, State.NO))  # what is decided is not measured again


def test_what_a_machine_lacks_is_counted_in_gpus() -> None:
    assert "needs 2 GPUs, this machine has 1" in matrix.cell(PROBES["FSDP2 training"], "vllm", [], 1).words
    assert "rl_step/tiny-grpo-ranks" in matrix.cell(PROBES["FSDP2 training"], "vllm", [], 0).words
    assert "needs 1 GPU, this machine has none" in matrix.cell(PROBES["attention fa3"], "vllm", [], 0).words


def test_a_yes_counts_before_a_no(tmp_path: Path) -> None:
    refused = probed("rl_step/tiny-grpo-lora", unsupported="not this way", samples={})
    assert judged(tmp_path, "LoRA", refused).state == State.NO
    assert judged(tmp_path, "LoRA", probed("adapter_sync/tiny-lora", certificates=RL)).state == State.YES


def test_a_feature_must_have_been_on(tmp_path: Path) -> None:
    case = "single_turn/tiny-16-speculative"
    assert judged(tmp_path / "a", "speculative decoding", probed(case)).state == State.INVALID
    on = probed(case, flags={"speculative_method": "ngram"})
    assert judged(tmp_path / "b", "speculative decoding", on).state == State.YES
    alone = probed("single_turn/0.5B-128-tp2", flags={"tensor_parallel_size": 1})
    assert judged(tmp_path / "c", "tensor parallel", alone).state == State.INVALID
    for share, state in ((0.0, State.INVALID), (0.4, State.YES)):
        cached = probed("multi_turn/tiny-shared", samples={"cache_share": [share]})
        assert judged(tmp_path / str(share), "prefix caching", cached).state == state


def test_a_transport_is_its_parameter_not_its_name(tmp_path: Path) -> None:
    own = probed("weight_sync/0.5B-own-vllm-ipc", params={"transport": "vllm_ipc"}, certificates=RL)
    assert judged(tmp_path, "transport ipc", own).state == State.IMPOSSIBLE
    assert judged(tmp_path, "transport vllm_ipc").state == State.YES


def test_an_attention_backend_is_proved_by_whoever_used_it(tmp_path: Path) -> None:
    gpu = machine.fingerprint().model_copy(update={"gpus": ("NVIDIA H100",)})
    used = probed("single_turn/0.5B-512", flags={"attention_backend": ["FLASH_ATTN"]}, machine=gpu)
    assert judged(tmp_path, "attention fa3", used, gpus=1).state == State.YES
    other = judged(tmp_path, "attention flashinfer", gpus=1)
    assert (other.state, other.case) == (State.NONE, "single_turn/0.5B-128-flashinfer")


@pytest.mark.parametrize(
    ("feature", "gpus", "state", "words"),
    [
        ("GRPO", 0, State.NONE, "rl_step/tiny-grpo would tell"),
        ("GRPO", 1, State.NONE, "rl_step/0.5B-grpo would tell"),
        ("tensor parallel", 1, State.IMPOSSIBLE, "needs 2 GPUs, this machine has 1"),
        ("attention fa3", 0, State.IMPOSSIBLE, "needs 1 GPU, this machine has none"),
        ("transport sglang_disk", 0, State.IMPOSSIBLE, "another engine's own way"),
        ("Megatron training", 8, State.NONE, "trainers/ has FSDP2 alone"),
        ("multi-node", 8, State.NONE, "every machine was one node"),
    ],
)
def test_why_there_is_no_record(tmp_path: Path, feature: str, gpus: int, state: State, words: str) -> None:
    found = judged(tmp_path, feature, gpus=gpus)
    assert (found.state, found.words) == (state, words)


@pytest.mark.parametrize("probe", PROBES.values(), ids=lambda probe: probe.feature)
def test_every_probe_has_a_case_or_says_why(probe: Probe) -> None:
    assert bool(probe.why) != any(probe.candidates(engine) for engine in PAIR)
    for pattern in probe.cases:
        assert any(name in scenario.cases() for engine in PAIR for name in probe.candidates(engine)), pattern


def test_root_cause_is_the_engines_own_error() -> None:
    log = (
        "vllm: died (log: x)\nTraceback\nAssertionError: needs SM>=80\nRuntimeError: init failed. See root cause above"
    )
    assert root_cause(log) == "AssertionError: needs SM>=80"
    assert root_cause("vllm: no answer within 5 s (log: x)\nall is well") == "vllm: no answer within 5 s (log: x)"


def test_tables_are_whole_and_show_hostile_text_as_text(results: Path) -> None:
    synthetic.write(synthetic.records(700), results)
    store.save(probed("rl_step/tiny-grpo", unsupported="<b>[x](y)|\u202e\x1b[31m", samples={}), results)
    done = rollbench("matrix", "--markdown", "--all")
    assert done.returncode == 0, done.stderr
    _, *tables = done.stdout.split("**features on ")
    assert len(tables) == 4  # this machine and three invented ones
    assert all(part.count("\n| ") == len(PROBES) + 2 for part in tables)
    shown = done.stdout + rollbench("matrix").stdout
    assert not any(bad in shown for bad in ("\u202e", "\x1b"))
    assert "<b>" not in done.stdout


@pytest.mark.skipif(bool(machine.gpu_names()), reason="its cases would be those for a GPU")
def test_the_command_measures_what_is_missing_once(results: Path) -> None:
    chosen = "matrix", "-e", "fake", "--feature", "sleep level 1 (w*", "--feature", "speculative decoding"
    assert rollbench(*chosen).stdout.count("not measured") == 2
    done = rollbench(*chosen, "--run")
    assert done.returncode == 0, done.stderr
    assert "no: the fake engine holds no memory of a device [1]" in done.stdout
    assert len(store.files(results)) == 2
    again = rollbench(*chosen[:5], "--run")
    assert "nothing to measure" in again.stdout
    assert len(store.files(results)) == 2


def test_mistakes_are_one_line(results: Path) -> None:
    done = rollbench("matrix", "--feature", "GRP")
    assert (done.returncode, done.stderr) == (2, "rollbench: no feature 'GRP': did you mean GRPO?\n")
    assert rollbench("matrix", "-e", "vlm").stderr == "rollbench: no engine 'vlm': did you mean vllm?\n"


@dataclass(frozen=True, kw_only=True)
class Slow(Scenario):
    def step(self, rig: Any, index: int) -> dict[str, float]:
        rig.worker  # noqa: B018, starts it
        time.sleep(30)
        return {"step_time": 30.0}


def test_a_probe_that_takes_too_long_leaves_a_record_that_says_so(tmp_path: Path) -> None:
    began = time.monotonic()
    run = runner.Run([envs.find("fake")], 1, tmp_path, False, 60, lambda _: None, lambda _: None, failures=True)
    with within(3):
        (path,), failed = run.cases({"single_turn/slow": Slow(model="tiny-qwen3")})
    assert time.monotonic() - began < 15
    assert (failed, store.load(path).good) == (1, [])
    assert "not done within 3 s" in (store.load(path).launches[0].error or "")
