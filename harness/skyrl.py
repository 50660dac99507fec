"""Reads a SkyRL configuration: its values by key, and where each key stands in the text, so that lines can be changed
without touching others (ruamel.yaml's own writer would indent, quote and wrap the rest anew)."""

import difflib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, DocumentStartEvent
from ruamel.yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from harness.errors import UserError, nearest
from harness.skyrl_keys import ENGINE, KNOWN, NEW, OLD, SECTIONS, Key

DEFAULT = "vllm"  # the backend of a file that names none
DEEPEST = 30  # levels of nesting; SkyRL has 6
WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
}


@dataclass(frozen=True)
class Entry:
    """A key in the text. `start` is where its key begins, `value` where its value does, `end` behind its last character
    that is no white space or comment; offsets in characters. `line` counts from 1."""

    path: str
    line: int
    start: int
    value: int
    end: int


@dataclass(frozen=True)
class Config:
    """`values` are those that the file states, by dotted path in its own layout; `of` asks by the guide's names."""

    name: str
    text: str
    layout: str
    values: dict[str, Any]
    entries: dict[str, Entry]

    def of(self, name: str, default: Any = None) -> Any:
        """The value of a key by the guide's name; `default` where it is not stated or left to OmegaConf (`${…}`)."""
        found = self.values.get(self.path(name), default)
        return default if found is None or _interpolated(found) else found

    def path(self, name: str) -> str:
        key = KNOWN[OLD].get(name)
        return (key.today or name) if key and self.layout == NEW else name

    def line(self, name: str) -> int:
        """The line of a key by the guide's name, or of the nearest section around it; 0 where there is none."""
        path = self.path(name)
        while path and path not in self.entries:
            path = path.rpartition(".")[0]
        return self.entries[path].line if path else 0

    @property
    def backend(self) -> str:
        return str(self.of("generator.backend", DEFAULT))

    @property
    def kwargs(self) -> dict[str, Any]:
        """The engine's own arguments."""
        return dict(self.of("generator.engine_init_kwargs", {}))


def load(path: Path) -> Config:
    """The configuration in a file. Raises UserError, in one line, for anything else."""
    try:
        return parse(path.read_bytes().decode(), str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not YAML: byte {error.start} is no UTF-8") from None


@functools.lru_cache(64)
def parse(text: str, name: str = "configuration") -> Config:
    """The configuration that a text holds; nobody changes its mappings. Raises UserError, in one line, for no such."""
    try:
        _refuse(text, name)
        root = YAML(typ="safe", pure=True).compose(text)
        if not isinstance(root, MappingNode):
            raise UserError(f"{name}: not a SkyRL configuration: it holds no keys; known are {_sections(OLD)}")
        entries, nodes = dict[str, Entry](), dict[str, Node]()
        for entry, node in _entries(text, name, root):
            entries[entry.path], nodes[entry.path] = entry, node
        values = _leaves(YAML(typ="safe", pure=True).load(text))
    except MarkedYAMLError as error:
        at = error.problem_mark or error.context_mark
        where = f"line {at.line + 1}: " if at else ""
        raise UserError(f"{name}: {where}not YAML: {error.problem or error.context}") from None
    except (YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{name}: not YAML: {str(error).splitlines()[0][:200]}") from None
    layout = NEW if ENGINE in entries else OLD
    if not any(path in entries for path in ("generator", "trainer")):
        raise UserError(f"{name}: not a SkyRL configuration: neither generator nor trainer in it")
    config = Config(name, text, layout, values, entries)
    for path, entry in entries.items():
        _check(config, path, entry.line)
    return config


def _refuse(text: str, name: str) -> None:
    """What cannot be changed line by line: several documents, anchors, includes."""
    documents = depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        line = event.start_mark.line + 1
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
            raise UserError(f"{name}: line {line}: anchors (&, *, <<) are not read: write the values out")
        if (tag := getattr(event, "tag", None)) and not str(tag).startswith("tag:yaml.org,2002:"):
            raise UserError(f"{name}: line {line}: the tag {tag} is not read: an include must be written out")
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > DEEPEST:
            raise UserError(f"{name}: line {line}: not a SkyRL configuration: more than {DEEPEST} levels")
        documents += isinstance(event, DocumentStartEvent)
        if documents > 1:
            raise UserError(f"{name}: line {line}: a second document; keep each in a file of its own")


def _entries(text: str, name: str, node: MappingNode, above: str = "") -> Iterator[tuple[Entry, Node]]:
    """Every key of a mapping and of those in it. Raises UserError for one that stands there twice."""
    seen = dict[str, int]()
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, ScalarNode):
            raise UserError(f"{name}: line {line}: a key that is no word")
        path = f"{above}.{key.value}" if above else str(key.value)
        if path in seen:
            raise UserError(f"{name}: line {line}: {path} stands there twice, first in line {seen[path]}: keep one")
        if path == "defaults":
            advice = "resolve it first (Hydra: --cfg job --resolve)"
            raise UserError(f"{name}: line {line}: defaults includes other files, which are not read: {advice}")
        seen[path] = line
        yield Entry(path, line, key.start_mark.index, value.start_mark.index, _end(text, key, value)), value
        if isinstance(value, MappingNode):
            yield from _entries(text, name, value, path)


def _end(text: str, key: Node, value: Node) -> int:
    """Behind the last character of a value: a block's own mark stands behind the comments that follow it."""
    last = value
    while isinstance(last, CollectionNode) and not last.flow_style and last.value:
        last = last.value[-1][1] if isinstance(last, MappingNode) else last.value[-1]
    begin = last.start_mark.index
    said = text[begin : last.end_mark.index].rstrip()
    return begin + len(said) if said else text.index(":", key.end_mark.index) + 1


def _leaves(tree: Any, above: str = "") -> dict[str, Any]:
    """Values by dotted path; a mapping stands there whole, and each of its keys too."""
    found = dict[str, Any]()
    for name, value in tree.items():
        path = f"{above}.{name}" if above else str(name)
        found[path] = value
        if isinstance(value, dict):
            found |= _leaves(value, path)
    return found


def _interpolated(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def _check(config: Config, path: str, line: int) -> None:
    """Raises UserError for a key that is not known, or a value of another type."""
    known, sections, value = KNOWN[config.layout], SECTIONS[config.layout], config.values[path]
    where = f"{config.name}: line {line}: {path}"
    if (key := known.get(path)) is not None:
        if value is not None and not _interpolated(value) and not _fits(key, value):
            wanted = f"{' or '.join(key.kind)}" if isinstance(key.kind, tuple) else WORDS[key.kind]
            said = f"{value!r}"[:60]
            advice = f": {nearest(str(value), key.kind)}" if isinstance(key.kind, tuple) else ""
            raise UserError(f"{where} is {said}, not {wanted}{advice}")
    elif path in sections:
        if not isinstance(value, dict | None):
            raise UserError(f"{where} is {value!r}"[:200] + ", not a mapping of keys")
    elif not any(above in known for above in _above(path)):
        raise UserError(f"{where} is no key of SkyRL: {_advice(config.layout, path)}")


def _fits(key: Key, value: Any) -> bool:
    if isinstance(key.kind, tuple):
        return value in key.kind
    if key.kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, key.kind) and (key.kind is not int or not isinstance(value, bool))


def _above(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def _advice(layout: str, path: str) -> str:
    """The key's name in this layout where it is the other's, else the nearest known one of its section."""
    last = path.rpartition(".")[2]
    if layout == NEW and (other := KNOWN[OLD].get(path)):
        return f"today it is {other.today}" if other.today else "it was of SkyRL v0.4.0, and is gone"
    if layout == OLD and (other := KNOWN[NEW].get(f"{ENGINE}.{last}")) and path.count(".") == 1:
        here = f"; here it is {other.name.rpartition('.')[2]}" if other.name else ""
        return f"today's name, under {ENGINE}{here}"
    section = path.rpartition(".")[0]
    near = {name for name in (*KNOWN[layout], *SECTIONS[layout]) if name.rpartition(".")[0] == section}
    elsewhere = [name for name in KNOWN[layout] if name.rpartition(".")[2] == last]
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    if len(near) > 8:
        return f"the nearest is {difflib.get_close_matches(path, near, n=1, cutoff=0)[0]}"
    return nearest(path, near)


def _sections(layout: str) -> str:
    return ", ".join(sorted({name.partition(".")[0] for name in SECTIONS[layout]}))
