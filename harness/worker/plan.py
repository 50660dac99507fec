"""How to bring weights from where a transport has them into a model, recorded once, then replayed at every sync."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.worker.copies import Pair, batch, captured, copy, merged
from harness.worker.flat import Segment, Slot, overlaps
from harness.worker.hashes import distinct
from harness.worker.moves import Moves, bound, record
from harness.worker.offers import whole

Tensor = Any  # torch.Tensor, which the light environment does not know
Load = Callable[[Iterator[tuple[str, Tensor]]], Any]


@dataclass
class Stage:
    """What can be brought in at once: copies, and for the engine's own loader the parts of tensors that are there."""

    pairs: list[Pair]
    parts: list[tuple[Slot, list[tuple[int, Tensor]]]]
    graph: Any = None


@dataclass
class Plan:
    """`moves` None: everything goes through the engine's loader. A plan stays good as long as the parameters stay where
    they are, through the engine's sleeping and waking as well; `bind` makes it one for another source."""

    load: Load
    slots: Sequence[Slot]
    dtype: Any
    moves: Moves
    device: Any
    begun: dict[str, tuple[Tensor, int]] = field(default_factory=dict)  # tensors of which parts are there
    stages: list[Stage] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def record(cls, model: Any, load: Load, slots: Sequence[Slot], dtype: Any, why_not: str = "") -> "Plan":
        """Watch the engine's loader; `why_not` is the reason not to, where it is known beforehand."""
        start = time.perf_counter()
        if why_not:
            moves = Moves(rest={slot.name: [] for slot in slots}, why={"": why_not})
        else:
            moves = record(distinct(model), load, slots, dtype)
        plan = cls(load, slots, dtype, moves, next(iter(model.parameters())).device)
        plan.facts = {
            "record_s": time.perf_counter() - start,
            "copies_before_merging": len(moves.moves),
            "through_loader": len(moves.rest),
            "why_loader": dict(list(moves.why.items())[:3]),
        }
        return plan

    def bind(self, stages: Sequence[Sequence[Segment]]) -> None:
        """Take the weights from these segments of the flat space, stage by stage. Raises Unfit where they do not hold
        each byte of each tensor once."""
        self.stages = []
        for found in stages:
            parts = [(slot, there) for slot in self.slots if (there := overlaps(found, slot))]
            self.stages.append(Stage(merged(bound(self.moves.moves, found)), parts))
        offered: dict[str, list[tuple[int, int]]] = {slot.name: [] for slot in self.slots}
        for stage in self.stages:
            for slot, held in stage.parts:
                offered[slot.name] += [(begin, part.numel()) for begin, part in held]
        for slot in self.slots:
            whole(slot, offered[slot.name])
        pairs = [pair for stage in self.stages for pair in stage.pairs]
        have, need = sum(p.into.nbytes for p in pairs), sum(move.into.nbytes for move in self.moves.moves)
        if have != need:
            raise ValueError(f"the senders offer {have} of the {need} bytes that the model's copies need")
        self.facts |= {"copies": len(pairs), "bytes": have, "stages": len(self.stages)}

    def replay(self, how: str, at: int = 0) -> None:
        """Bring a stage in: `loader` (the engine's own), `copies` (one by one), `foreach` (batched), `graph`."""
        stage = self.stages[at]
        with torch.no_grad():
            if how == "loader":
                self.load(self.named(at))
                return
            WAYS[how](self, stage)
            if self.moves.rest:
                self.load((name, tensor) for name, tensor in self.named(at) if name in self.moves.rest)

    def named(self, at: int) -> Iterator[tuple[str, Tensor]]:
        """The tensors that are whole with this stage, by the checkpoint's names: where they lie, or put together from
        their parts."""
        for slot, parts in self.stages[at].parts:
            whole, missing = self.begun.pop(slot.name, (None, slot.bytes))
            if whole is None and parts[0][1].numel() == slot.bytes and len(self.stages) == 1:
                whole, missing = parts[0][1], 0
            elif whole is None:
                whole = torch.empty(slot.bytes, dtype=torch.uint8, device=self.device)
            for begin, part in parts if missing else ():
                whole[begin : begin + part.numel()].copy_(part)
                missing -= part.numel()
            if missing:
                self.begun[slot.name] = whole, missing
            else:
                yield slot.name, whole.view(self.dtype).view(slot.shape)

    def fill(self) -> None:
        """What the loader fills with a number: padding, which a sleeping engine may have lost."""
        for into, value in self.moves.fills:
            into.fill_(value)

    def swap(self) -> None:
        """Make two copies of one size take each other's source. Raises ValueError where there are none."""
        first: dict[int, Pair] = {}
        for pair in self.stages[0].pairs:
            other = first.setdefault(pair.into.nbytes, pair)
            if other is not pair:
                pair.out_of, other.out_of, self.stages[0].graph = other.out_of, pair.out_of, None
                return
        raise ValueError("no two copies of one size")

    def _copies(self, stage: Stage) -> None:
        for pair in stage.pairs:
            copy(pair)
        self.fill()

    def _foreach(self, stage: Stage) -> None:
        batch(stage.pairs)
        self.fill()

    def _graph(self, stage: Stage) -> None:
        if stage.graph is None:
            start = time.perf_counter()
            stage.graph = captured(stage.pairs, self.fill)
            self.facts["capture_s"] = self.facts.get("capture_s", 0.0) + time.perf_counter() - start
        stage.graph.replay()


WAYS: dict[str, Callable[[Plan, Stage], None]] = {
    "copies": Plan._copies,
    "foreach": Plan._foreach,
    "graph": Plan._graph,
}
