"""results/README.md and what it links: tables that GitHub shows, and plots. The same records give the same bytes."""

import os
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness import beside, compare, foreign, plots, store
from harness.draw import MADE, MOST, svgs
from harness.envs import PAIR
from harness.errors import UserError
from harness.evidence import Evidence, read
from harness.markdown import code, flat, image, link, plain, table, url
from harness.metrics import METRICS
from harness.plots import Plot
from harness.record import Record
from harness.standings import NAMES, Judge, Standing, by_gate, command

HEAD = f"""# Results

<!-- {MADE} -->
Written by `rollbench report` from the records in this folder; `rollbench report --html` makes a page of them in which
one can filter and zoom, `rollbench guide` says what follows for the choice of an engine.

A figure is the geometric mean over launches, one number a launch, with its 95 % t interval; a ratio is that of vLLM to
SGLang, paired by launch where both ran in one run. The verdict is by the rule of `rollbench gate` over the metrics of a
case: which engine is better, `alike` where a difference that matters would have been seen, else `inconclusive`. A
figure leads to its record; `invalid`: a certificate does not hold.
"""
NO_GPU = "No GPU: these figures show that all works, not how fast an engine is."


def files(root: Path, judge: Judge = by_gate) -> tuple[dict[str, str], Evidence]:
    """Every file of the report by its path below the results folder. Raises UserError when there are no records."""
    evidence = records_of(root)
    made, drawn, parts = dict[str, str](), dict[str, Sequence[Plot]](), list[str]()
    records = list[Record]()
    for machine, scenario, shown, figures in plots.sections(evidence):
        if not parts or not parts[-1].startswith(f"## {plain(machine)}\n"):
            parts.append(_machine(machine, next(iter(shown[-1].records.values()))))
        folder = f"{slug(machine)}/{slug(scenario)}"
        drawn |= {f"{folder}/{slug(name)}.svg": together for name, together in figures.items()}
        parts[-1] += _scenario(folder, shown, figures, judge)
        made[f"{folder}/README.md"] = _details(shown, judge)
        records += (record for standing in shown for record in standing.records.values())
    made["README.md"] = "\n".join([HEAD, *parts, *_foreign(evidence, records), *_skipped(evidence)])
    return made | dict(zip(drawn, svgs(list(drawn.values())), strict=True)), evidence


def records_of(root: Path) -> Evidence:
    """All records of a folder. Raises UserError when there are none."""
    evidence = read(root)
    if not evidence.entries:
        why = f" ({len(evidence.skipped)} files are none: {evidence.skipped[0]})" if evidence.skipped else ""
        raise UserError(f"{root}: no records{why}; `rollbench run` makes them")
    return evidence


def write(root: Path, made: dict[str, str]) -> list[str]:
    """Write what differs, and take away what an earlier report left; the paths of both."""
    changed = stale(root, made)
    for name in changed:
        if name in made:
            store.write(root / name, made[name])
        else:
            (root / name).unlink()
    return changed


def stale(root: Path, made: dict[str, str]) -> list[str]:
    """Files of the report that are missing, differ, or should not be there."""
    there = (path for pattern in ("README.md", "*.svg") for path in root.rglob(pattern))
    found = {str(path.relative_to(root)): path.read_text("utf-8", "replace") for path in there}
    differ = [name for name, text in made.items() if found.get(name) != text]
    return sorted([*differ, *(name for name, text in found.items() if name not in made and MADE in text)])


def slug(name: str) -> str:
    """A name that is safe as a file's; another name never has the same."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).lstrip(".-")[:80]
    return safe if safe == name != "" else f"{safe or 'unnamed'}-{zlib.crc32(name.encode(errors='replace')):08x}"


def _machine(machine: str, record: Record) -> str:
    found = record.machine
    gpus = ", ".join(f"{found.gpus.count(gpu)} × {plain(gpu)}" for gpu in dict.fromkeys(found.gpus))
    driver = f", driver {plain(found.driver)}" if found.driver else ""
    about = f"{plain(found.cpu)}, {found.cores} cores, {found.ram_gib:.0f} GiB{driver}."
    return f"## {plain(machine)}\n\n{gpus + '; ' if gpus else ''}{about}{'' if gpus else ' ' + NO_GPU}\n"


def _scenario(folder: str, shown: Sequence[Standing], figures: Mapping[str, Sequence[Plot]], judge: Judge) -> str:
    engines = _engines(shown)
    headers = ["case", "model", "metric", *(NAMES.get(engine, plain(engine)) for engine in engines), *_ratio_headers()]
    rows = [row for standing in shown for row in _rows(standing, standing.headlines, engines, judge)]
    parts = [f"\n### {plain(shown[0].key.scenario)}\n", table(headers, rows), ""]
    for name, found in figures.items():
        parts.append(image(f"{found[0].title}, {found[0].y}", f"{folder}/{slug(name)}.svg"))
        if len(found) > MOST and name == "history":
            parts.append(f"\nThe {MOST} of {len(found)} cases whose newest record differs most from the one before.")
    details = link("every metric, parameters, commands", f"{folder}/README.md")
    evidence = table(EVIDENCE, list(_evidence(shown)))
    return "\n".join([*parts, "", evidence, "", f"More: {details}", *_why(shown), "", *_targets(shown), ""])


def _engines(shown: Iterable[Standing]) -> list[str]:
    found = {engine for standing in shown for engine in standing.records}
    return [*PAIR, *sorted(found - set(PAIR))]


def _ratio_headers() -> list[str]:
    before, after = (NAMES[engine] for engine in PAIR)
    return [f"{after} / {before}", "verdict"]


def _rows(
    standing: Standing, metrics: Iterable[str], engines: Sequence[str], judge: Judge, named: bool = True
) -> Iterable[list[str]]:
    """A row a metric; the case and its model stand in the first."""
    first = [code(standing.key.case.split("/", 1)[-1]), plain(standing.key.model)] if named else []
    verdicts = judge(standing)
    for name in metrics:
        ratio = standing.ratios.get(name)
        paired = "" if ratio is None or ratio.paired or ratio.broken else " (unpaired)"
        cells = [_level(standing, engine, name) for engine in engines]
        says = ["", ""] if ratio is None else [plain(compare.ratio_text(ratio)) + paired, plain(verdicts.get(name, ""))]
        yield [*first, METRICS[name].title, *cells, *says]
        first = [""] * len(first)


def _level(standing: Standing, engine: str, metric: str) -> str:
    record = standing.records.get(engine)
    if record is None:
        return "not run"
    level = standing.levels.get(metric, {}).get(engine)
    told = compare.no_level(record) if level is None else compare.level_text(level, METRICS[metric])
    return f"[{plain(told)}][{_name(standing.entries[engine].path)}]"


def _name(path: str) -> str:
    """What a document calls a record: the hash that its file's name ends with, which is of its content."""
    last = Path(path).stem.rpartition("-")[2]
    return last if re.fullmatch("[0-9a-f]{8}", last) else f"{zlib.crc32(os.fsencode(path)):08x}"


def _targets(shown: Iterable[Standing], up: str = "") -> list[str]:
    """Where the links of figures lead: each path once, since a table has many links to it."""
    paths = sorted(entry.path for standing in shown for entry in standing.entries.values())
    return [f"[{_name(path)}]: {url(up + path)}" for path in paths]


EVIDENCE = ("case", "engine", "launches", "certificates", "versions", "lane", "commit", "measured", "record")


def _evidence(shown: Iterable[Standing]) -> Iterable[list[str]]:
    for standing in shown:
        for engine, record in standing.records.items():
            dirty = " (files differed)" if record.commit.dirty else ""
            yield [
                code(standing.key.case.split("/", 1)[-1]), NAMES.get(engine, plain(engine)),
                compare.launches_text(record), plain(compare.certificates_text(record)),
                plain(compare.versions_text(record)), plain(record.lane), f"{code(record.commit.id[:8])}{dirty}",
                f"{record.started:%Y-%m-%d}", f"[record][{_name(standing.entries[engine].path)}]",
            ]  # fmt: skip


def _why(shown: Iterable[Standing]) -> Iterable[str]:
    """Why a figure or a ratio is missing."""
    told = list[str]()
    for standing in shown:
        told += [f"no ratio of {plain(standing.key.case)}: {plain(standing.why)}"] if standing.why else []
        for record in standing.records.values():
            told += [f"not supported: {plain(record.case)} on {plain(record.engine)}: {plain(record.unsupported)}"
                     ] * bool(record.unsupported)  # fmt: skip
            told += [f"invalid: {plain(record.case)} on {plain(record.engine)}: {plain(why)}" for why in record.broken]
        for engine, entries in standing.set_aside.items():
            what = f"set aside: {plain(standing.key.case)} on {plain(engine)}, the record of"
            told += [f"{what} {entry.started:%Y-%m-%d %H:%M}: {plain(entry.spoilt)}" for entry in entries]
    return ["", *(f"- {line}" for line in told)] if told else []


def _details(shown: Sequence[Standing], judge: Judge) -> str:
    """The README of a scenario's folder on a machine: all that its records say."""
    key, up = shown[0].key, "../../"
    parts = [f"# {plain(key.scenario)} on {plain(key.machine)}\n\n<!-- {MADE} -->\n{link('All results', up)}\n"]
    for standing in shown:
        records = list(standing.records.values())
        engines = [engine for engine in _engines([standing]) if engine in standing.records]
        headers = ["metric", *(NAMES.get(engine, plain(engine)) for engine in engines), *_ratio_headers()]
        about = ", ".join(f"{plain(name)} {plain(value)}" for name, value in records[0].params.items())
        rows = list(_rows(standing, standing.metrics, engines, judge, named=False))
        parts += [
            f"## {plain(standing.key.case.split('/', 1)[-1])}\n", f"{about}\n", table(headers, rows),
            f"\nAgain: {code(command(records))}\n",
        ]  # fmt: skip
    return "\n".join([*parts, *_targets(shown, up), ""])


def _foreign(evidence: Evidence, records: Sequence[Record]) -> list[str]:
    """Other tools' results, each with a link to its file."""
    found, skipped = foreign.read(evidence.root)
    evidence.skipped += (why.replace(f"{evidence.root}/", "") for why in skipped)
    rows = list[list[str]]()
    for path, one in found:
        first = link(plain(beside.about(one)), path.relative_to(evidence.root).as_posix())
        rows += (
            [first if not number else "", *map(plain, row)] for number, row in enumerate(beside.rows(one, records))
        )
    return [f"## Foreign results\n\n{beside.TITLE}.\n", table(beside.HEADERS, rows), ""] if rows else []


def _skipped(evidence: Evidence) -> list[str]:
    why = sorted(map(flat, evidence.skipped))
    return ["## Passed over\n", *(f"- {plain(line)}" for line in why), ""] if why else []
