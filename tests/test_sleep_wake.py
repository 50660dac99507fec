"""Sleep and wake on the fake, whose memory is a number in a file: figures, certificates, and engines that cannot."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import sleep_wake
from benchmarks.sleep_wake import CASES, SleepWake, differences, slope
from harness import compare, envs, machine, runner, store
from harness.link import Link
from harness.metrics import METRICS
from harness.record import Launch, Record
from harness.rig import Rig
from harness.scenario import Options
from harness.worker import options as table
from harness.worker.engines.sglang import SGLang
from harness.worker.engines.vllm import VLLM
from tests.calls import batch, played

FIRST = ("sleep_first", "wake_first", "host_taken")
WEIGHTS, CACHE, REST = 1000, 4100, 500  # MiB of the fake; CUDA graphs with the cache here
Case = Callable[..., SleepWake]


class Sender:
    """A link whose sync brings the fake's weights back, or does nothing."""

    def __init__(self, rig: Rig, works: bool) -> None:
        self.rig, self.works = rig, works

    def update(self, step: int) -> None:
        pass

    def sync(self) -> dict[str, float]:
        if self.works:
            self.rig.worker.call("weights", 20, request={"do": "sync"}, flush=True)
        return {"sync_latency": 0.25, "sync_send": 0.1}


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A case on the fake with a device of its own; keywords go to the case, `fake` to the engine."""
    file = tmp_path / "mib"
    monkeypatch.setattr(machine, "device_memory_mib", lambda: [int(file.read_text() or 0) if file.is_file() else 0])
    monkeypatch.setattr("harness.rig.PAUSE", 0.0)
    monkeypatch.setattr("harness.rig.SETTLE", 0.1)
    monkeypatch.setattr(sleep_wake, "weights_gib", lambda model, dtype: WEIGHTS / 1024)
    monkeypatch.setattr(Rig, "link", lambda self, transport, how, senders: Sender(self, works=transport == "ipc"))

    def made(fake: dict[str, Any] | None = None, **changes: Any) -> SleepWake:
        native = {"fake": {"memory": str(file), **(fake or {})}}
        return SleepWake(
            model="tiny-qwen3", gpus=1, prompts=3, input_tokens=20, output_tokens=4, options=Options(native=native),
            **changes,
        )  # fmt: skip

    return made


def run(
    root: Path, scenario: SleepWake, launches: int = 1, resume: bool = False
) -> tuple[list[Record], int, list[str]]:
    said: list[str] = []
    plan = runner.Run([envs.find("fake")], launches, root, resume, 20, lambda text: None, said.append)
    written, missing = plan.cases({"sleep_wake/test": scenario})
    return [store.load(path) for path in written], missing, said


def measured(root: Path, scenario: SleepWake) -> Launch:
    (record,), missing, _ = run(root, scenario)
    assert missing == 0
    assert record.launches[0].samples.keys() <= METRICS.keys()
    return record.launches[0]


def ok(launch: Launch) -> dict[str, bool | None]:
    return {name: launch.certificates[name].ok for name in ("outputs", "freed", "leak", "cache", "workload", "counts")}


def test_a_launch_gives_times_memory_and_speed(case: Case, tmp_path: Path) -> None:
    launch = measured(tmp_path, case({"slow_first": 0.2}))
    samples = launch.samples
    assert ok(launch) == dict.fromkeys(ok(launch), True)
    for name in ("sleep_time", "wake_time", "sleep_cycle", "throughput_kept", "output_throughput"):
        assert len(samples[name]) == 10
        assert min(samples[name]) > 0
    assert samples["memory_asleep"] == pytest.approx([(REST + 100) / 1024] * 10, abs=1e-5)
    assert samples["memory_awake"] == pytest.approx([5600 / 1024] * 10, abs=1e-5)
    assert samples["memory_slope"] == [0]
    assert samples["sleep_first"][0] >= 0.2 > 10 * max(samples["sleep_time"])
    assert len(samples["wake_first"]) == len(samples["host_taken"]) == 1
    assert "sync_latency" not in samples
    assert [round(a + b, 9) for a, b in zip(samples["sleep_time"], samples["wake_time"], strict=True)] == pytest.approx(
        samples["sleep_cycle"], rel=1e-3
    )
    assert launch.facts["cycles"][0]["sleep"] == pytest.approx(samples["sleep_first"][0], rel=1e-4)


def test_the_first_sleep_of_a_launch_is_told_by_the_case_that_begins_it(case: Case, tmp_path: Path) -> None:
    staged = {"sleep_wake/one": case(), "sleep_wake/two": case(staged=True)}
    plan = runner.Run([envs.find("fake")], 2, tmp_path, False, 20, lambda text: None, lambda text: None)
    one, two = (store.load(path) for path in plan.cases(staged)[0])
    told = [[name in launch.samples for launch in record.launches] for record in (one, two) for name in FIRST]
    assert told == [[True, False]] * len(FIRST) + [[False, True]] * len(FIRST)  # launches begin with one in turn
    assert all("sleep_time" in launch.samples for record in (one, two) for launch in record.launches)


@pytest.mark.parametrize(
    ("fake", "red", "words"),
    [
        ({"frees_nothing": True}, "freed", "0.00 GiB of device memory freed"),
        ({"forgets": True}, "outputs", "8 of 8 prompts answered otherwise"),
        ({"keeps_cache": True}, "outputs", "from a prefix cache whose memory was discarded"),
        ({"leaks": 5}, "leak", "+5.00 MiB a cycle"),
    ],
)
def test_what_goes_wrong_turns_its_certificate_red(
    case: Case, tmp_path: Path, fake: dict[str, Any], red: str, words: str
) -> None:
    launch = measured(tmp_path, case(fake))
    assert {name for name, held in ok(launch).items() if held is False} == {red}
    assert words in launch.certificates[red].reason


def test_discarded_weights_need_a_sync_that_works(case: Case, tmp_path: Path) -> None:
    launch = measured(tmp_path / "good", case(weights="discarded"))
    assert ok(launch) == dict.fromkeys(ok(launch), True)
    assert launch.samples["sync_latency"] == [0.25] * 10
    assert min(launch.samples["sleep_cycle"]) > 0.25
    launch = measured(tmp_path / "bad", case(weights="discarded", transport="shm"))
    assert ok(launch)["outputs"] is False


def test_staged_waking_needs_less_until_the_weights_are_in_place(case: Case, tmp_path: Path) -> None:
    peaks = [
        measured(tmp_path / str(staged), case(weights="discarded", cuda_graphs="released", staged=staged)).samples
        for staged in (True, False)
    ]
    assert [max(samples["memory_waking"]) * 1024 for samples in peaks] == pytest.approx(
        [REST + WEIGHTS, REST + WEIGHTS + CACHE], abs=0.1
    )
    assert [max(samples["memory_awake"]) * 1024 for samples in peaks] == pytest.approx([5600, 5600], abs=0.1)


def test_what_a_sender_takes_is_not_the_engines(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, joint = machine.device_memory_mib, list[Sender]()

    def joined(self: Rig, transport: str, how: str, senders: int) -> Sender:
        assert senders == 8
        joint.append(Sender(self, works=True))
        return joint[-1]

    monkeypatch.setattr(Rig, "link", joined)
    monkeypatch.setattr(machine, "device_memory_mib", lambda: [engine()[0] + 700 * bool(joint)])
    launch = measured(tmp_path, case(weights="discarded", senders=8))
    assert launch.facts["sender_gib"] == pytest.approx(700 / 1024, abs=1e-3)
    assert launch.samples["memory_asleep"] == pytest.approx([(REST + 100) / 1024] * 10, abs=1e-3)


def test_a_pause_frees_nothing_and_says_so(case: Case, tmp_path: Path) -> None:
    launch = measured(tmp_path, case(weights="kept", kv_cache="kept"))
    assert launch.certificates["freed"].reason == "nothing was to be freed"
    assert launch.samples["memory_asleep"] == pytest.approx([5600 / 1024] * 10, abs=1e-5)
    assert "host_taken" not in launch.samples
    assert ok(launch)["outputs"] is True


def test_without_a_gpu_nothing_can_have_been_freed(case: Case, tmp_path: Path) -> None:
    launch = measured(tmp_path, replace(case(), gpus=0))
    assert launch.certificates["freed"].ok is False
    assert not any(name.startswith("memory_") for name in launch.samples)


def test_an_engine_that_cannot_leaves_a_record_of_its_words(tmp_path: Path) -> None:
    (record,), missing, said = run(tmp_path, CASES["tiny"], launches=3)
    words = "the fake engine holds no memory of a device"
    assert (missing, len(record.launches), record.good) == (0, 1, [])
    assert record.unsupported == record.launches[0].unsupported == words
    assert record.launches[0].error is None
    assert f"launch 1 of 3: fake: not supported: {words}" in said
    assert sum("skipped, it cannot do this" in line for line in said) == 2
    (shown,), notes = compare.side_by_side([record])
    assert notes == [f"not supported: sleep_wake/test on fake: {words}"]
    assert "all hold" not in compare.markdown(shown)


def test_what_an_engine_cannot_do_is_not_asked_again_when_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner.store, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, CASES["tiny"], launches=2)
    monkeypatch.undo()
    (record,), missing, said = run(tmp_path, CASES["tiny"], launches=2, resume=True)
    assert missing == 0
    assert len(record.launches) == 1
    told = [
        line for line in said if not line.startswith("the files are not those of a commit")
    ]  # nor are they, at work
    assert [line.partition(": ")[2] for line in told[1:]] == [
        "fake is there from the interrupted run", "fake skipped, it cannot do this",
    ]  # fmt: skip


def test_an_engine_that_never_started_is_in_the_record_by_its_versions(tmp_path: Path) -> None:
    class Refused(SleepWake):
        def refusal(self, text: str) -> str | None:
            return "told to die" if "told to die at its start" in text else None

    options = Options(native={"fake": {"die_at_start": True}})
    (record,), missing, _ = run(tmp_path, Refused(model="tiny-qwen3", options=options), launches=2)
    assert missing == 0
    assert record.unsupported == "told to die"
    assert record.flags == {}
    assert "numpy" in record.versions


def test_a_mere_failure_stays_one(case: Case, tmp_path: Path) -> None:
    written, missing, said = run(tmp_path, case({"die_at_answer": 20}))
    assert (written, missing) == ([], 1)
    assert not any("not supported" in line for line in said)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("  Value error, Sleep mode is not supported on current platform. [type=value_error, …]",
         "Sleep mode is not supported on current platform"),
        ("TypeError: AsyncLLM.sleep() got an unexpected keyword argument 'tags'",
         "AsyncLLM.sleep() got an unexpected keyword argument 'tags'"),
        ("AttributeError: 'LLMEngine' object has no attribute 'release_kv_cache_memory'",
         "'LLMEngine' object has no attribute 'release_kv_cache_memory'"),
        ("TypeError: AsyncEngineArgs.__init__() got an unexpected keyword argument 'sleep_mode_offload_cudagraph'",
         "got an unexpected keyword argument 'sleep_mode_offload_cudagraph'"),
        ("/a/python: error while loading shared libraries: libcuda.so.1: cannot open shared object file: No such file"
         "\nmore", "error while loading shared libraries: libcuda.so.1: cannot open shared object file: No such file"),
        ("torch.OutOfMemoryError: CUDA out of memory", None),
        ("RuntimeError: Rank 0 scheduler died during initialization (exit code: 127).", None),
    ],
)  # fmt: skip
def test_an_engines_own_words_are_told_from_a_failure(text: str, words: str | None) -> None:
    assert CASES["tiny"].refusal(f"vllm: start failed\n{text}\n") == words


def test_options_follow_from_what_is_released() -> None:
    base = SleepWake(model="tiny-qwen3")
    kept = replace(base, weights="kept")
    assert [case.options.sleep for case in (base, kept)] == ["backed_up", True]
    assert replace(kept, weights="backed_up").options.sleep == "backed_up"
    assert replace(kept, kv_cache="kept").options.sleep is False
    assert replace(base, cuda_graphs="released").options.native == {"vllm": {"sleep_mode_offload_cudagraph": True}}
    backup, discard = (
        table.flags("sglang", replace(base, weights=how).options.of("sglang"), "cuda")  # type: ignore[arg-type]
        for how in ("backed_up", "discarded")
    )
    assert backup.items() - discard.items() == {("enable_weights_cpu_backup", True)}
    assert discard["enable_memory_saver"] is True


def test_waking_in_stages_needs_two_parts_released() -> None:
    for changes in ({"weights": "kept"}, {"kv_cache": "kept"}):
        with pytest.raises(ValueError, match="both the weights and the KV cache"):
            SleepWake(model="tiny-qwen3", staged=True, **changes)  # type: ignore[arg-type]


def test_only_a_sync_has_a_transport() -> None:
    base = SleepWake(model="tiny-qwen3")
    assert "transport" not in base.params()
    assert replace(base, weights="discarded").params()["transport"] == "ipc"


BOTH, KV = {"weights": "discarded", "kv_cache": "discarded"}, {"kv_cache": "discarded"}


@pytest.mark.parametrize(
    ("released", "vllm", "sglang"),
    [
        ({}, [("sleep", {"level": 0})], None),
        (BOTH | {"weights": "backed_up"}, [("sleep", {"level": 1})], ["weights", "kv_cache"]),
        (BOTH, [("sleep", {"level": 2})], ["weights", "kv_cache"]),
        (BOTH | {"cuda_graphs": "released"}, [("sleep", {"level": 2})], ["weights", "kv_cache", "cuda_graph"]),
        (KV, [("sleep", {"level": 0}), ("release_kv_cache_memory", {})], ["kv_cache"]),
        ({"weights": "discarded"}, [("sleep", {"level": 2, "tags": ["weights"]})], ["weights"]),
    ],
)
def test_each_engine_is_asked_in_its_own_words(
    released: dict[str, str], vllm: list[Any], sglang: list[str] | None
) -> None:
    done: list[Any] = []
    one: Any = VLLM()
    one._do = lambda name, **arguments: done.append((name, arguments))
    one.sleep(released)
    assert done == vllm
    one.wake(list(released))
    tags = [part for part in released if part != "cuda_graphs"] or ["scheduling"]
    assert done[-1] == ("wake_up", {"tags": tags})
    if sglang is not None:
        other: Any = SGLang()
        other.engine = SimpleNamespace(release_memory_occupation=done.append, resume_memory_occupation=done.append)
        other.sleep(released)
        other.wake(list(released))
        assert done[-2:] == [sglang, sglang]


def test_outputs_are_compared_up_to_where_they_part() -> None:
    requests = batch(3, tokens=4)
    logprobs = np.full((3, 4), -1.0, np.float32)
    before = played(requests, logprobs_BT=logprobs)
    tokens, other = before.tokens_BT.copy(), logprobs.copy()
    tokens[1, 2] = 8
    other[1, 2], other[1, 3], other[0, 0] = -1.5, -9.0, -1.25
    assert differences(before, before) == (0, 0.0)
    assert differences(before, replace(before, tokens_BT=tokens, logprobs_BT=other)) == (1, 0.5)
    assert differences(before, replace(before, logprobs_BT=np.full((3, 4), np.nan, np.float32))) == (0, 99.0)


def test_slope_is_that_of_a_line() -> None:
    assert slope([1.0, 1.5, 2.0]) == 0.5
    assert slope([3.0]) == 0.0


def test_the_most_of_a_moment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    used = [3, 1]
    monkeypatch.setattr(machine, "device_memory_mib", lambda: list(used))
    with machine.Watch() as watch:
        used[:] = [9, 0]
        deadline = time.monotonic() + 10
        while watch.most[0] != 9 and time.monotonic() < deadline:
            time.sleep(machine.WATCHED_EVERY)
        used[:] = [4, 2]
    assert watch.most == [9, 2]


def test_the_senders_interface_is_that_of_a_link() -> None:
    assert {"update", "sync"} <= set(dir(Link))
