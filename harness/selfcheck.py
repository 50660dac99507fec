"""What the harness itself costs: an empty call, a step around the fake engine, and an engine with and without it."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from harness import models, stats
from harness.client import Worker
from harness.envs import Environment, find
from harness.inference import Inference
from harness.rig import Rig
from harness.scenario import Options, cases, main_job
from harness.shapes import SHAPES
from harness.worker.engines import load

CALLS = 1000
DIRECT_STEPS = 10  # of each launch, through rollbench and directly
STEPS, STEP_SECONDS = 1000, 0.25  # of the fake engine: shorter than a step of any real engine in the main job
Tell = Callable[[str], None]


def empty_call(tell: Tell) -> float:
    """Seconds of a call that does nothing, median of CALLS."""
    with _rig(find("fake"), "tiny-qwen3", Options(), tell) as rig:
        times = []
        for _ in range(CALLS):
            start = time.perf_counter()
            rig.worker.call("echo", 10)
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def overhead(tell: Tell, steps: int = STEPS) -> float:
    """The share of a run's wall time that is not the engine's, over `steps` steps of the main CPU job on the fake."""
    case = cases()["single_turn/tiny-16"]
    tokens = case.params()["output_tokens"]
    options = Options(native={"fake": {"seconds_per_token": STEP_SECONDS / tokens}})
    with _rig(find("fake"), case.model, options, tell) as rig:
        case.step(rig, 0)
        start, busy = time.perf_counter(), 0.0
        for index in range(1, steps + 1):
            busy += case.step(rig, index)["step_time"]
            if index % 100 == 0:
                tell(f"fake engine, step {index} of {steps}")
        wall = time.perf_counter() - start
    return (wall - busy) / wall


def against_direct(engine: str, gpus: int, launches: int, tell: Tell) -> stats.Estimate:
    """Output tok/s through rollbench over that of the engine called directly in its own process: same flags, same
    prompts. Both processes are fresh for each launch and alive together, and take their steps in turn (ABBA), so that
    what else the machine does hits both."""
    environment, case = find(engine), cast(Inference, cases()[main_job(gpus)[0]])
    case = replace(case, options=replace(case.options, memory_fraction=0.4))  # both are on the GPU at once
    through, direct = [], []
    for launch in range(launches):
        tell(f"{engine} through rollbench and directly, launch {launch + 1} of {launches}")
        pairs = list(_in_turn(environment, case, tell))[case.warmup :]
        through.append([pair["through"] for pair in pairs])
        direct.append([pair["direct"] for pair in pairs])
    return stats.ratio(through, direct, paired=True)


def _in_turn(environment: Environment, case: Inference, tell: Tell) -> Iterator[dict[str, float]]:
    """For each step its output tok/s both ways."""
    vocab = SHAPES[case.model].vocab
    with _rig(environment, case.model, case.options, tell) as rig, _direct(rig, case) as direct:
        ways: list[tuple[str, Callable[[int], float]]] = [
            ("through", lambda index: case.step(rig, index)["output_throughput"]),
            ("direct", lambda index: direct(case.requests((case.seed, index), vocab).new)),
        ]
        for index in range(case.warmup + DIRECT_STEPS):
            yield {name: measure(index) for name, measure in (ways if index % 2 else ways[::-1])}


@contextmanager
def _direct(rig: Rig, case: Inference) -> Iterator[Callable[[list[list[int]]], float]]:
    """A function that gives a batch to the engine in a process of its own, and returns its output tok/s."""
    engine, model = rig.environment.engine, models.find(case.model)
    options, device, adapter = case.options.of(engine), rig.environment.device, cast(Any, load(engine))
    job = {
        "model": model.path,
        "flags": adapter.flags(model.load_format, options, device),
        "environment": adapter.environment(options, device),
        "temperature": case.temperature,
        "output_tokens": case.params()["output_tokens"],
    }
    with Worker(engine, rig.environment.python, rig.log.with_suffix(".direct.log"), rig.variables(local=True),
                rig.environment.paths, module="harness.worker.direct") as worker:  # fmt: skip
        worker.call("start", rig.timeout, job=job)
        yield lambda batch: float(worker.call("throughput", rig.timeout, batch=batch).value)


def _rig(environment: Environment, model: str, options: Options, tell: Tell) -> Rig:
    log = Path(tempfile.gettempdir()) / f"rollbench-selfcheck-{environment.engine}.log"
    return Rig(environment, model, options, log, 900, tell)


def report(engines: Sequence[str], gpus: int, launches: int, tell: Tell) -> Iterator[tuple[bool, str]]:
    """Each check's line, and whether its target was met."""
    call = empty_call(tell)
    yield call < 0.3e-3, f"empty call: {call * 1e3:.3f} ms, median of {CALLS} (target under 0.3 ms)"
    share = overhead(tell)
    yield share < 0.01, f"overhead: {share:.2%} over {STEPS} steps of {STEP_SECONDS} s on the fake (target under 1 %)"
    for engine in engines:
        found = against_direct(engine, gpus, launches, tell)
        interval = f" [{found.low:.3f}, {found.high:.3f}]" if found.low is not None else ""
        text = f"{engine} output tok/s through rollbench / directly: {found.point:.3f}{interval}, {launches} pairs"
        yield found.point >= 0.98, f"{text} (target at least 0.98)"
