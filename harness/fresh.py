"""An engine that was started on the weights of one step: what it answers then, it must answer after a sync of them."""

import fcntl
import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from harness.paths import cache_home
from harness.rollouts import Rollouts
from harness.senders import Senders
from harness.workload import independent

if TYPE_CHECKING:
    from harness.rig import Rig

STEP = 1_000_000_000  # none that is measured
SEED, REQUESTS, INPUT = 77, 48, 300  # the batch whose outputs are looked at; prompts longer than a cache's block
OUTPUT = 2  # tokens: the first is the likeliest of a prompt, and its log-probability knows every weight


def prepare(rig: "Rig") -> None:
    """Write a checkpoint of STEP's weights, which the engine of this rig starts on instead of the model's own."""
    folder = rig.enter_context(_own_folder(Path(rig.loaded.path).name))
    with Senders(rig) as senders:
        senders.start("holder")
        senders.hold()
        senders.all("checkpoint", step=STEP, folder=str(folder / "checkpoint"), model=rig.loaded.path)
        senders.end()
    rig.start_on = folder / "checkpoint"


@contextmanager
def _own_folder(name: str) -> Iterator[Path]:
    """An empty folder for a model, which nobody else has meanwhile; the same in every launch as far as that goes, since
    vLLM keeps what it has compiled by a model's path."""
    parent = cache_home() / "fresh" / name
    parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        with (parent / f"{number}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            folder = parent / str(number)
            shutil.rmtree(folder, ignore_errors=True)  # of one that was killed
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


def look(rig: "Rig") -> None:
    """What the engine answers before the first sync, where it was started on such a checkpoint, which goes."""
    if rig.start_on is not None and rig.fresh is None:
        rig.fresh = greedy(rig)
        shutil.rmtree(rig.start_on)


def greedy(rig: "Rig") -> Rollouts:
    """Outputs of a fixed batch, with what the prefix cache holds."""
    count = min(REQUESTS, rig.vocabulary)  # each begins with a token of its own
    prompts = independent((SEED,), [INPUT] * count, [OUTPUT] * count, rig.vocabulary)
    return rig.generate(prompts, temperature=0.0, logprobs=True, audited=False)
