"""What the harness itself does often: a call over the wire, a record written and read, many records compared.

`nox -s speed` runs the same under pytest-benchmark (tests/speed).
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from harness import compare, store
from harness.client import Worker
from harness.envs import find
from harness.record import Record

MANY = 10_000
RECORD: dict[str, Any] = {
    "schema": 1, "run": "run", "case": "single_turn/tiny-16", "scenario": "single_turn", "engine": "vllm",
    "params": {"model": "tiny-qwen3", "prompts": 16}, "options": {"dtype": "float32", "native": {}}, "flags": {},
    "lane": "cpu", "versions": {"torch": "2.13.0"}, "lock_hash": "abc",
    "machine": {"id": "asv", "cpu": "cpu", "cores": 4, "ram_gib": 16.0, "gpus": [], "driver": "", "kernel": "6"},
    "commit": {"id": "c0ffee", "tree": "7ee", "dirty": False},
    "started": "2026-01-02T03:04:05Z", "ended": "2026-01-02T03:14:05Z",
    "launches": [
        {"order": n, "pair": n, "started": "2026-01-02T03:04:05Z", "ended": "2026-01-02T03:05:05Z", "boot_id": "boot",
         "samples": {"output_throughput": [100.0 + n] * 8, "ttft": [0.1] * 8}}
        for n in range(1, 6)
    ],
}  # fmt: skip


class Paths:
    """What needs a folder of its own. Nine samples, never six, for asv's test could not tell; each in a process of its
    own, some time apart, for a process may be slow as a whole."""

    repeat = 1
    rounds = 9

    def setup(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rollbench-speed-"))

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


class Wire(Paths):
    """A call that does nothing."""

    def setup(self) -> None:
        super().setup()
        self.worker = Worker("fake", find("fake").python, self.folder / "log")
        self.time_empty_call()

    def teardown(self) -> None:
        self.worker.end()
        super().teardown()

    def time_empty_call(self) -> None:
        self.worker.call("echo", 10)


class Records(Paths):
    """One record, to the disk and back."""

    def setup(self) -> None:
        super().setup()
        self.record = Record.model_validate(RECORD)
        self.path = store.save(self.record, self.folder)

    def time_save(self) -> None:
        store.save(self.record, self.folder)

    def time_load(self) -> None:
        store.load(self.path)


class Many:
    """The newest of each case among many records, and their table: three samples in each of three processes."""

    repeat: ClassVar[tuple[int, int, float]] = (3, 3, 20.0)
    rounds = 3
    timeout = 600
    number = 1

    def setup_cache(self) -> str:
        """Written once, into the current folder: that takes longer than what is timed."""
        folder = Path("asv").absolute()
        folder.mkdir()
        text = store.dump(Record.model_validate(RECORD))
        for n in range(MANY):
            held = text.replace("single_turn/tiny-16", f"single_turn/tiny-{n % 20}").replace(
                "03:14:05", f"03:{n % 40 + 14}:05"
            )
            (folder / f"{n}.json").write_text(held)
        return str(folder.parent)

    def time_compare_10000(self, root: str) -> None:
        records, _ = compare.latest(Path(root), "asv")
        compare.side_by_side(records)
