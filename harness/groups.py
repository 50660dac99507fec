"""Which cases share a launch: one engine is started for all of them, and they are measured in it one after another."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.inference import Inference
from harness.plan import Key
from harness.scenario import Scenario


@dataclass(frozen=True)
class Group:
    """Cases of equal engine settings; most are alone."""

    cases: dict[str, Scenario]

    def turned(self, pair: int) -> list[str]:
        """Their names in the order of a pair of launches: each pair begins with another, so that no case owes its
        figures to its place."""
        names = list(self.cases)
        first = (pair - 1) % len(names)
        return names[first:] + names[:first]

    def keys(self, engine: str) -> list[Key]:
        """What a launch of this engine measures; nothing where all cases are other engines' own."""
        return [(name, engine) for name, case in self.cases.items() if case.runs_on(engine)]


def grouped(cases: Mapping[str, Scenario], share: bool = False) -> list[Group]:
    """All cases, those that share a launch together. `share` lets inference cases share too, with each other alone:
    what changes an engine's weights or memory shares no launch with what only asks it."""
    found: list[tuple[object, dict[str, Scenario]]] = []
    for name, case in cases.items():
        why = case.shares or ("share" if share and isinstance(case, Inference) else name)
        settings = why, case.model, case.gpus, case.options
        together = next((group for other, group in found if other == settings), None)
        if together is None:
            found.append((settings, {name: case}))
        else:
            together[name] = case
    return [Group(group) for _, group in found]


def launches(groups: Iterable[Group], engines: Iterable[str]) -> list[list[Key]]:
    """For each group and engine, what one launch measures, where it measures something."""
    engines = list(engines)
    return [keys for group in groups for engine in engines if (keys := group.keys(engine))]
