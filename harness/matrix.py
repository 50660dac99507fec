"""The feature matrix of a machine: of each feature on each engine, what its records prove."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from harness import markdown
from harness.compare import plain
from harness.probes import Probe, Said, State
from harness.scenario import Scenario
from harness.standings import NAMES, Standing

ORDER = list(State)


@dataclass(frozen=True)
class Cell:
    """`words` beside the state; `path` of the record that says so, below the results; else the `case` that would."""

    state: State
    words: str
    path: str = ""
    case: str = ""

    @property
    def text(self) -> str:
        return f"{self.state}: {self.words}" if self.state != State.YES else f"{self.state} ({self.words})"


Row = tuple[Probe, Mapping[str, Cell]]


def rows(probes: Iterable[Probe], engines: Sequence[str], standings: Sequence[Standing], gpus: int) -> list[Row]:
    """Of the standings of one machine, which has so many GPUs."""
    return [(probe, {engine: cell(probe, engine, standings, gpus) for engine in engines}) for probe in probes]


def cell(probe: Probe, engine: str, standings: Sequence[Standing], gpus: int) -> Cell:
    """What the records prove: the first state of theirs, and of those in it the newest record."""
    best, key = None, (0, 0.0)
    for standing in standings:
        record = standing.records.get(engine)
        if record is None or not probe.speaks(record):
            continue
        state, words = probe.outcome(record)
        mine = (-ORDER.index(state), record.started.timestamp())
        if best is None or mine > key:
            best, key = Cell(state, words, standing.entries[engine].path), mine
    case = probing(probe, engine, gpus)
    if best is None:
        state, words = _unproved(probe, engine, gpus, case)
        return Cell(state, words, case=case)
    return best if best.state in (State.YES, State.NO) else Cell(best.state, best.words, best.path, case)


def probing(probe: Probe, engine: str, gpus: int) -> str:
    """The first case that a machine of so many GPUs can probe it with, one made for GPUs where it has any; or none."""
    return next((name for name, case in _candidates(probe, engine, gpus).items() if case.gpus <= gpus), "")


def _candidates(probe: Probe, engine: str, gpus: int) -> dict[str, Scenario]:
    """The cases that are for machines like one of so many GPUs."""
    found = probe.candidates(engine)
    return (gpus and {name: case for name, case in found.items() if case.gpus}) or found


def _unproved(probe: Probe, engine: str, gpus: int, case: str) -> Said:
    """Why there is no record."""
    if probe.why:
        return State.NONE, probe.why
    if case:
        return State.NONE, f"{case} would tell"
    needed = min((found.gpus for found in _candidates(probe, engine, gpus).values()), default=math.inf)
    if needed == math.inf:
        return State.IMPOSSIBLE, "another engine's own way"
    return State.IMPOSSIBLE, f"needs {needed} GPU{'s' if needed > 1 else ''}, this machine has {gpus or 'none'}"


def of_rows(title: str, found: Sequence[Row], root: str) -> tuple[Table, list[str]]:
    """For a terminal: the table, and the records that its numbers stand for."""
    table, sources = Table(title=plain(title), title_justify="left"), list[str]()
    for header in ("feature", "judged", *_engines(found)):
        table.add_column(header, overflow="fold")
    for probe, cells in found:
        texts = []
        for one in cells.values():
            sources += [one.path] if one.path and one.path not in sources else []
            texts.append(one.text + (f" [{sources.index(one.path) + 1}]" if one.path else ""))
        table.add_row(probe.feature, probe.told, *map(plain, texts))
    return table, [f"[{number}] {root}/{path}" for number, path in enumerate(sources, 1)]


def as_markdown(title: str, found: Sequence[Row], root: str) -> str:
    """As GitHub shows it; links begin with `root`."""
    lines = [
        [markdown.plain(probe.feature), markdown.plain(probe.told), *(_linked(one, root)
                                                                                   for one in cells.values())]
        for probe, cells in found
    ]  # fmt: skip
    return f"**{markdown.plain(title)}**\n\n" + markdown.table(("feature", "judged", *_engines(found)), lines) + "\n"


def _linked(one: Cell, root: str) -> str:
    shown, rest = f"**{one.state}**", markdown.plain(one.words)
    return f"{markdown.link(shown, f'{root}/{one.path}') if one.path else shown}: {rest}"


def _engines(found: Sequence[Row]) -> list[str]:
    return [NAMES.get(engine, engine) for engine in (found[0][1] if found else ())]
