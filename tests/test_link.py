"""Senders and the engine: what is asked of which, in which order, and what a sync's figures are made of."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest

from harness import envs, link, models, senders
from harness.adapterlink import AdapterLink
from harness.client import Reply
from harness.crew import Crew, Lesson
from harness.link import Link
from harness.ownlink import OwnLink
from harness.rig import Rig
from harness.scenario import Options
from harness.worker import transports

MIB = 1 << 20
SLOTS = [[name, list(shape), 0, 0] for name, shape in models.tensors_of("tiny-qwen3")]


@dataclass
class Stub:
    """A worker whose answers are known beforehand: a value, or a value with the seconds that it took."""

    name: str = ""
    python: str = ""
    log: Path = Path()
    variables: Any = None
    paths: Any = ()
    module: str = ""
    ended: bool = False
    done: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    answers: ClassVar[dict[str, Any]] = {}

    def __post_init__(self) -> None:
        self.posted = list[str]()

    def __enter__(self) -> "Stub":
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True

    def call(self, name: str, timeout: float, watch: Any = (), **args: Any) -> Reply:
        self.post(name, **args)
        return self.answer(name, timeout)

    def post(self, name: str, watch: Any = (), **args: Any) -> None:
        self.done.append((name, args))

    def answer(self, name: str, timeout: float, watch: Any = ()) -> Reply:
        found = self.answers.get(name)
        return found if isinstance(found, Reply) else Reply(found, 0.5)

    def close(self) -> list[str]:
        self.ended = True
        return []


class Engine(Stub):
    def answer(self, name: str, timeout: float, watch: Any = ()) -> Reply:
        if name != "weights":
            return super().answer(name, timeout)
        request = self.done[-1][1]["request"]
        found = {"floor": {"device": 0.01, "path": 0.02}, "sync": {"worker": 0.2}, "facts": {}}
        return Reply([found.get(request["do"])], 0.25)


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A rig with a stub for its engine; senders are stubs too."""
    engine = Engine("engine")
    engine.folder = tmp_path  # type: ignore[attr-defined]
    found = SimpleNamespace(
        worker=engine, options=Options(dtype="float32", lora_rank=4), model="tiny-qwen3", timeout=1.0, facts={},
        environment=envs.find("fake"), log=tmp_path / "log.log", variables=lambda local: {}, tell=print, _link=None,
        enter_context=lambda found: found, flush=lambda: engine.call("flush", 1.0).seconds,
        running=[engine],
    )  # fmt: skip
    found._linked = lambda make: Rig._linked(found, make)
    held = {"slots": SLOTS, "dtype": "float32", "bytes": 1000, "buffer": 1024, "base": 500}
    answers = {
        "hold": held, "offer": {"port": 5}, "send": Reply(["handle"], 0.125), "update": 0.0625, "join": {"joined": 1},
        "take": Reply({"load": 0.5, "flush": 0.25}, 1.0), "write": Reply(None, 0.5), "adapt": Reply(None, 1.5),
    }  # fmt: skip
    monkeypatch.setattr(Stub, "answers", answers)
    monkeypatch.setattr(senders, "Worker", Stub)
    return found


def asked(worker: Any) -> list[str]:
    """What was asked, a request to the model's processes by what it does."""
    return [args["request"]["do"] if name == "weights" else name for name, args in worker.done]


def told(worker: Any, name: str) -> dict[str, Any]:
    return dict(next(args for other, args in reversed(worker.done) if other == name))


def test_an_own_way_is_joined_taken_and_left(rig: Any) -> None:
    found = OwnLink(rig, "sglang_tensor", "graph")
    (sender,) = found.senders
    assert asked(sender) == ["hold", "update", "offer"]
    assert asked(rig.worker) == ["straight", "join", "floor"]
    assert told(rig.worker, "straight") == {"wanted": False}
    assert told(rig.worker, "join") == {"transport": "sglang_tensor", "address": {"port": 5}}
    figures = found.sync()
    assert asked(sender)[-1] == "send"
    address = {"transport": "sglang_tensor", "address": {"port": 5}}
    assert told(rig.worker, "take") == address | {"payload": ["handle"]}
    assert figures == pytest.approx({
        "sync_latency": 1.125, "sync_bandwidth": 1000 / 1.125 / 1e9,
        "sync_floor_ratio": 112.5, "sync_path_ratio": 56.25,
    })  # fmt: skip
    assert found.apart() == {"sync_load": 0.5, "sync_flush": 0.25, "sync_control": 0.25, "sync_pack": 0.125}
    assert asked(rig.worker) == ["straight", "join", "floor", "take"]  # nothing is done again to take it apart
    assert found.end() == []
    assert told(rig.worker, "leave") == address
    assert found.facts["how"] == "own"
    assert found.facts["joined"] == {"joined": 1}


def test_both_sides_of_a_way_are_at_it_together_where_they_must(rig: Any) -> None:
    found = OwnLink(rig, "sglang_bucket", "loader")
    (sender,) = found.senders
    assert found.send() == 0.0
    assert "send" not in asked(sender)
    found.sync()
    assert asked(sender)[-1] == "send"
    assert told(rig.worker, "take")["payload"] is None
    assert "sync_pack" not in found.apart()


@pytest.mark.parametrize(
    ("way", "bucket", "on_disk"),
    [("sglang_bucket", 512 * MIB, False), ("vllm_reload", 64 * MIB, True), ("sglang_disk", 64 * MIB, True)],
)
def test_what_a_way_is_offered_is_its_own_matter(rig: Any, way: str, bucket: int, on_disk: bool) -> None:
    (sender,) = OwnLink(rig, way, "loader").senders
    offered = told(sender, "offer")
    assert offered["bucket"] == bucket
    assert Path(offered["folder"]).parent == (rig.log.parent if on_disk else rig.worker.folder)
    place = told(rig.worker, "weights")["request"]["place"]
    assert place == ("" if on_disk else "cpu")  # where it is copied from, if from memory


def test_a_way_of_an_engine_has_no_options(rig: Any) -> None:
    with pytest.raises(ValueError, match="sglang_disk has no options, got how"):
        OwnLink(rig, "sglang_disk", "loader").take(how="loader")


@pytest.mark.parametrize(("transport", "kind"), [("shm", Link), ("vllm_reload", OwnLink)])
def test_the_rig_knows_which_link_a_transport_needs(rig: Any, transport: str, kind: type) -> None:
    found = Rig.link(rig, transport, "loader", bucket=4)
    assert type(found) is kind
    assert Rig.link(rig, transport, "loader") is found
    assert rig.facts["link"] is found.facts


@pytest.mark.parametrize(
    ("transport", "how", "wants"),
    [("shm", "copies", ["sync"]), ("shm", "loader", ["read"]), ("vllm_reload", "loader", ["read"])],
)
def test_the_reference_is_another_way_than_the_one_that_is_measured(
    rig: Any, transport: str, how: str, wants: list[str]
) -> None:
    found = Rig.link(rig, transport, how)
    before = len(rig.worker.done)
    found.reference(7)
    assert [name for name in asked(rig.worker)[before:] if name != "flush"] == wants
    if wants == ["read"]:
        assert told(found.senders[0], "checkpoint")["step"] == 7
    else:
        assert told(rig.worker, "weights")["request"]["how"] == "loader"


def test_a_merge_is_told_apart_from_the_sync(rig: Any) -> None:
    plain, merging = (Link(rig, "shm", "copies", merged_rank=rank) for rank in (0, 8))
    assert plain.update(3) == {}
    assert merging.update(3) == {"sync_merge": 0.0625}
    assert told(merging.senders[0], "hold")["merged_rank"] == 8
    assert (merging.facts["base_bytes"], "base_bytes" in plain.facts) == (500, False)
    assert merging.sync()["sync_latency"] == 0.125 + 0.25


def test_a_link_that_cannot_be_joined_leaves_no_sender(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Link) -> None:
        made.extend(self.senders)
        raise RuntimeError("the engine refused")

    made = list[Any]()
    monkeypatch.setattr(link.Link, "_open", fail)
    with pytest.raises(RuntimeError, match="refused"):
        Link(rig, "shm", "copies")
    assert [sender.ended for sender in made] == [True]


def test_an_adapter_goes_alone_over_a_base_that_was_there_before(rig: Any) -> None:
    found = AdapterLink(rig)
    (sender,) = found.senders
    assert sender.module == "harness.worker.adapter"
    assert (told(sender, "hold")["rank"], found.bytes, found.floor) == (4, 1000, 0.01)
    assert asked(rig.worker)[-2:] == ["sync", "close"]  # the base, over a link of its own that has ended
    before = len(rig.worker.done)
    found.update(9)
    figures = found.sync()
    assert asked(rig.worker)[before:] == ["adapt"]
    assert told(sender, "update") == {"step": 9}
    assert told(rig.worker, "adapt")["path"] == told(sender, "write")["folder"]
    assert figures == pytest.approx({
        "sync_latency": 2.0, "sync_pack": 0.5, "sync_load": 1.5, "sync_bandwidth": 1000 / 2.0 / 1e9,
        "sync_floor_ratio": 200.0,
    })  # fmt: skip
    assert found.end() == []
    assert cast(Any, sender).ended


def test_ways_that_need_the_engine_started_for_them_say_so() -> None:
    named = {way: getattr(transports.load(way), "BACKEND", "") for way in transports.OWN_WAYS}
    assert {way: backend for way, backend in named.items() if backend} == {"vllm_ipc": "ipc", "vllm_nccl": "nccl"}


def test_ranks_of_each_crew_meet_at_a_place_of_their_own(rig: Any) -> None:
    rig.start_on = None
    crews = [Crew(rig, "shm", "copies", Lesson(), senders=2) for _ in range(2)]
    places = [{told(sender, "hold")["meeting"] for sender in crew.senders} for crew in crews]
    assert [len(place) for place in places] == [1, 1]
    assert places[0] != places[1]
