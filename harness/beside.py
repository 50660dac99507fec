"""Foreign results beside our own figures: no ratio and no verdict, since nothing says that the work was the same."""

from collections.abc import Iterable, Sequence

from harness import compare, stats
from harness.evidence import finite
from harness.foreign import Foreign
from harness.metrics import METRICS
from harness.record import Record

TITLE = "Foreign: measured by other tools, by their own rules; beside our figures, no ratio and no verdict"
HEADERS = ("case", "metric", "foreign figure", "rollbench's", "tool", "engine", "model", "machine", "file")


def rows(found: Iterable[Foreign], records: Sequence[Record]) -> list[list[str]]:
    """A row for each figure of each foreign result."""
    return [
        [
            one.case or "none named", METRICS[name].title, compare.level_text(stats.level([samples]), METRICS[name]),
            _ours(one, name, records), f"foreign: {one.tool}", f"{one.engine or 'not said'} {one.version}".strip(),
            one.model or "not said", one.machine or "not said", one.file,
        ]
        for one in found
        for name, samples in one.figures.items()
    ]  # fmt: skip


def _ours(one: Foreign, metric: str, records: Sequence[Record]) -> str:
    """What rollbench measured of that case on that engine and machine; on any, where the result does not say."""
    told = []
    for record in records:
        fits = record.case == one.case and record.engine == (one.engine or record.engine)
        samples = finite(record.samples(metric))
        if fits and record.machine.id == (one.machine or record.machine.id) and samples:
            level = compare.no_level(record) if record.broken else compare.level_text(
                stats.level(samples), METRICS[metric]
            )  # fmt: skip
            told.append(f"{record.engine} {level} ({record.params.get('model', '')}, {record.machine.id})")
    return "; ".join(told)
