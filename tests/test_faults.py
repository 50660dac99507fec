"""Faults of a weight sync, without weights: the first that fails is named and ends all, what does not fit ends none."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import client, rig, senders
from harness.client import Worker
from harness.envs import find
from harness.errors import BadOffer, LaunchFailed
from harness.link import Link
from harness.paths import PROJECT
from harness.rig import Rig
from harness.scenario import Options
from harness.worker import offers
from harness.worker.flat import Slot, layout
from harness.worker.offers import Unfit
from harness.worker.receive import Receiver, answers
from harness.worker.transports import ipc, shm
from harness.workload import independent
from tests.stubs import DIES, FAILS, GOOD, HANGS, REFUSES

pytestmark = pytest.mark.timeout(60)
MODEL = "tiny-qwen3"
SENDER, ENGINE = "sender of weights for fake", "fake"


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Rig]]:
    """Starts a launch of the stubs, with the engine's options; nothing of it is left behind."""

    def stub(name: str, python: str, log: Path, variables: Any, paths: Any, module: str = "") -> Worker:
        workers.append(Worker(name, python, log, variables, (PROJECT,), "tests.stubs"))
        return workers[-1]

    def start(**native: Any) -> Rig:
        options = Options(native={"fake": native})
        rigs.append(Rig(find("fake"), MODEL, options, tmp_path / "fake.log", 5, lambda text: None))
        return rigs[-1]

    workers, rigs = list[Worker](), list[Rig]()
    monkeypatch.setattr(rig, "Worker", stub)
    monkeypatch.setattr(senders, "Worker", stub)
    yield start
    for each in rigs:
        each.close()
    assert [client.group(worker.pid) for worker in workers] == [[] for _ in workers]


def line(error: BaseException) -> str:
    """What a person reads of an error."""
    return str(error).splitlines()[0]


def ended(link: Link) -> list[bool]:
    return [worker.ended for worker in (link.rig.worker, *link.senders)]


def prompts(rig: Rig) -> Any:
    return independent((1,), [10], [2], rig.vocabulary)


DIED, FAILED = "died in send (exit status 9)", "send failed: RuntimeError: something went wrong"
BEFORE = [  # what the sender does, what the engine does, and what is said of it
    (DIES, GOOD, f"{SENDER}: {DIED}"),
    (FAILS, GOOD, f"{SENDER}: {FAILED}"),
    (GOOD, FAILS, f"{ENGINE}: weights failed: RuntimeError: something went wrong"),
    (GOOD, DIES, f"{ENGINE}: died in weights (exit status 9)"),
]
TOGETHER = [
    *BEFORE,
    (DIES, HANGS, f"{SENDER}: {DIED}"),
    (FAILS, HANGS, f"{SENDER}: {FAILED}"),
    (HANGS, DIES, f"{ENGINE}: died in weights (exit status 9)"),
    (DIES, FAILS, f"{SENDER}: {DIED}"),  # a death is the cause of another's error
]


@pytest.mark.parametrize(
    ("transport", "sender", "engine", "says"),
    [("shm", *case) for case in BEFORE] + [("gloo", *case) for case in TOGETHER],
)
def test_the_first_that_fails_is_named_and_ends_all(
    launch: Callable[..., Rig], transport: str, sender: int, engine: int, says: str
) -> None:
    rig = launch(weights=engine)
    with Link(rig, transport, "copies", senders=2) as link:
        link.update(sender)
        begun = time.monotonic()
        with pytest.raises(LaunchFailed) as failed:
            link.sync()
        assert time.monotonic() - begun < 4  # before anything is late
        assert line(failed.value).startswith(f"{says}; ended with it: ")
        assert f"(log: {rig.log.parent}/" in line(failed.value)
        assert ended(link) == [True, True, True]
        refusing(rig, link, line(failed.value))


def refusing(rig: Rig, link: Link, why: str) -> None:
    """Nothing is done any more behind a failed sync, and all that is asked says why."""
    for ask in (lambda: rig.generate(prompts(rig), temperature=0.0), rig.flush, link.sync, lambda: link.update(1)):
        with pytest.raises(LaunchFailed, match=r"cannot .*, it was ended: ") as refused:
            ask()
        assert str(refused.value).endswith(why)


def test_one_that_is_late_ends_all(launch: Callable[..., Rig]) -> None:
    rig = launch(weights=HANGS)
    rig.timeout = 3
    with Link(rig, "gloo", "copies") as link:
        with pytest.raises(LaunchFailed, match=r"fake: no answer to weights within 3 s; ended with it: sender of"):
            link.sync()
        assert ended(link) == [True, True]


def test_the_death_of_an_idle_sender_is_noticed_at_the_next_call(launch: Callable[..., Rig]) -> None:
    rig = launch()
    with Link(rig, "shm", "copies", senders=2) as link:
        link.sync()
        os.kill(link.senders[1].pid, signal.SIGKILL)
        with pytest.raises(LaunchFailed) as failed:
            link.update(0)
        assert line(failed.value).startswith(f"{SENDER}: died in update (exit status -9); ended with it: ")
        assert ended(link) == [True, True, True]
        refusing(rig, link, line(failed.value))


def test_the_death_of_a_sender_is_noticed_while_the_engine_generates(launch: Callable[..., Rig]) -> None:
    rig = launch()
    sender = rig.link("shm", "copies").senders[0]
    threading.Timer(0.5, os.kill, (sender.pid, signal.SIGKILL)).start()
    with pytest.raises(
        LaunchFailed, match=r"^sender of weights for fake: died in send \(exit status -9\); ended .*: fake"
    ):
        rig.generate(prompts(rig), temperature=0.0)


def test_a_sender_that_dies_while_the_engine_copies_out_of_its_memory(launch: Callable[..., Rig]) -> None:
    rig = launch(weights=HANGS)
    with Link(rig, "shm", "copies") as link:
        threading.Timer(0.5, os.kill, (link.senders[0].pid, signal.SIGKILL)).start()
        with pytest.raises(LaunchFailed, match=r"died in send \(exit status -9\); ended with it: fake"):
            link.sync()


@pytest.mark.parametrize("at", ["open", "sync"])
def test_what_does_not_fit_ends_nothing(launch: Callable[..., Rig], at: str) -> None:
    rig = launch(weights=REFUSES, at=at)
    with (
        pytest.raises(BadOffer, match=r"^fake: weights refused: that does not fit$"),
        Link(rig, "shm", "copies") as link,
    ):
        link.sync()
    assert not rig.worker.ended
    rig.flush()
    assert rig.shut_down().ok


TENSORS = [("model.embed.weight", (8, 4)), ("model.norm.weight", (4,)), ("lm_head.weight", (8, 4))]
CHANGES: list[tuple[list[tuple[str, tuple[int, ...]]], str]] = [
    (TENSORS, ""),
    (TENSORS[::-1], ""),
    (TENSORS[:-1], "tensor lm_head.weight of the model is not offered: offer the tensors of the model's checkpoint"),
    ([*TENSORS, TENSORS[0]], "tensor model.embed.weight is offered twice"),
    ([*TENSORS, ("model.nrm.weight", (4,))], "no tensor model.nrm.weight (did you mean model.norm.weight?)"),
    ([*TENSORS[:2], ("lm_head.weight", (4, 8))], "lm_head.weight has the shape [4, 8], the model's has [8, 4]"),
    ([("x", (1,))], "the model has no tensor x (and 3 more): "),
]


@pytest.mark.parametrize(("offered", "says"), CHANGES)
def test_tensors_are_held_against_the_models(offered: list[tuple[str, tuple[int, ...]]], says: str) -> None:
    found = offers.unlike(offered, dict(TENSORS))
    assert says in found
    assert bool(says) == bool(found)


def test_a_link_refuses_other_tensors_and_shards_before_the_engine_is_asked(
    launch: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = launch(weights=DIES, at="open")
    real, others = Link.hold, iter([TENSORS, TENSORS[:1]])

    def held(link: Link, **more: Any) -> Any:
        return [one | {"slots": [[name, shape, 0, 0] for name, shape in next(others)]} for one in real(link, **more)]

    monkeypatch.setattr(Link, "hold", held)
    with pytest.raises(BadOffer, match="hold not all the same tensors"):
        Link(rig, "shm", "copies", senders=2)
    others = iter([TENSORS])
    with pytest.raises(
        BadOffer, match=r"^the senders' weights are not those of tiny-qwen3: the model has no tensor mod"
    ):
        Link(rig, "shm", "copies")
    assert not rig.worker.ended


def test_a_dtype_that_the_model_does_not_have() -> None:
    slots = layout(TENSORS, 4)
    offers.fit(slots, 4, "float32", {"float32", "bfloat16"})
    with pytest.raises(Unfit, match="offer float16, the model has bfloat16 and float32: send them as that"):
        offers.fit(slots, 2, "float16", {"float32", "bfloat16"})
    with pytest.raises(Unfit, match=r"model.embed.weight, \[8, 4\] of bfloat16, cannot have 128 bytes"):
        offers.fit(slots, 2, "bfloat16", {"bfloat16"})


@pytest.mark.parametrize(
    ("parts", "good"),
    [
        ([(0, 32)], True),
        ([(16, 16), (0, 16)], True),
        ([(0, 16)], False),
        ([], False),
        ([(0, 16), (0, 16)], False),  # two senders with one rank
        ([(0, 16), (8, 24)], False),
        ([(0, 8), (16, 16)], False),
    ],
)
def test_each_byte_of_a_tensor_is_offered_once(parts: list[tuple[int, int]], good: bool) -> None:
    slot = Slot("model.norm.weight", (8,), 0, 32)
    if good:
        offers.whole(slot, parts)
    else:
        with pytest.raises(Unfit, match=r"not each of the 32 bytes of tensor model.norm.weight once"):
            offers.whole(slot, parts)


def write(path: Path, shapes: list[tuple[str, tuple[int, ...]]] = TENSORS, dtype: str = "F32") -> None:
    """A file of safetensors, whose numbers are zero."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for slot in layout(shapes, 4):
        header[slot.name] = {"dtype": dtype, "shape": slot.shape, "data_offsets": [end, end + slot.bytes]}  # type: ignore[dict-item]
        end += slot.bytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


def test_a_checkpoint_is_looked_at_before_an_engine_reads_it(tmp_path: Path) -> None:
    slots, path = layout(TENSORS, 4), tmp_path / "model.safetensors"

    def says(words: str) -> None:
        with pytest.raises(Unfit, match=words):
            offers.checkpoint(tmp_path, slots, "float32")

    says("is no checkpoint: .*No such file")
    write(path)
    offers.checkpoint(tmp_path, slots, "float32")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    says(f"has {len(whole) - 1} bytes, its tensors need {len(whole)}: it was cut off, send the weights again")
    for cut in (b"", whole[:5], whole[:30], b"\xff" * 64, bytes(64)):
        path.write_bytes(cut)
        says("is no checkpoint: it has no whole header")
    path.write_bytes((8).to_bytes(8, "little") + b"no JSON.")
    says("is no checkpoint: ")
    write(path, TENSORS[1:])
    says("tensor model.embed.weight of the model is not offered")
    write(path, dtype="I32")
    says("holds I32, not float32")


def test_a_receiver_sends_its_errors_back() -> None:
    receiver = Receiver(lambda: None, print, print)
    (reply,) = [receiver.answer({"do": "nothing"})]
    assert "do_nothing" in reply["error"]
    assert receiver.answer({"do": "facts"}) == {"value": {}}
    refused, failed, good = {"error": "no", "sound": True}, {"error": "bad"}, {"value": 1}
    assert answers([good, good]) == [1, 1]
    wrong: tuple[tuple[list[dict[str, Any]], type[Exception], str], ...] = (
        ([refused], Unfit, "^no$"),
        ([refused, refused], Unfit, "^no$"),
        ([refused, good], RuntimeError, "^rank 0: no$"),  # one rank alone has new weights
        ([good, failed], RuntimeError, "^rank 1: bad$"),
        ([failed], RuntimeError, "^bad$"),
    )
    for replies, error, says in wrong:
        with pytest.raises(error, match=says):
            answers(replies)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A torch that sees two GPUs, on which nothing can be mapped."""

    def opens(*_: Any) -> None:
        raise RuntimeError("CUDA error: invalid resource handle\nCompile with TORCH_USE_CUDA_DSA")

    cuda = SimpleNamespace(
        device_count=lambda: 2, get_device_properties=lambda index: SimpleNamespace(uuid=f"GPU-{index}")
    )
    torch = SimpleNamespace(cuda=cuda, UntypedStorage=SimpleNamespace(_new_shared_cuda=opens))
    monkeypatch.setitem(sys.modules, "torch", torch)
    return torch


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"gpu": "GPU-7"},
            "sender 0 lie on GPU GPU-7, the engine's process sees GPU-0, GPU-1: hold them on one of these",
        ),
        (
            {},
            r"sender 0 on the memory of GPU GPU-1 opens nothing \(CUDA error: invalid resource handle\): is the sender",
        ),
        ({"memory": "no hex"}, r"opens nothing \(non-hexadecimal number"),
    ],
)
def test_a_handle_on_memory_that_is_not_there(gpus: SimpleNamespace, change: dict[str, str], says: str) -> None:
    address = {"gpu": "GPU-1", "memory": "00", "counter": "00", "event": "00", "bytes": 8} | dict.fromkeys(
        ("size", "offset", "counter_offset", "event_sync"), 0
    )
    with pytest.raises(Unfit, match=says):
        ipc.opened([address | change], SimpleNamespace(type="cuda"), 0)


def test_a_handle_on_less_memory_than_it_says(gpus: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipc, "_map", lambda gpu, address: SimpleNamespace(numel=lambda: 4))
    with pytest.raises(Unfit, match="sender 0 opens 4 of 8 bytes"):
        ipc.opened([{"gpu": "GPU-0", "bytes": 8}], SimpleNamespace(type="cuda"), 0)
    with pytest.raises(Unfit, match="needs the engine on a GPU: take shm"):
        ipc.opened([], SimpleNamespace(type="cpu"), 0)


def test_a_file_that_is_gone_or_too_short(tmp_path: Path) -> None:
    address = {"path": str(tmp_path / "weights"), "bytes": 8}
    with pytest.raises(Unfit, match="weights has 0 of the 8 bytes that sender 0 offers: is the sender alive"):
        shm.opened([address], None, 0)
    (tmp_path / "weights").write_bytes(b"1234")
    with pytest.raises(Unfit, match="weights has 4 of the 8 bytes"):
        shm.opened([address], None, 0)
