"""Where a receiver finds the weights: buffers of senders, mapped for good or filled stage by stage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.worker.flat import Piece, Segment, segments

Tensor = Any  # torch.Tensor, which the light environment does not know


@dataclass(frozen=True)
class Part:
    """Bytes of one sender's buffer from `begin` on, in `tensor` (uint8, one dimension)."""

    sender: int
    begin: int
    tensor: Tensor


@dataclass
class Source:
    """`stages` are brought in one behind the other. `fetch(stage)` begins to fill its parts, `wait(begun)` has the
    current stream (a CPU: the caller) wait until they are; sources that are mapped need neither."""

    stages: list[list[Part]]
    fetch: Callable[[int], Any] = lambda stage: None
    wait: Callable[[Any], None] = lambda begun: None
    close: Callable[[], None] = lambda: None
    own: int = 0  # bytes of memory on the model's device that the source takes
    facts: dict[str, Any] = field(default_factory=dict)

    def segments(self, pieces: Sequence[Sequence[Piece]]) -> list[list[Segment]]:
        """By stage, where in the flat space its parts are; `pieces` by sender."""
        return [
            [found for part in parts for found in segments(pieces[part.sender], part.begin, part.tensor)]
            for parts in self.stages
        ]


def mapped(buffers: Sequence[Tensor], close: Callable[[], None] = lambda: None) -> Source:
    """A source of buffers that are there for good, one a sender."""
    return Source([[Part(sender, 0, buffer) for sender, buffer in enumerate(buffers)]], close=close)
