"""Each engine's own benchmark against rollbench: the same model, flags and shapes, in fresh launches that take turns.

Both sides run with the engine's prefix cache off, because the tools draw prompts from few tokens and repeat them, and
with a tokenizer, because the tools send text. The text is random letters and digits, each of them one token.
"""

import random
import statistics
import string
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from harness import machine, models, stats
from harness.client import Worker
from harness.envs import Environment, find
from harness.errors import LaunchFailed, UserError, nearest
from harness.rig import LEFT_OVER_MIB, SETTLE, Rig
from harness.scenario import Scenario, cases, main_job
from harness.worker.engines import load

Tell = Callable[[str], None]
TOOLS = {"vllm": "vllm bench throughput", "sglang": "sglang.bench_offline_throughput"}
SAME = (0.95, 1.05)  # ratios that count as the same speed
WARMUP, STEPS = 2, 3  # of rollbench in each launch; the tools time one pass
TIMEOUT = 900.0
SWITCHES = ["--disable-detokenize"]  # of vLLM's tool: rollbench gives back token ids, never text
TOKENIZER = {engine: {"skip_tokenizer_init": False} for engine in TOOLS}


@dataclass(frozen=True)
class Way:
    """One way to measure the case: `measure()` makes a fresh launch and returns its output tok/s, step by step.
    `mends`: what the tool does otherwise than rollbench, and this way does not."""

    name: str
    measure: Callable[[], list[float]]
    mends: str = ""


def job(gpus: int) -> Scenario:
    """The main job's case; on a CPU with enough work in it that one pass takes seconds."""
    case = cases()[main_job(gpus)[0]]
    if not gpus:
        case = replace(case, prompts=64, output_tokens=128)  # type: ignore[call-arg]
    return replace(case, options=replace(case.options, prefix_caching=False, native=TOKENIZER))


def conversations(count: int, tokens: int, seed: int = 0) -> list[dict[str, Any]]:
    """A data set as both tools read it (ShareGPT's form): prompts of exactly `tokens` tokens of our byte tokenizer."""
    draw = random.Random(seed)
    alphabet = string.ascii_letters + string.digits  # nothing that a tokenizer cleans up
    texts = ["".join(draw.choices(alphabet, k=tokens)) for _ in range(count)]
    return [{"conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": text}]} for text in texts]


def tok_per_s(engine: str, measured: Mapping[str, Any], params: Mapping[str, Any]) -> float:
    """Output tok/s from what a tool reported. Raises LaunchFailed where it did other work than it was asked."""
    prompts, inputs, outputs = (params[name] for name in ("prompts", "input_tokens", "output_tokens"))
    if engine == "vllm":
        done, seconds = (measured["num_requests"], measured["total_num_tokens"]), measured["elapsed_time"]
        wanted: tuple[int, ...] = (prompts, prompts * (inputs + outputs))
    else:
        names = ("successful_requests", "total_input_tokens", "total_output_tokens")
        done, seconds = tuple(measured[name] for name in names), measured["total_latency"]
        wanted = (prompts, prompts * inputs, prompts * outputs)
    if done != wanted:
        raise LaunchFailed(f"{TOOLS[engine]} did {done} (requests, tokens) where {wanted} were asked for")
    return float(prompts * outputs / seconds)


def through(environment: Environment, case: Scenario, tell: Tell, warmup: int = WARMUP) -> list[float]:
    """Output tok/s of the steps of one launch through rollbench."""
    with Rig(environment, case.model, case.options, log(environment.engine), TIMEOUT, tell) as rig:
        found = [case.step(rig, index)["output_throughput"] for index in range(warmup + STEPS)]
    return found[warmup:]


def own(environment: Environment, case: Scenario, tell: Tell, **changes: Any) -> list[float]:
    """Output tok/s of the one pass that the engine's own tool times in one launch. `changes` go over the job."""
    engine, model, params = environment.engine, models.find(case.model), case.params()
    options, device, adapter = case.options.of(engine), environment.device, cast(Any, load(engine))
    tell(f"waiting for {TOOLS[engine]}")
    before = machine.device_memory_mib()
    rig = Rig(environment, case.model, case.options, log(engine), TIMEOUT, tell)  # never started: it knows variables
    asked = {name: params[name] for name in ("prompts", "input_tokens", "output_tokens", "temperature", "seed")} | {
        "model": model.path,
        "flags": adapter.flags(model.load_format, options, device),
        "environment": adapter.environment(options, device),
        "data": conversations(WARMUP * params["prompts"], params["input_tokens"]),
        "warmup": WARMUP * params["prompts"],
        "switches": SWITCHES,
        "rehearse": 0,
    }
    with Worker(engine, environment.python, log(f"{engine}-own-tool"), rig.variables(model.local), environment.paths,
                module="harness.worker.own_tool") as worker:  # fmt: skip
        measured = worker.ask(asked | changes, TIMEOUT)
    freed(before)
    return [tok_per_s(engine, measured, params)]


def freed(before: Sequence[int]) -> None:
    """Let the device get the memory of ended processes back before the next launch counts on it."""
    deadline = time.monotonic() + SETTLE
    while time.monotonic() < deadline:
        left = [now - then for now, then in zip(machine.device_memory_mib(), before, strict=False)]
        if max(left, default=0) <= LEFT_OVER_MIB:
            return
        time.sleep(0.1)


def log(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"rollbench-crosscheck-{name}.log"


def in_turn(ways: Sequence[Way], launches: int, tell: Tell) -> dict[str, list[list[float]]]:
    """Output tok/s of each launch of each way: there and back again (ABBA), so that a machine that changes slowly
    touches all of them alike."""
    found: dict[str, list[list[float]]] = {way.name: [] for way in ways}
    for launch in range(launches):
        for way in ways if launch % 2 == 0 else ways[::-1]:
            tell(f"{way.name}, launch {launch + 1} of {launches}")
            found[way.name].append(way.measure())
    return found


def ways(engine: str, gpus: int, tell: Tell) -> list[Way]:
    """Rollbench, the tool as it is, and the tool without the habits that may set it apart."""
    environment, case, tool = find(engine), job(gpus), TOOLS[engine]
    plain = partial(own, environment, case, tell)
    found = [Way("rollbench", lambda: through(environment, case, tell)), Way(tool, plain)]
    if engine == "sglang":
        rehearsed = partial(plain, rehearse=WARMUP)
        found.append(Way(f"{tool} behind {WARMUP} more passes", rehearsed, "its warm-up is 16 short prompts"))
    elif case.options.multiprocessing:
        alike = partial(plain, switches=[*SWITCHES, "--async-engine"])
        found.append(Way(f"{tool} --async-engine", alike, "its engine is the synchronous one"))
    return found


def line(name: str, ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> tuple[bool, str]:
    """Whether both sides are the same speed, and the figures, those of each launch among them."""
    ratio = stats.ratio(ours, theirs, paired=True)
    interval = f" [{ratio.low:.3f}, {ratio.high:.3f}]" if ratio.low is not None else ""
    shown = [", ".join(f"{statistics.median(launch):.0f}" for launch in side) for side in (ours, theirs)]
    return (
        SAME[0] <= ratio.point <= SAME[1],
        f"output tok/s of rollbench / {name}: {ratio.point:.3f}{interval}, {ratio.launches} pairs "
        f"({shown[0]} / {shown[1]})",
    )


def report(engines: Sequence[str], gpus: int, launches: int, tell: Tell) -> Iterator[tuple[bool, str]]:
    """A line for each tool, and whether rollbench measures the same speed. Where it does not, a line more for each
    habit of the tool that may be why, with what is measured without it."""
    for engine in engines:
        if engine not in TOOLS:
            raise UserError(f"{engine} brings no benchmark of its own: {nearest(engine, TOOLS)}")
    for engine in engines:
        ours, tool, *others = ways(engine, gpus, tell)
        found = in_turn([ours, tool], launches, tell)
        same, text = line(tool.name, found[ours.name], found[tool.name])
        yield same, f"{text} (target {SAME[0]} to {SAME[1]})"
        for other in () if same else others:
            found = in_turn([ours, other], launches, tell)
            yield True, f"{line(other.name, found[ours.name], found[other.name])[1]} (the tool: {other.mends})"
