"""Foreign results beside our own figures: no ratio and no verdict, since nothing says that the work was the same."""

from collections.abc import Sequence

from harness import compare, stats
from harness.evidence import finite
from harness.foreign import Foreign
from harness.metrics import METRICS
from harness.record import Record

TITLE = "Foreign: measured by other tools, by their own rules; beside our figures, no ratio and no verdict"
HEADERS = ("foreign result", "metric", "foreign figure", "rollbench's")


def about(one: Foreign) -> str:
    """What it is of, and what nobody said of it."""
    where = f"on {one.machine}" if one.machine else "machine not said"
    engine = f"{one.engine} {one.version}".strip() if one.engine else "engine not said"
    told = (f"foreign: {one.tool}", one.file, engine, one.model or "model not said", where, one.case or "no case named")
    failed = one.params.get("failed")
    return ", ".join(told) + (f", failed requests: {failed}" if failed else "")


def rows(one: Foreign, records: Sequence[Record]) -> list[list[str]]:
    """A row for each figure: metric, theirs, ours."""
    return [
        [METRICS[name].title, compare.level_text(stats.level([samples]), METRICS[name]), _ours(one, name, records)]
        for name, samples in one.figures.items()
    ]


def _ours(one: Foreign, metric: str, records: Sequence[Record]) -> str:
    """What rollbench measured of that case on that engine and machine; on any, where the result does not say, with what
    that is."""
    told = []
    for record in records:
        model, machine = str(record.params.get("model", "")), record.machine.id
        wanted = (one.case, one.engine or record.engine, one.machine or machine)
        samples = finite(record.samples(metric))
        if wanted == (record.case, record.engine, machine) and samples:
            level = compare.level_text(stats.level(samples), METRICS[metric])
            open_or_other = ((one.engine, record.engine), (one.model, model), (one.machine, machine))
            apart = ", ".join(ours for theirs, ours in open_or_other if not theirs.endswith(ours))
            told.append((compare.no_level(record) if record.broken else level) + (f" ({apart})" if apart else ""))
    return "; ".join(told)
