"""What `rollbench doctor` finds of the old guide's troubles."""

import socket
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from harness import troubles
from harness.cards import Card


def found(monkeypatch: pytest.MonkeyPatch, *, sm: int = 90, used: Sequence[int] = (), names: Sequence[str] = ()) -> str:
    """All warnings of a machine with such a GPU, memory in use and processes."""
    processes = [SimpleNamespace(pid=7, info={"name": name}) for name in names]
    monkeypatch.setattr(troubles.cards, "here", lambda: Card("a GPU", sm, 80))
    monkeypatch.setattr(troubles.machine, "device_memory_mib", lambda: list(used))
    monkeypatch.setattr(troubles.psutil, "process_iter", lambda _: processes)
    return "; ".join(one.what for one in troubles.findings() if one.state != "ok" and one.advice)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sm": 75}, "a GPU has SM 7.5: SGLang refuses attention_backend fa3"),
        ({"sm": 120}, "SM 12.0"),
        ({"used": (10, 4096)}, "GPU 1: 4096 MiB are in use"),
        ({"names": ("VLLM::EngineCore", "bash", "")}, "processes of engines run: VLLM::EngineCore (7)"),
        ({"names": ("sglang::scheduler",)}, "sglang::scheduler (7)"),
    ],
)
def test_troubles_are_found(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
    assert words in found(monkeypatch, **changes)
    assert found(monkeypatch, used=(10,), names=("bash", "")) == ""


def test_a_host_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "workers may hang at start" in found(monkeypatch)
