"""Rollbench's client against a mock engine: how many requests a second it sends before they go out late, beside what
`vllm bench serve` sends to the same mock.

The mock serves over HTTP and notes when each request came. Rollbench's client is also measured as it is used, with the
engine in its own process.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness import models
from harness.client import Worker
from harness.envs import find
from harness.errors import LaunchFailed
from harness.workload import arriving, independent

Tell = Callable[[str], None]
SECONDS = 3.0  # of requests at each rate
INPUT_TOKENS, OUTPUT_TOKENS = 32, 16
SLOWEST, FASTEST = 50, 25600  # requests a second; each rate is twice the one before
LATE, ACHIEVED = 0.010, 0.99  # a rate is sustained with at most so many seconds late (p99), at so much of the rate
TRIES = 2  # of a rate, before it counts as too much: other work on the machine makes lateness too
TIMEOUT = 300.0
VARIABLES = {"HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}  # the tool would heed a proxy


@dataclass(frozen=True)
class Found:
    """What a client made of a rate: seconds late at the 99th percentile, the share of the rate that it reached, and the
    seconds that the mock itself was late with its tokens at the 99th percentile."""

    rate: int
    late: float
    achieved: float
    mock_late: float = 0.0

    @property
    def sustained(self) -> bool:
        return self.late <= LATE and self.achieved >= ACHIEVED

    def __str__(self) -> str:
        mock = f", the mock {self.mock_late * 1e3:.1f} ms" if self.mock_late else ""
        return f"{self.rate}/s: p99 {self.late * 1e3:.1f} ms late{mock}, {self.achieved:.1%} of the rate"


def judged(rate: int, times: Sequence[float], lags: Sequence[float] = ()) -> Found:
    """`times`: when each request went out or came, by one clock, in the order in which they were to go. Their schedule
    is even, and begins so that the promptest is on time, since a tool does not tell when it began."""
    if len(times) != count(rate):
        raise LaunchFailed(f"{len(times)} requests of {count(rate)} came to the mock engine")
    seen = np.asarray(times)
    late = seen - np.arange(len(seen)) / rate
    achieved = (len(seen) - 1) / np.ptp(seen) / rate
    mock = float(np.quantile(lags, 0.99)) if len(lags) else 0.0
    return Found(rate, float(np.quantile(late - late.min(), 0.99)), float(achieved), mock)


def climbed(measure: Callable[[int], Found]) -> list[Found]:
    """What was found at each rate, up to the first that is not sustained in TRIES tries."""
    found: list[Found] = []
    rate = SLOWEST
    while rate <= FASTEST:
        tries: list[Found] = []
        while len(tries) < TRIES and not any(one.sustained for one in tries):
            tries.append(measure(rate))
        found.append(min(tries, key=lambda one: (not one.sustained, one.late)))
        if not found[-1].sustained:
            break
        rate *= 2
    return found


@dataclass(frozen=True)
class Bench:
    """The mock's server at `url`, and the processes of the two clients."""

    server: Worker
    load: Worker
    tool: Worker
    url: str

    def in_process(self, rate: int) -> Found:
        return judged(rate, self._play(rate, ""))

    def over_http(self, rate: int) -> Found:
        self._play(rate, self.url)
        return self._arrived(rate)

    def vllm(self, rate: int) -> Found:
        self.tool.ask(
            {
                "environment": {"VLLM_NO_USAGE_STATS": "1"}, "data": [], "url": self.url, "rate": rate,
                "model": models.find("tiny-qwen3").path, "prompts": count(rate),
                "input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS,
            }, TIMEOUT,
        )  # fmt: skip
        return self._arrived(rate)

    def _play(self, rate: int, url: str) -> list[float]:
        number = count(rate)
        asked = independent((0, rate), [INPUT_TOKENS] * number, [OUTPUT_TOKENS] * number, 256)
        path = self.load.folder / "requests"
        layout = arriving(asked, rate, "fixed", (0,)).save(path)
        sent: list[float] = self.load.ask({"requests": str(path), "layout": layout, "url": url}, TIMEOUT)["sent"]
        return sent

    def _arrived(self, rate: int) -> Found:
        log: dict[str, Any] = self.server.ask({}, TIMEOUT)
        return judged(rate, in_order(log["arrived"]), log["lags"])


@contextmanager
def bench() -> Iterator[Bench]:
    """Three processes, all in the environment of vLLM: the mock's client needs its HTTP library."""
    python, folder = find("vllm").python, Path(tempfile.gettempdir())
    with ExitStack() as stack:

        def worker(name: str, module: str) -> Worker:
            log = folder / f"rollbench-clientcheck-{name}.log"
            return stack.enter_context(Worker(name, python, log, VARIABLES, module=module))

        server = worker("server", "harness.worker.mock_server")
        load, tool = worker("load", "harness.worker.mock_load"), worker("vllm-serve", "harness.worker.own_tool")
        yield Bench(server, load, tool, server.ask({}, TIMEOUT)["url"])


def in_order(arrived: Sequence[tuple[str, float]]) -> list[float]:
    """The times of requests by the numbers at the ends of their names."""
    return [moment for _, moment in sorted((int(name.rpartition("-")[2]), moment) for name, moment in arrived)]


def count(rate: int) -> int:
    return round(SECONDS * rate)


def line(name: str, found: Sequence[Found]) -> str:
    """A client's row: the highest rate that it sustained, and the one that was too much."""
    good = [one for one in found if one.sustained]
    texts = [f"{name}: sustains {good[-1]}" if good else f"{name}: sustains no rate"]
    return "; ".join(texts + [f"not {one}" for one in found if not one.sustained])


def top(found: Sequence[Found]) -> int:
    return max((one.rate for one in found if one.sustained), default=0)


def report(tell: Tell) -> Iterator[tuple[bool, str]]:
    """A row for each client, and whether it sustains at least what the tool does."""
    with bench() as ready:
        clients = {
            "vllm bench serve, over HTTP": ready.vllm,
            "rollbench's client, over HTTP": ready.over_http,
            "rollbench's client, engine in its process": ready.in_process,
        }
        least = 0
        for name, measure in clients.items():

            def told(rate: int, name: str = name, measure: Callable[[int], Found] = measure) -> Found:
                tell(f"{name}, {rate} requests a second")
                return measure(rate)

            found = climbed(told)
            least = least or top(found)
            yield top(found) >= least, line(name, found)
