"""Invented records in any number, for tests of reports and for their time and memory:
`python -m tests.synthetic FOLDER NUMBER`. Their machines are called synthetic-…: they are no results."""

import random
import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from itertools import count, islice
from pathlib import Path
from typing import Any

from harness import scenario, store
from harness.machine import Machine
from harness.metrics import METRICS
from harness.plots import PHASES
from harness.record import Certificate, Commit, Launch, Record
from tests.factory import START

MACHINES = {  # by GPUs
    "synthetic-2-gpus": ("Synthetic GPU 80GB",) * 2,
    "synthetic-8-gpus": ("Synthetic GPU 141GB",) * 8,
    "synthetic-cpu": (),
}
SPEED = {"synthetic-2-gpus": 1.0, "synthetic-8-gpus": 1.4, "synthetic-cpu": 0.02}
ENGINES = {"sglang": 1.0, "vllm": 0.85}
SIZE = {"0.5B": 1.0, "1.5B": 3.0, "7B": 15.4, "8B": 16.1, "30B": 61.0, "70B": 141.0}  # GB
CERTIFICATES = ("workload", "counts", "cache", "client", "steady", "gpu", "load", "clean")
INFERENCE = (
    "output_throughput", "total_throughput", "step_time", "ttft", "tpot", "latency", "cache_share", "bubble_share",
    "peak_memory", "host_memory", "startup",
)  # fmt: skip
HELD = {
    "weight_sync": ("sync_latency", "sync_worker", "sync_floor_ratio", *PHASES["weight_sync"][0].metrics),
    "sleep_wake": ("sleep_time", "wake_time", "throughput_kept", *PHASES["sleep_wake"][0].metrics),
    "rl_step": (
        "rl_throughput",
        "step_time",
        "reward_held_out",
        *PHASES["rl_step"][0].metrics,
        *PHASES["rl_step"][1].metrics,
    ),
    "inflight_sync": ("sync_gap", "sync_pause", "tokens_lost", "output_throughput"),
}
FLAGS = {f"synthetic_flag_{number}": "a value of no meaning, as long as they are" for number in range(60)}


def records(number: int) -> Iterator[Record]:
    """Every case that a machine can run, on each engine; then all of them again on the next commit."""
    cells = [
        (machine, name, engine)
        for machine, gpus in MACHINES.items()
        for name, case in _cases().items()
        for engine in ENGINES
        if (case[0] <= len(gpus)) and bool(case[0]) == bool(gpus)
    ]
    endless = ((*cell, turn) for turn in count() for cell in cells)
    return (record(*cell) for cell in islice(endless, number))


def record(machine: str, name: str, engine: str, turn: int) -> Record:
    gpus, params, options = _cases()[name]
    kind = name.partition("/")[0]
    chance = random.Random(f"{machine} {name} {engine} {turn}")
    started = START + timedelta(hours=turn, seconds=chance.randrange(3000))
    size = next((gb * 1e9 for words, gb in SIZE.items() if words in params["model"]), 1.7e7)
    launches = [
        _launch(chance, kind, number, params, SPEED[machine] * ENGINES[engine], size, started) for number in (1, 2, 3)
    ]
    return Record(
        run=f"{machine}-{name}-{turn}", case=name, scenario=kind, engine=engine, params=params, options=options,
        flags=FLAGS, lane="carried" if gpus else "cpu", versions={engine: "0.0.0", "torch": "0.0.0"}, lock_hash="",
        machine=Machine(id=machine, cpu="Synthetic CPU", cores=8, ram_gib=64, gpus=MACHINES[machine], driver="0",
                        kernel="0"),
        commit=Commit(id=f"{turn:07x}" + "0" * 33, tree="0" * 40, dirty=False), started=started,
        ended=started + timedelta(minutes=9), launches=launches,
    )  # fmt: skip


@cache
def _cases() -> dict[str, tuple[int, dict[str, Any], dict[str, Any]]]:
    return {
        name: (case.gpus, case.params(), case.options.of("") | {"native": dict(case.options.native)})
        for name, case in scenario.cases().items()
    }


def _launch(
    chance: random.Random, kind: str, number: int, params: dict[str, Any], speed: float, size: float, started: Any
) -> Launch:
    batch = params.get("concurrency") or params.get("prompts") or params.get("conversations") or 8
    rate = 60_000 * speed * batch / (batch + 64) / (1 + size / 2e9)
    floor = size / 1.5e12
    levels = {
        "output_throughput": rate, "total_throughput": 2 * rate, "step_time": 1e5 / rate, "ttft": batch * 12 / rate,
        "tpot": batch / rate, "latency": 100 * batch / rate, "cache_share": 0.4, "bubble_share": 0.2,
        "sync_latency": 2 * floor + 2e-3 / speed, "sync_worker": 2 * floor + 1e-3, "sync_bandwidth": size / floor / 2e9,
        "memory_asleep": 1.4, "memory_awake": 40.0, "memory_waking": 3 + size / 1e9, "throughput_kept": 1.0,
    }  # fmt: skip
    noise = chance.gauss(1, 0.02)
    held = HELD.get(kind, INFERENCE)
    samples = {
        name: [float(f"{levels.get(name, floor + 1e-3) * noise * chance.gauss(1, 0.01):.6g}") for _ in range(8)]
        for name in held
        if name in METRICS
    }
    fine = Certificate(ok=True, figure=0, reason="invented, as all of this record is")
    link = {"link": {"bytes": int(size), "floor_s": floor}}
    return Launch(
        order=number, pair=number, started=started + timedelta(minutes=number), boot_id="none",
        ended=started + timedelta(minutes=number + 1), certificates=dict.fromkeys(CERTIFICATES, fine), samples=samples,
        facts=link if kind == "weight_sync" else {},
    )  # fmt: skip


def write(records: Iterator[Record], root: Path) -> int:
    """Write them as `store.save` would, without waiting for the disk; how many."""
    number = 0
    for number, found in enumerate(records, 1):
        path = root / found.machine.id / found.case / f"{found.engine}-{found.started:%Y%m%dT%H%M%SZ}-{number:08x}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(store.dump(found))
    return number


if __name__ == "__main__":
    print(write(records(int(sys.argv[2])), Path(sys.argv[1])))
