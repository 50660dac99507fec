"""What all inference scenarios share: a workload of its own for each step, a cold cache, one call, its figures."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.audit import figures
from harness.rollouts import Requests
from harness.scenario import Scenario
from harness.workload import Seed

if TYPE_CHECKING:
    from harness.rig import Rig


@dataclass(frozen=True, kw_only=True)
class Inference(Scenario):
    """`concurrency`: conversations at once (0: no limit). `stream`: every token is reported, which gives inter-token
    times and costs the client work. `cache_floor`: the least share of what a perfect prefix cache would give that the
    engine must give; at most all of it, and nothing where prompts share nothing or caching is off. `flush` False leaves
    the cache as the step before left it: where prompts repeat, its certificate then says how warm it was."""

    temperature: float = 1.0
    concurrency: int = 0
    stream: bool = False
    cache_floor: float = 0.0
    flush: bool = True
    seed: int = 0

    @abstractmethod
    def requests(self, seed: Seed, vocab: int) -> Requests:
        """The workload of one step; another seed gives other token ids."""

    @property
    def steady(self) -> str:
        scheduled = getattr(self, "rate", 0) or getattr(self, "pause", 0)  # which then decides how long a step takes
        return "latency" if scheduled else "step_time"

    @property
    def again(self) -> bool:
        return self.flush  # else its prompts are in the prefix cache still

    def step(self, rig: "Rig", index: int) -> dict[str, float]:
        requests = self.requests((self.seed, index), rig.vocabulary)
        if self.flush:
            rig.flush()
        out = rig.generate(
            requests, temperature=self.temperature, concurrency=self.concurrency, stream=self.stream,
            cache_floor=self.cache_floor if self.options.prefix_caching else 0.0,
        )  # fmt: skip
        return figures(requests, out) | (
            {"output_per_gpu": int(out.output_B.sum()) / float(out.seconds) / self.gpus} if self.gpus else {}
        )
