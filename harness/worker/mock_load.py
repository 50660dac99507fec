"""Rollbench's client against the mock engine: `python -m harness.worker.mock_load NAME INCOMING OUTGOING`. Each message
names requests and, where they go over HTTP, an address, and is answered with when each went out."""

import sys
from pathlib import Path
from typing import Any

from harness.rollouts import Requests
from harness.worker.__main__ import exchange
from harness.worker.engines import Sampling
from harness.worker.engines.fake import Fake
from harness.worker.mock import Mock, OverHTTP
from harness.worker.play import play


def run(engine: Fake, job: dict[str, Any]) -> dict[str, Any]:
    """When each request went out, in seconds from the start of the call."""
    asked = Requests.load(Path(job["requests"]), job["layout"])
    try:
        out = engine.loop.run_until_complete(play(engine, asked, Sampling(stream=True)))
    finally:
        engine.close()
    return {"sent": out.sent_B.tolist()}


def load(job: dict[str, Any]) -> dict[str, Any]:
    """What a message asks for."""
    return run(OverHTTP(f"{job['url']}/v1/completions") if job["url"] else Mock(), job)


if __name__ == "__main__":
    exchange(load, int(sys.argv[2]), int(sys.argv[3]))
