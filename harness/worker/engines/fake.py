"""An engine without a model, for tests of the harness itself: same seam, same contract, no figures worth keeping.

A token is a hash of all that stands before it, so that outputs are repeatable and depend on every prompt token.
`native={"seconds_per_token": …}` makes it take time; other native options make it fail, so that faults can be tested.
`native={"memory": FILE}` gives it a device: FILE says how many MiB of it are in use.
"""

import asyncio
import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from harness.rollouts import Answer
from harness.worker.engines import Options, Sampling

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
        if self.native.get("die_at_start"):
            raise RuntimeError("the fake engine was told to die at its start")
        self._hold()
        return {"vocab_size": VOCAB, "max_model_len": options.get("max_model_len"), **self.native}

    async def answer(self, ids: list[int], count: int, sampling: Sampling) -> Answer:
        self.answers += 1
        if self.asleep:
            raise RuntimeError("the fake engine was asked in its sleep")
        if self.answers == self.native.get("die_at_answer"):
            print("the fake engine was told to die now", flush=True)
            os._exit(9)
        time.sleep(3600 if self.answers == self.native.get("hang_at_answer") else self.native.get("block", 0))
        cached, per_token = self._look_up(ids), self.native.get("seconds_per_token", 0.0)
        await asyncio.sleep(per_token)
        first = time.perf_counter()
        stamps = [first]
        if sampling.stream:
            for _ in range(count - 1):
                await asyncio.sleep(per_token)
                stamps.append(time.perf_counter())
        else:
            await asyncio.sleep(per_token * (count - 1))
        return self._finish(ids, count, cached, stamps, sampling)

    def _finish(self, ids: list[int], count: int, cached: int, stamps: list[float], sampling: Sampling) -> Answer:
        count -= self.native.get("tokens_short", 0)
        salt = b"" if self.weights_right else b"other weights"
        digest = hashlib.shake_128(np.asarray(ids, "<i4").tobytes() + salt).digest(4 * count)
        draws = np.frombuffer(digest, "<u4")
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

    def preemptions(self) -> int:
        return 0

    def memory(self) -> dict[str, float]:
        return {}

    def weights(self, request: Options, flush: bool) -> list[Any]:
        if "memory" not in self.native or request != {"do": "sync"}:
            raise NotImplementedError("the fake engine holds no weights")
        self.weights_right = True
        return []

    def adapt(self, path: str) -> None:
        raise NotImplementedError("the fake engine holds no weights to adapt")

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
            Path(self.native["memory"]).write_text(str(used + self.naps * self.native.get("leaks", 0)))

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
