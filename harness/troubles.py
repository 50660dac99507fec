"""Section 7 of the old guide, its troubles, looked for on this machine; a configuration's are `harness.mistakes`."""

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import psutil

from harness import cards, machine

ENGINES = re.compile(r"VLLM::|sglang::")  # what the processes of the engines call themselves
FREE_MIB = 1024  # in use on a GPU by others, at most


@dataclass(frozen=True)
class Finding:
    state: Literal["ok", "warning", "error"]
    what: str
    advice: str = ""


def findings() -> Iterator[Finding]:
    yield from _attention()
    yield from _memory()
    yield _left_over()
    yield _host_name()


def _attention() -> Iterator[Finding]:
    """`FlashAttention v3 Backend requires SM>=80`."""
    if (card := cards.here()) is None:
        return
    told = f"{card.name} has SM {card.sm // 10}.{card.sm % 10}: SGLang"
    if card.sm in cards.FA3:
        yield Finding("ok", f"{told} takes attention_backend fa3")
    else:
        yield Finding("warning", f"{told} refuses attention_backend fa3 (SM 8.0 to 9.0)", "take flashinfer")


def _memory() -> Iterator[Finding]:
    """Out of memory during generation: what others hold is not there for the engine's fraction."""
    for number, used in enumerate(machine.device_memory_mib()):
        if used > FREE_MIB:
            advice = "end what holds it (`nvidia-smi`), or lower gpu_memory_utilization or mem_fraction_static"
            yield Finding("warning", f"GPU {number}: {used} MiB are in use before any engine has started", advice)


def _left_over() -> Finding:
    """An engine's processes outlive a run that was killed, and hold its memory and ports."""
    found = [
        f"{p.info['name']} ({p.pid})" for p in psutil.process_iter(["name"]) if ENGINES.match(p.info["name"] or "")
    ]
    if found:
        return Finding("warning", f"processes of engines run: {', '.join(found)}", "end those of runs that are over")
    return Finding("ok", "no process of an engine is left over")


def _host_name() -> Finding:
    """A worker hangs during initialization: its processes look each other up by the host's name."""
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError as error:
        advice = f"add `127.0.0.1 {name}` to /etc/hosts; vllm_v1_disable_multiproc: true has fewer processes to meet"
        return Finding("warning", f"host name {name} cannot be looked up ({error}): workers may hang at start", advice)
    return Finding("ok", f"host name {name} can be looked up")
