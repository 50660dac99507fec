"""Both engines on one case, as asv wants it: costs, lower is better, one sample a launch.

Each commit's own harness measures. Eight launches a side: with six, asv's test cannot call anything different, however
large the change. `ROLLBENCH_ASV_CASE` and `ROLLBENCH_ASV_ENGINES` name others than the main job of a CPU.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

LAUNCHES = 8
CASE = os.environ.get("ROLLBENCH_ASV_CASE", "single_turn/tiny-1")
ENGINES = os.environ.get("ROLLBENCH_ASV_ENGINES", "sglang,vllm").split(",")
COSTS: dict[str, Callable[[float], float]] = {  # metric of a record: what it costs
    "output_throughput": lambda tokens: 1000 / tokens,
    "ttft": lambda seconds: seconds * 1000,
    "peak_memory": lambda gib: gib,
}
Costs = dict[str, dict[str, list[float]]]  # engine, metric: a value a launch


def rollbench(*arguments: str) -> None:
    """The command line of the tree that is measured."""
    tree = os.environ["ASV_BUILD_DIR"]
    environment = os.environ | {"PYTHONPATH": tree}
    subprocess.run([sys.executable, "-m", "harness.cli", *arguments], check=True, cwd=tree, env=environment)


class Rollout:
    """One case on each engine, their launches in turn."""

    params = ENGINES
    param_names = ("engine",)
    timeout = 3600

    def setup_cache(self) -> Costs:
        with tempfile.TemporaryDirectory() as folder:
            for engine in ENGINES:
                rollbench("env", engine)  # built from the tree's own lock where it is missing
            engines = (f"--engine={engine}" for engine in ENGINES)
            rollbench("run", CASE, *engines, f"--launches={LAUNCHES}", f"--results={folder}")
            records = [json.loads(path.read_text()) for path in Path(folder).rglob("[a-z]*.json")]
        found: Costs = {record["engine"]: {name: [] for name in COSTS} for record in records if "launches" in record}
        for record in records:
            for launch in record.get("launches", ()):
                for name, cost in COSTS.items():
                    if launch["samples"].get(name):
                        found[record["engine"]][name].append(cost(statistics.median(launch["samples"][name])))
        return found

    setup_cache.timeout = 3600  # type: ignore[attr-defined]

    def track_seconds_per_1k_tokens(self, found: Costs, engine: str) -> dict[str, object]:
        return _samples(found[engine]["output_throughput"])

    def track_ttft_ms(self, found: Costs, engine: str) -> dict[str, object]:
        return _samples(found[engine]["ttft"])

    def track_peak_memory_gib(self, found: Costs, engine: str) -> dict[str, object]:
        return _samples(found[engine]["peak_memory"])

    track_seconds_per_1k_tokens.unit = "s"  # type: ignore[attr-defined]
    track_ttft_ms.unit = "ms"  # type: ignore[attr-defined]
    track_peak_memory_gib.unit = "GiB"  # type: ignore[attr-defined]


def _samples(values: list[float]) -> dict[str, object]:
    """As asv keeps them; too few to test is a failure, not a pass."""
    if len(values) < LAUNCHES:
        raise RuntimeError(f"{len(values)} of {LAUNCHES} launches gave figures")
    return {"samples": values, "number": 1}
