"""The trainer's processes, joined to the engine whose weights they make: they ask, learn, and send."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness import models
from harness.link import Link
from harness.rollouts import Requests, Rollouts

if TYPE_CHECKING:
    from harness.rig import Rig

Figures = dict[str, float]


@dataclass(frozen=True)
class Lesson:
    """What is learnt, and how. `changes`: of the algorithm's fields, with `kl`, its coefficient; `settings`: of
    `trainers.settings.Settings`, with `rate` (of learning), `betas`, `lora` (an adapter's rank) and `merged` (False:
    the engine gets the adapter alone); `options`: of the task's fields; `warm_up`: `steps`, `prompts` and `rate` of
    supervised learning beforehand, none where empty."""

    algorithm: str = "grpo"
    task: str = "copying"
    changes: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    warm_up: dict[str, Any] = field(default_factory=dict)


class Crew(Link):
    """A trainer of `senders` ranks in place of holders of weights; the rest is a `Link`'s."""

    module = "training"

    def __init__(self, rig: "Rig", transport: str, how: str, lesson: Lesson, **options: Any) -> None:
        self.lesson = lesson
        super().__init__(rig, transport, how, **options)

    def hold(self, **more: Any) -> list[dict[str, Any]]:
        """Have each rank make its trainer, from the weights that the engine has."""
        lesson, meeting = self.lesson, self.rig.worker.folder / f"ranks-{uuid.uuid4().hex[:8]}"  # not an older crew's
        model = str(self.rig.start_on or models.find(self.rig.model).path)
        shared = {
            "model": model, "algorithm": lesson.algorithm, "changes": lesson.changes, "settings": lesson.settings,
            "task": lesson.task, "options": lesson.options, "warm_up": lesson.warm_up, "ranks": len(self.senders),
            "dtype": self.rig.options.dtype, "meeting": str(meeting),
        }  # fmt: skip
        for rank, (sender, device) in enumerate(zip(self.senders, self.devices, strict=True)):
            sender.post("hold", self.everyone, rank=rank, device=device, **shared)
        return [reply.value for reply in self.answers("hold")]

    def answer(
        self, step: int, requests: Requests | None, temperature: float, between: Callable[[], object] = lambda: None
    ) -> list[tuple[Requests, Rollouts]]:
        """Have the engine answer a step's prompts, from `requests`, those of `begin`, turn by turn; `between` is done
        behind the first. Only that turn is audited: behind it the cache holds more than a call's own prompts could
        give."""
        turns = list[tuple[Requests, Rollouts]]()
        while requests is not None:
            audited = not turns and temperature > 0
            out = self.rig.generate(requests, temperature=temperature, logprobs=True, audited=audited)
            if not turns:
                between()
            turns.append((requests, out))
            requests = self.go_on(step, out)
        return turns

    def begin(self, step: int, **asked: Any) -> Requests | None:
        """The requests of a step's first turn; `asked` are those of `harness.worker.training.Training.begin`."""
        layouts = self._each(lambda path: {"step": step, "path": path} | asked, "begin")
        return Requests.load(self._path(0), layouts[0])

    def go_on(self, step: int, out: Rollouts) -> Requests | None:
        """Those of the next turn; None where all is said."""
        back = self.rig.worker.folder / "answers"
        layout = out.save(back)
        layouts = self._each(
            lambda path: {"step": step, "rollouts": str(back), "layout": layout, "path": path}, "go_on"
        )
        return Requests.load(self._path(0), layouts[0]) if layouts[0] else None

    def _path(self, rank: int) -> Any:
        return self.rig.worker.folder / f"asked-{rank}"

    def _each(self, args: Any, call: str) -> list[Any]:
        """Ask every rank, each with a path of its own."""
        for rank, sender in enumerate(self.senders):
            sender.post(call, self.everyone, **args(str(self._path(rank))))
        return [reply.value for reply in self.answers(call)]

    def post_learn(self, step: int) -> None:
        """Have a step learnt; `learnt` waits for it."""
        for sender in self.senders:
            sender.post("learn", self.everyone, step=step)

    def learnt(self) -> Figures:
        """What came of it: the largest of the ranks' seconds and bytes, the rest as the first rank says."""
        return _joined([reply.value for reply in self.answers("learn")])

    def agree(self, step: int) -> Figures:
        """How far apart engine and trainer are about a step's answers, of which nothing is learnt (`mismatch_…`)."""
        return dict(self.all("agree", step=step)[0].value)

    def score(self, step: int) -> float:
        return float(self.all("score", step=step)[0].value)

    def offload(self) -> float:
        """Seconds until the device memory that only training needs is free."""
        return max(reply.seconds for reply in self.all("offload"))

    def onload(self) -> float:
        return max(reply.seconds for reply in self.all("onload"))

    def checkpoint(self, step: int, folder: str) -> str:
        path = f"{folder}/checkpoint"
        self.all("checkpoint", step=step, folder=path, model=models.find(self.rig.model).path)
        return path


class AdapterCrew(Crew):
    """A trainer of an adapter that the engine gets alone, behind a first sync of the whole weights."""

    def _open(self) -> None:
        super()._open()
        super().sync()

    def sync(self) -> Figures:
        folder = str(self.rig.worker.folder / "adapter")
        wrote = max(reply.seconds for reply in self.all("write", folder=folder))
        adapted = self.rig.worker.call("adapt", self.rig.timeout, path=folder).seconds
        return {"sync_latency": wrote + adapted, "sync_pack": wrote, "sync_load": adapted}


def _joined(ranks: list[Figures]) -> Figures:
    slowest = {name: max(rank[name] for rank in ranks) for name in ranks[0] if name.endswith(("_s", "_bytes"))}
    return ranks[0] | slowest
