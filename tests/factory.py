"""Records for tests, as a run on the fake would write them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from harness import machine
from harness.record import Certificate, Commit, Launch, Record

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def launch(order: int, value: float, pair: int | None = None, **changes: Any) -> Launch:
    fields: dict[str, Any] = {
        "order": order,
        "pair": pair or order,
        "started": START + timedelta(minutes=order),
        "ended": START + timedelta(minutes=order, seconds=30),
        "boot_id": "boot",
        "certificates": {"cache": Certificate(ok=True, figure=0, reason="0 tokens")},
        "samples": {"output_throughput": [value * 0.99, value, value * 1.01], "ttft": [1 / value]},
    }
    return Launch(**(fields | changes))


def record(engine: str = "vllm", values: tuple[float, ...] = (100.0, 101.0, 99.0), **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "schema_version": 1,
        "run": "run",
        "case": "single_turn/tiny-16",
        "scenario": "single_turn",
        "engine": engine,
        "params": {"model": "tiny-qwen3", "prompts": 16},
        "options": {"dtype": "float32", "native": {}},
        "flags": {"seed": 0},
        "lane": "cpu",
        "versions": {"torch": "2.13.0"},
        "lock_hash": "abc",
        "machine": machine.fingerprint(),
        "commit": Commit(id="c0ffee", tree="7ee", dirty=False),
        "started": START,
        "ended": START + timedelta(minutes=9),
        "launches": [launch(i, value) for i, value in enumerate(values, 1)],
    }
    return Record(**(fields | changes))
