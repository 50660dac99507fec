"""GPUs by name: compute capability and memory, of this machine or of another that is asked about."""

from dataclasses import dataclass

from harness.errors import UserError, nearest
from harness.gpus import handles, nvml

GIB = 1 << 30
FA3 = range(80, 91)  # capabilities at which SGLang takes it


@dataclass(frozen=True)
class Card:
    """`sm`: compute capability without its point. `gib`: memory, as the vendor states it or, of this machine, as the
    driver does."""

    name: str
    sm: int
    gib: float


# Capability: https://developer.nvidia.com/cuda-gpus. Memory as cards are sold, the larger of two unless named;
# the driver shows a little less, so that what is refused does not fit.
CARDS = (
    Card("V100", 70, 32), Card("T4", 75, 16),
    Card("A100", 80, 80), Card("A100-40GB", 80, 40), Card("A10", 86, 24), Card("A40", 86, 48), Card("A6000", 86, 48),
    Card("RTX 3090", 86, 24),
    Card("L4", 89, 24), Card("L40", 89, 48), Card("L40S", 89, 48), Card("RTX 4090", 89, 24),
    Card("H100", 90, 80), Card("H200", 90, 141), Card("H20", 90, 96),
    Card("B200", 100, 180), Card("RTX 5090", 120, 32),
)  # fmt: skip


def named(name: str) -> Card:
    """The card of that name. Raises UserError for one that is not known."""
    known = {card.name.lower(): card for card in CARDS}
    for spelling in (name.lower(), f"rtx {name.lower()}"):
        if spelling in known:
            return known[spelling]
    raise UserError(f"no GPU {name!r}: {nearest(name, [card.name for card in CARDS])}")


def here() -> Card | None:
    """This machine's first GPU; None where there is none."""
    with nvml() as n:
        for handle in handles(n):
            major, minor = n.nvmlDeviceGetCudaComputeCapability(handle)
            total = int(n.nvmlDeviceGetMemoryInfo(handle).total)
            return Card(str(n.nvmlDeviceGetName(handle)), 10 * major + minor, total / GIB)
    return None
