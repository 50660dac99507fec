"""Converts a SkyRL configuration from one backend to the other as section 5 of the guide does, line by line.

What the other backend does not have stays as a comment, `# [rollbench: vllm] enforce_eager: true`, and what it needs is
marked, `# [rollbench: added for sglang]`, so that the way back gives every byte again. Today's keys get the guide's
names on the way to SGLang, since SkyRL v0.4.0, the last with SGLang, has those.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import unified_diff
from typing import NamedTuple

from harness.errors import UserError
from harness.skyrl import DEFAULT, Config, Entry, parse
from harness.skyrl_keys import ALL, BOTH, ENGINE, KNOWN, NEW, Key

KWARGS, TURNS = "generator.engine_init_kwargs", "generator.use_conversation_multi_turn"
# Keys that stay behind, by the guide's names: without effect on the other backend, or each has its own.
OWN = [*(name for name, key in ALL.items() if len(key.backends) == 1), KWARGS, TURNS]
ATTENTION = {"sglang": {"attention_backend": "flashinfer"}}  # section 5: it runs on most GPUs
RENAMED = (  # engine arguments that say the same: vLLM's name, SGLang's
    ("max_model_len", "context_length"),
    *((name, name) for name in ("quantization", "kv_cache_dtype", "load_format", "revision")),
)
PARKED = "# [rollbench: {}] "
ADDED = "  # [rollbench: added for {}]"
ENDS = "# [rollbench: inference_engine ends, {} in]"
BEGUN = re.compile(r"(?m)^( *)# \[rollbench: vllm\] ['\"]?inference_engine\b.*\n?")
ENDED = re.compile(r"(?m)^[ \t]*# \[rollbench: inference_engine ends, ([0-9]+) in\]\r?(\n|\Z)")
NOTHING = "# [rollbench: nothing to add for {}]"
Edit = tuple[int, int, str]  # from, to, in its place


class Way(NamedTuple):
    """drop: lines that were added for a backend go with it, else they are kept as comments, since they were changed.
    note: it is written down that the way back has nothing to add."""

    drop: bool
    note: bool


WAYS = [Way(drop, note) for note in (False, True) for drop in (True, False)]


def migrate(text: str, target: str, name: str = "configuration") -> str:
    """The configuration for the target. Raises UserError where the way back would not give the same bytes."""
    config = parse(text, name)
    path = config.path("generator.backend")
    if config.values.get(path, DEFAULT) not in BOTH:
        raise UserError(f"{name}: line {config.entries[path].line}: {path} names no backend: write sglang or vllm")
    if config.backend == target:
        return text
    made = _there_and_back(text, target, name)
    if made is None or _there_and_back(made, _other(target), name) != text:
        raise UserError(
            f"{name}: the way back would not give the same bytes: remove lines of an earlier migration that say "
            "[rollbench: …], and indent comments as the keys below them"
        )
    return made


def diff(before: str, after: str, name: str) -> str:
    lines = unified_diff(before.splitlines(True), after.splitlines(True), name, f"{name} (migrated)", n=3)
    return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def left_out(config: Config, target: str) -> list[str]:
    """The engine's own arguments that have no counterpart on the target."""
    at = BOTH[::-1].index(config.backend)
    known = {names[at] for names in RENAMED} | {"attention_backend"}
    return [name for name in config.kwargs if name not in known and config.backend != target]


def _other(backend: str) -> str:
    return BOTH[1 - BOTH.index(backend)]


def _there_and_back(text: str, target: str, name: str) -> str | None:
    """The first way from which one comes back."""
    for way in WAYS:
        made = _convert(text, target, way, name)
        if any(_convert(made, _other(target), again, name) == text for again in WAYS):
            return made
    return None


def _convert(text: str, target: str, way: Way, name: str) -> str:
    config = parse(text, name)
    renamed = dict(_arguments(config, target))
    text = _edited(text, _leaving(config, way.drop))
    if target == "sglang":
        text = _edited(text, _flat(parse(text, name), _deep(config)))
    else:
        text = _edited(text, _nested(parse(text, name)))
    text = re.sub(rf"(?m)^([ \t]*){re.escape(PARKED.format(target))}", r"\1", text)
    text, nothing = re.subn(rf"(?m)^[ \t]*{re.escape(NOTHING.format(target))}\r?\n", "", text)
    config = parse(text, name)
    lines = [] if nothing else list(_needed(config, target, renamed))
    if config.path("generator.backend") not in config.entries and target != DEFAULT:
        lines.insert(0, f"backend: {target}{ADDED.format(target)}")
    if way.note:
        lines.append(NOTHING.format(_other(target)))
    return _edited(text, [*_backend(config, target), *_added(config, lines)])


def _edited(text: str, edits: Iterable[Edit]) -> str:
    for start, end, instead in sorted(edits, reverse=True):
        text = text[:start] + instead + text[end:]
    return text


def _span(config: Config, entry: Entry) -> tuple[int, int]:
    """From the beginning of an entry's first line to behind its last. Raises UserError where it shares a line."""
    text = config.text
    start, end = text.rfind("\n", 0, entry.start) + 1, text.find("\n", entry.end) + 1 or len(text)
    if text[start : entry.start].strip(" ") or not re.match(r"[ \t]*(#|\r?\n|$)", text[entry.end : end]):
        raise UserError(
            f"{config.name}: line {entry.line}: {entry.path} shares its line: migrate needs a line a key, no braces"
        )
    return start, end


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _leaving(config: Config, drop: bool) -> Iterator[Edit]:
    """The backend's own keys become comments, or vanish where they were added for it."""
    source = config.backend
    for name in [*OWN, "generator.backend"]:
        if (entry := config.entries.get(config.path(name))) is None:
            continue
        start, end = _span(config, entry)
        lines = _lines(config.text[start:end])
        if drop and all(line.rstrip("\r\n").endswith(ADDED.format(source)) for line in lines):
            yield start, end, ""
        elif name != "generator.backend":
            yield start, end, "".join(_parked(line, source) for line in lines)


def _parked(line: str, backend: str) -> str:
    return re.sub(r"^[ \t]*(?=\S)", rf"\g<0>{PARKED.format(backend)}", line)


def _deep(config: Config) -> int:
    """How much further in today's engine keys stand than the guide's."""
    inside = [entry for path, entry in config.entries.items() if path.startswith(f"{ENGINE}.")]
    return _column(config, inside[0]) - _column(config, config.entries[ENGINE]) if inside else 0


def _column(config: Config, entry: Entry) -> int:
    return entry.start - _span(config, entry)[0]


def _flat(config: Config, deep: int) -> Iterator[Edit]:
    """Today's keys as the guide has them: one level up, by their old names."""
    if config.layout != NEW:
        return
    end = _span(config, header := config.entries[ENGINE])[1]
    body = _span(config, replace(header, end=config.text.index(":", header.start) + 1))[1] if deep else end
    yield header.start, header.start, PARKED.format("vllm")
    column = _column(config, header)
    yield from _moved(config, body, end, -deep, column + deep, lambda key: key.name)
    text = " " * column + ENDS.format(deep) + _newline(config)
    yield end, end, text if config.text[:end].endswith("\n") else f"{_newline(config)}{text.rstrip()}"


def _nested(config: Config) -> Iterator[Edit]:
    """The way back of `_flat`."""
    header, ends = BEGUN.search(config.text), ENDED.search(config.text)
    if not header or not ends or ends.start() < header.end():
        return
    yield from _moved(config, header.end(), ends.start(), int(ends[1]), len(header[1]), lambda key: key.today)
    yield ends.start() - (0 if ends[2] else len(_newline(config))), ends.end(), ""


def _moved(config: Config, start: int, end: int, by: int, least: int, called: Callable[[Key], str]) -> Iterator[Edit]:
    """Lines further in or out, their keys by another name; comments left of `least` stay where they are."""
    at = start
    for line in _lines(config.text[start:end]):
        if line.strip() and line.startswith(" " * least):
            yield (at, at, " " * by) if by > 0 else (at, at - by, "")
        at += len(line)
    for path, entry in config.entries.items():
        key = KNOWN[config.layout].get(path)
        if key and start <= entry.start < end and called(key):
            old, new = path.rpartition(".")[2], called(key).rpartition(".")[2]
            begin = config.text.index(old, entry.start)
            yield begin, begin + len(old), new


def _newline(config: Config) -> str:
    return "\r\n" if "\r\n" in config.text else "\n"


def _backend(config: Config, target: str) -> Iterator[Edit]:
    """The backend's value, in the quotes that it has."""
    if entry := config.entries.get(config.path("generator.backend")):
        _span(config, entry)
        yield entry.value, entry.end, config.text[entry.value : entry.end].replace(_other(target), target)


def _arguments(config: Config, target: str) -> Iterator[tuple[str, str]]:
    """The engine's own arguments that the target has too, by its names, as they are written."""
    to = BOTH[::-1].index(target)
    for names in RENAMED:
        entry = config.entries.get(f"{config.path(KWARGS)}.{names[1 - to]}")
        if entry and "\n" not in (value := config.text[entry.value : entry.end]):
            yield names[to], value


def _needed(config: Config, target: str, renamed: Mapping[str, str]) -> Iterator[str]:
    """Lines for what the target needs and the file does not state."""
    if target == "sglang" and config.path(TURNS) not in config.entries:
        yield f"use_conversation_multi_turn: true{ADDED.format(target)}"
    inner = {**ATTENTION.get(target, {}), **renamed}
    if inner and config.path(KWARGS) not in config.entries:
        lines = ["engine_init_kwargs:", *(f"  {name}: {value}" for name, value in inner.items())]
        yield from (f"{line}{ADDED.format(target)}" for line in lines)


def _added(config: Config, lines: Sequence[str]) -> Iterator[Edit]:
    if lines:
        at, column = _place(config)
        yield at, at, "".join(f"{' ' * column}{line}{_newline(config)}" for line in lines)


def _place(config: Config) -> tuple[int, int]:
    """Where lines are added, and how far in: below the backend, else above the first key of its section."""
    section = ENGINE if config.layout == NEW else "generator"
    if (entry := config.entries.get(f"{section}.backend")) is not None:
        start, end = _span(config, entry)
        return (end if config.text[:end].endswith("\n") else start), _column(config, entry)
    inside = [entry for path, entry in config.entries.items() if path.startswith(f"{section}.")]
    if inside:
        return _span(config, inside[0])[0], _column(config, inside[0])
    if section not in config.entries:
        raise UserError(f"{config.name}: no generator in it, so there is no backend to migrate")
    return _span(config, config.entries[section])[1], _column(config, config.entries[section]) + 2
