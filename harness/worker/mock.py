"""A mock engine that keeps time and does nothing else: what it costs is next to nothing, so that lateness is the load
generator's. `Mock` runs in the client's own process, `OverHTTP` asks one that harness/worker/mock_server.py serves."""

import asyncio
import importlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from harness.rollouts import Answer
from harness.worker.engines import Report, Sampling, unheard
from harness.worker.engines.fake import Fake

FIRST, PER_TOKEN = 0.02, 0.01  # seconds


async def beats(count: int, lags: list[float] | None = None) -> AsyncIterator[float]:
    """The moments at which a request gets its `count` tokens, on `time.perf_counter()`; each counts from the request's
    start, so that a late one makes no other later. `lags` takes how late each was."""
    start = time.perf_counter()
    for token in range(count):
        due = start + FIRST + token * PER_TOKEN
        if (left := due - time.perf_counter()) > 0:
            await asyncio.sleep(left)
        now = time.perf_counter()
        if lags is not None:
            lags.append(now - due)
        yield now


class Mock(Fake):
    """The mock in the client's process, as an engine stands in a worker."""

    async def answer(self, ids: list[int], count: int, sampling: Sampling, report: Report = unheard) -> Answer:
        return _answer(ids, [moment async for moment in beats(count)])


class OverHTTP(Fake):
    """The mock behind HTTP, asked as `vllm bench serve` asks: same library, same connections, every message parsed."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self.loop.run_until_complete(self._connect())

    async def _connect(self) -> None:
        """Open the session and send a test request without a name, as the tool does before its schedule begins."""
        aiohttp: Any = importlib.import_module("aiohttp")  # only in the environments that have it
        self.session: Any = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=600),
        )
        self.names: Iterator[str] = itertools.repeat("")
        await self.answer([0], 1, Sampling())
        self.names = map(str, itertools.count(1))

    async def answer(self, ids: list[int], count: int, sampling: Sampling, report: Report = unheard) -> Answer:
        asked = {"model": "mock", "prompt": ids, "max_tokens": count, "stream": True, "ignore_eos": True}
        stamps: list[float] = []
        unread = b""
        async with self.session.post(self.url, json=asked, headers={"x-request-id": next(self.names)}) as response:
            async for data in response.content.iter_any():
                found, unread = messages(unread + data)
                for message in found:
                    if message.get("choices"):
                        stamps.append(time.perf_counter())
        return _answer(ids, stamps)

    def close(self) -> None:
        self.loop.run_until_complete(self.session.close())


def messages(data: bytes) -> tuple[list[dict[str, Any]], bytes]:
    """The whole messages of a stream of server-sent events, and the bytes of one that has not ended."""
    *whole, rest = data.split(b"\n\n")
    return list(_parsed(whole)), rest


def _parsed(events: list[bytes]) -> Iterator[dict[str, Any]]:
    for event in events:
        text = event.removeprefix(b"data: ")
        if text != b"[DONE]":
            yield json.loads(text)


def _answer(ids: list[int], stamps: list[float]) -> Answer:
    return Answer(
        [0] * len(stamps), prompt_ids=ids, prompt=len(ids), cached=0, first=stamps[0], done=stamps[-1], stamps=stamps
    )
