"""An engine without a model, for tests of the harness itself: same seam, same contract, no figures worth keeping.

A token is a hash of all that stands before it, so that outputs are repeatable and depend on every prompt token.
`native={"seconds_per_token": …}` makes it take time; other native options make it fail, so that faults can be tested.
"""

import hashlib
import os
import time
from collections.abc import Iterable

import numpy as np

from harness.rollouts import Finished, Prompts, Rollouts, gather
from harness.worker.engines import Options

VOCAB = 2048
BLOCK = 16  # tokens in a block of the prefix cache


class Fake:
    def start(self, model: str, load_format: str, options: Options, device: str) -> Options:
        self.native: Options = options.get("native", {})
        self.caching = options.get("prefix_caching", True)
        self.cache: set[bytes] = set()
        self.calls = 0
        if self.native.get("die_at_start"):
            raise RuntimeError("the fake engine was told to die at its start")
        return {"vocab_size": VOCAB, "max_model_len": options.get("max_model_len"), **self.native}

    def generate(self, prompts: Prompts, temperature: float, logprobs: bool) -> Rollouts:
        start = time.perf_counter()
        self.calls += 1
        if self.calls == self.native.get("die_at_call"):
            print("the fake engine was told to die now", flush=True)
            os._exit(9)
        time.sleep(3600 if self.calls == self.native.get("hang_at_call") else 0)
        lists, tokens_per_second = prompts.lists, self.native.get("seconds_per_token", 0.0)
        time.sleep(tokens_per_second * int(prompts.output_B.max(initial=0)))
        finished = [
            self._finish(ids, int(n), start, logprobs) for ids, n in zip(lists, prompts.output_B.tolist(), strict=True)
        ]
        return gather(finished, lists, time.perf_counter() - start)

    def _finish(self, ids: list[int], count: int, start: float, logprobs: bool) -> Finished:
        count -= self.native.get("tokens_short", 0)
        cached = self._look_up(ids)
        first = time.perf_counter() - start
        digest = hashlib.shake_128(np.asarray(ids, "<i4").tobytes()).digest(4 * count)
        draws = np.frombuffer(digest, "<u4")
        scores = (-(draws / 2**30)).tolist() if logprobs else ()
        return Finished((draws % VOCAB).tolist(), len(ids), cached, first, time.perf_counter() - start, scores)

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
        pass
