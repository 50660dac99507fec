"""An engine without a model, for tests of the harness itself: same seam, same contract, no figures worth keeping.

A token is a hash of the prompt and of the number of syncs before it, which stands for the weights, so that outputs are
repeatable and depend on every prompt token. `native={"seconds_per_token": …}` makes it take time; other native options
make it fail, so that faults can be tested.
`native={"memory": FILE}` gives it a device: FILE says how many MiB of it are in use. `native={"segment": NAME}` has it
leave that in shared memory.
"""

import asyncio
import hashlib
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from harness.rollouts import Answer
from harness.worker.engines import Options, Report, Sampling, unheard

VOCAB = 2048
BLOCK = 16  # tokens in a block of the prefix cache
HELD = {"rest": 500, "weights": 1000, "kv_cache": 4000, "cuda_graphs": 100}  # MiB


class Fake:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.native: Options = {}

    def start(self, model: str, load_format: str, options: Options, device: str) -> Options:
        self.native = options.get("native", {})
        self.caching = options.get("prefix_caching", True)
        self.cache: set[bytes] = set()
        self.answers = self.naps = 0
        self.asleep: set[str] = set()
        self.weights_right = True
        self.answers = self.version = self.running = self.aborts = 0
        self.going, self.idle = asyncio.Event(), asyncio.Event()
        self.going.set()
        self.idle.set()
        if self.native.get("die_at_start"):
            raise RuntimeError("the fake engine was told to die at its start")
        if "segment" in self.native:
            self.segment = Path("/dev/shm", self.native["segment"]).open("wb")  # noqa: SIM115, held to the end
        self._hold()
        return {"vocab_size": VOCAB, "max_model_len": options.get("max_model_len"), **self.native}

    async def answer(self, ids: list[int], count: int, sampling: Sampling, report: Report = unheard) -> Answer:
        self.answers += 1
        if self.asleep:
            raise RuntimeError("the fake engine was asked in its sleep")
        if self.answers == self.native.get("die_at_answer"):
            print("the fake engine was told to die now", flush=True)
            os._exit(9)
        time.sleep(3600 if self.answers == self.native.get("hang_at_answer") else self.native.get("block", 0))
        cached, aborts = self._look_up(ids), self.aborts
        stamps, versions = list[float](), list[int]()
        self.running += 1
        self.idle.clear()
        try:
            for step in [1] * count if sampling.stream else [1, count - 1]:
                await asyncio.sleep(step * self.native.get("seconds_per_token", 0.0))
                await self.going.wait()
                if aborts != self.aborts:
                    return Answer([], ids, len(ids), 0, first=math.nan, done=time.perf_counter(), aborted=True)
                stamps.append(time.perf_counter())
                versions += [self.version] * step
                report(len(versions))
        finally:
            self.running -= 1
            if not self.running:
                self.idle.set()
        return self._finish(ids, versions, cached, stamps, sampling)

    def _finish(
        self, ids: list[int], versions: list[int], cached: int, stamps: list[float], sampling: Sampling
    ) -> Answer:
        count = len(versions) - self.native.get("tokens_short", 0)
        draws_VT = {version: self._draws(ids, version if self.weights_right else -1, count) for version in versions}
        draws = np.array([draws_VT[version][i] for i, version in enumerate(versions[:count])], np.uint32)
        return Answer(
            (draws % VOCAB).tolist(),
            prompt_ids=ids[: -1 if self.native.get("prompt_cut") else None],
            prompt=len(ids),
            cached=cached,
            first=stamps[0],
            done=time.perf_counter(),
            queued=0.0,
            logprobs=(-(draws / 2**30)).tolist() if sampling.logprobs else (),
            stamps=stamps if sampling.stream else (),
        )

    @staticmethod
    def _draws(ids: list[int], version: int, count: int) -> Any:
        digest = hashlib.shake_128(np.asarray([*ids, *[version] * bool(version)], "<i4").tobytes()).digest(4 * count)
        return np.frombuffer(digest, "<u4")

    def preemptions(self) -> int:
        return 0

    def memory(self) -> dict[str, float]:
        return {}

    def weights(self, request: Options, flush: bool) -> list[Any]:
        if "memory" not in self.native or request != {"do": "sync"}:
            raise NotImplementedError("the fake engine holds no weights")
        self.weights_right = True
        return []

    def straight(self, wanted: bool) -> bool:
        return False

    def adapt(self, path: str) -> None:
        raise NotImplementedError("the fake engine holds no weights to adapt")

    async def pause(self, mode: str) -> None:
        if mode == "drain":
            await self.idle.wait()
        elif mode == "abort":
            self.aborts += 1
            await self.idle.wait()
        else:
            self.going.clear()

    async def resume(self) -> None:
        self.going.set()

    async def take(self, request: Options) -> list[Any]:
        """Of requests it knows the sync, which stands for other weights."""
        if request["do"] != "sync":
            raise NotImplementedError("the fake engine holds no weights")
        begun = time.perf_counter()
        await asyncio.sleep(self.native.get("seconds_per_sync", 0.0))
        self.version += 1
        return [{"worker": time.perf_counter() - begun}]

    async def forget(self, running: bool) -> bool:
        refused = self.running and (not running or self.native.get("refuses_recompute"))
        if not refused:
            self.flush()
        return not refused

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("the fake engine has no calls of its own")

    def sleep(self, released: dict[str, str]) -> None:
        if released and "memory" not in self.native:
            raise NotImplementedError("the fake engine holds no memory of a device")
        time.sleep(0 if self.naps else self.native.get("slow_first", 0))
        self.naps += 1
        self.asleep |= released.keys() or {"all"}
        if released.get("weights") == "discarded" or self.native.get("forgets"):
            self.weights_right = False
        if "kv_cache" in released and not self.native.get("keeps_cache"):
            self.cache.clear()
        self._hold()

    def wake(self, parts: list[str]) -> None:
        self.asleep -= set(parts) or {"all"}
        self._hold()

    def _hold(self) -> None:
        """Say how much memory is in use."""
        if "memory" in self.native:
            asleep = set() if self.native.get("frees_nothing") else self.asleep
            used = sum(mib for part, mib in HELD.items() if part not in asleep)
            told = b"%9d" % (used + self.naps * self.native.get("leaks", 0))
            file = os.open(
                self.native["memory"], os.O_WRONLY | os.O_CREAT
            )  # in place: to truncate it may wait for a disk
            os.pwrite(file, told, 0)
            os.close(file)

    def _look_up(self, ids: list[int]) -> int:
        """Prompt tokens found in the prefix cache, whole blocks only, never the last token; then remember them."""
        keys = list(self._blocks(ids))
        hits = next((i for i, key in enumerate(keys) if key not in self.cache), len(keys))
        if self.caching:
            self.cache.update(keys)
        return min(hits * BLOCK, (len(ids) - 1) // BLOCK * BLOCK)

    @staticmethod
    def _blocks(ids: list[int]) -> Iterable[bytes]:
        digest = hashlib.sha256()
        for start in range(0, len(ids) - BLOCK + 1, BLOCK):
            digest.update(np.asarray(ids[start : start + BLOCK], "<i4").tobytes())
            yield digest.digest()

    def flush(self) -> None:
        if not self.native.get("flush_does_nothing"):
            self.cache.clear()

    def close(self) -> None:
        if "memory" in self.native:
            Path(self.native["memory"]).write_text("0")
