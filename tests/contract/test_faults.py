"""The contract of a weight sync that fails: `pytest tests/contract -m real --engine vllm` (or sglang).

What does not fit is refused, and the engine goes on as it was. What goes wrong in the middle ends the engine and its
senders at once. A launch serves the refusals and ends with a sender that dies; another ends with its model process.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from benchmarks import CPU, GPU
from harness import client, envs, machine, models
from harness.errors import BadOffer, LaunchFailed
from harness.link import Link
from harness.paths import PROJECT
from harness.rig import Rig, log_path
from harness.workload import independent

OPTIONS = (
    replace(GPU, memory_fraction=0.4, max_running=64, graph_batch=64)
    if machine.gpu_names()
    else replace(CPU, max_running=64)
)
SOON = 8.0  # seconds in which a death must be noticed on a busy machine; the patience of a broadcast is a minute
MODEL_PROCESSES = ("EngineCore", "scheduler")  # in the names of the processes that hold the model


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = metafunc.config.getoption("--engine")
    skipped = [] if name != "fake" else [pytest.mark.skip("the fake holds no weights")]
    metafunc.parametrize("engine", [pytest.param(name, marks=[pytest.mark.real, *skipped])], scope="module")


@pytest.fixture(scope="module")
def launch(engine: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The launch that goes on, or a fresh one. Nothing is left of any."""
    folder = Path(os.environ.get("OUT", tmp_path_factory.mktemp("faults")))
    model, rigs = request.config.getoption("--model"), list[Rig]()

    def live(**changes: Any) -> Rig:
        if not rigs or rigs[-1].worker.ended:
            log = log_path(folder, f"{engine}-faults", len(rigs))
            rigs.append(Rig(envs.find(engine), model, replace(OPTIONS, **changes), log, 600, print))
        return rigs[-1]

    yield live
    for rig in rigs:
        rig.close()
        assert client.group(rig.worker.pid) == []


def outputs(rig: Rig) -> Any:
    """Log-probabilities of a fixed batch, none of whose prompts comes from a prefix cache."""
    rig.flush()
    requests = independent((7,), [40] * 4, [2] * 4, rig.vocabulary)
    return rig.generate(requests, temperature=0.0, logprobs=True, audited=False).logprobs_BT


def same(one: Any, other: Any) -> bool:
    return bool(np.allclose(one, other, atol=0.05 if machine.gpu_names() else 1e-3))


def changed(address: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"addresses": [address | changes]}


def unfit(found: Link, tmp_path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Openings that an engine refuses, and what it says."""
    (address,), slots = found.addresses, found.slots
    name, shape, offset, size = slots[-1]
    short = tmp_path / "short"
    short.write_bytes(bytes(8))
    other = "bfloat16" if found.dtype == "float32" else "float32"
    yield {"dtype": other, "slots": []}, f"offer {other}, the model has .*{found.dtype}.*: send them as that"
    yield {"slots": [*slots[:-1], [name, shape, offset, size - 16]]}, f"tensor {name}, .* cannot have {size - 16} bytes"
    yield changed(address, pieces=address["pieces"][1:]), f"not each of the .* bytes of tensor {slots[0][0]} once"
    yield changed(address, path=str(tmp_path / "gone")), "gone has 0 of the .* bytes that sender 0 offers"
    yield changed(address, path=str(short)), "short has 8 of the .* bytes"
    yield {"transport": "nothing"}, "nothing could not be opened: ValueError: no transport"
    if not machine.gpu_names():
        yield {"transport": "ipc"}, "CUDA IPC needs the engine on a GPU"
        yield {"transport": "nccl"}, "NCCL needs the engine on a GPU"
    if "" in found.facts["plan"][0].get("why_loader", {}):  # vLLM on a CPU: the names are known to the harness alone
        return
    odd = [shape[0] + 8, *shape[1:]]
    yield (
        {"slots": [*slots[:-1], [name, odd, offset, size * odd[0] // shape[0]]]},
        f"loader refuses {name}: |not each of",
    )
    norm = next(slot[0] for slot in slots if slot[0].endswith("post_attention_layernorm.weight"))
    others = [slot for slot in slots if slot[0] != norm]
    yield {"slots": others}, f"{norm} would keep its old weights, one of 1 parameters"
    renamed = [[slot[0].replace(norm, f"{norm}s"), *slot[1:]] for slot in slots]
    yield {"slots": renamed}, f"(loader ignores|loader refuses) {norm}s"


def test_what_does_not_fit_leaves_the_engine_as_it_was(launch: Callable[..., Rig], tmp_path: Path) -> None:
    rig = launch()
    with Link(rig, "shm", "copies") as found:
        found.update(1)
        found.sync()
        before = outputs(rig)
        good = {"transport": "shm", "addresses": found.addresses, "slots": found.slots, "dtype": found.dtype}
        for bad, says in unfit(found, tmp_path):
            with pytest.raises(BadOffer, match=f"weights refused: .*({says})") as refused:
                found.ask(do="open", **good | bad)
            print(refused.value)
            assert "\n" not in str(refused.value)
        assert same(outputs(rig), before)
        found.ask(do="open", **good)
        found.update(2)
        found.sync()
        assert not same(outputs(rig), before)
        found.end()


def test_other_tensors_are_refused(launch: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch) -> None:
    real, rig = Link.hold, launch()
    tensors = models.tensors_of(rig.model)

    def held(*arguments: Any, **more: Any) -> Any:
        (name, shape), *rest = tensors
        monkeypatch.setattr(models, "tensors_of", lambda model: [(f"{name}s", shape), *rest])
        try:
            return real(*arguments, **more)
        finally:
            monkeypatch.setattr(models, "tensors_of", lambda model: tensors)

    before = outputs(rig)
    monkeypatch.setattr(Link, "hold", held)
    says = rf"the model has no tensor {tensors[0][0]}s \(did you mean {tensors[0][0]}\?\) \(and 1 more\): offer the"
    with pytest.raises(BadOffer, match=says):
        Link(rig, "shm", "copies")
    assert same(outputs(rig), before)


def test_a_checkpoint_that_is_cut_off_or_gone_is_not_read(launch: Callable[..., Rig]) -> None:
    rig = launch()
    with Link(rig, "disk", "loader") as found:
        found.update(3)
        found.sync()
        before = outputs(rig)
        file = Path(found.addresses[0]["path"], "model.safetensors")
        os.truncate(file, file.stat().st_size // 2)
        with pytest.raises(
            BadOffer, match=r"weights refused: .*its tensors need \d+: it was cut off, send the weights"
        ):
            found.take()
        file.unlink()
        with pytest.raises(BadOffer, match=r"weights refused: .*is no checkpoint: .*No such file"):
            found.take()
        assert same(outputs(rig), before)
        found.update(4)
        found.sync()
        assert not same(outputs(rig), before)
        found.end()


def test_a_sender_that_dies_when_half_is_there(launch: Callable[..., Rig]) -> None:
    """Of two senders the second stands still, so that the engine has taken what the first one sent."""
    rig = launch()
    with Link(rig, "gloo", "copies", senders=2, bucket=1) as found:
        found.sync()
        os.kill(found.senders[1].pid, signal.SIGSTOP)
        threading.Timer(1.0, os.kill, (found.senders[1].pid, signal.SIGKILL)).start()
        failed(rig, found, r"^sender of weights for \w+: died in send \(exit status -9\); ended with it: ")


def test_a_model_process_that_dies_in_a_sync(launch: Callable[..., Rig]) -> None:
    """The sender stands still, so that it waits."""
    rig = launch(multiprocessing=True)
    with Link(rig, "gloo", "copies") as found:
        found.sync()
        (holds,) = [
            process for process in psutil.Process(rig.worker.pid).children(recursive=True)
            if any(word in " ".join([process.name(), *process.cmdline()]) for word in MODEL_PROCESSES)
        ]  # fmt: skip
        os.kill(found.senders[0].pid, signal.SIGSTOP)
        threading.Timer(1.0, holds.kill).start()
        failed(
            rig, found, rf"^{rig.worker.engine}: (died in weights|weights failed: ).*ended with it: sender of weights"
        )


def failed(rig: Rig, found: Link, says: str) -> None:
    """A sync fails soon and says why in a line; all processes are gone, and nothing serves the weights any more."""
    begun = time.monotonic()
    with pytest.raises(LaunchFailed, match=says) as failed:
        found.sync()
    print(f"after {time.monotonic() - begun:.1f} s: {failed.value}")
    assert time.monotonic() - begun < 1 + SOON
    first = str(failed.value).splitlines()[0]
    assert f"(log: {rig.log.parent}/" in first
    for worker in (rig.worker, *found.senders):
        assert client.group(worker.pid) == []
    with pytest.raises(LaunchFailed, match=r"cannot flush, it was ended: ") as refused:
        outputs(rig)
    assert str(refused.value).endswith(first)


LATE = """
import sys, threading, torch
from harness.worker.transports import broadcast, gloo

def address(name, **changes):
    return {"meeting": f"{sys.argv[1]}/{name}", "sender": 3, "receivers": 1, "buckets": [[0, 16]], "patience": 1.5}

def opened(name):
    return gloo.opened([address(name)], torch.device("cpu"), 0)

def joined(name, then=None):
    side = threading.Thread(target=lambda: broadcast.group("gloo", address("./" + name), 0), daemon=True)
    side.start()  # the sender's side, as another process has it
    source = opened(name)
    begun = source.fetch(0)
    side.join()
    if then:
        then()
    source.wait(begun)

for call in (
    lambda: opened("nobody sends").fetch(0),
    lambda: gloo.send(torch.zeros(16, dtype=torch.uint8), [], None, address("nobody takes")),
    lambda: joined("nothing is sent"),
    lambda: joined("the sender leaves", lambda: broadcast._groups.pop(f"{sys.argv[1]}/./the sender leaves")),
):
    try:
        call()
    except RuntimeError as error:
        print(error)
"""


def test_a_broadcast_does_not_wait_for_ever(engine: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "GLOO_SOCKET_IFNAME": "lo"}
    command = [envs.find(engine).python, "-c", LATE, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    print(done.stdout)
    group, broadcast = "gloo, the group of sender 3 and 1 receivers: ", "gloo, a broadcast of sender 3: "
    late, cut = (
        "not all came within 1.5 s: see the logs of both sides (",
        "the other side was cut off: see the logs of ",
    )
    says = [group + late, group + late, broadcast + late, broadcast + cut]
    lines = done.stdout.splitlines()
    assert [line[: len(words)] for line, words in zip(lines, says, strict=True)] == says
