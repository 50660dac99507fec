"""The backend selection guide, written from records: each claim of the old guide with what was found of it."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from harness import claims, scenario
from harness.claims import CLAIMS, SECTIONS, Claim, Judged
from harness.envs import PAIR
from harness.findings import Finding, Says
from harness.markdown import code, link, plain, table
from harness.metrics import METRICS
from harness.plots import Section
from harness.report import slug
from harness.standings import NAMES, Standing
from harness.worker import options

SHOWN = 3  # findings of a claim that are told
HEAD = """# Backend selection guide: SGLang or vLLM for RL training

<!-- made by rollbench guide -->
Written by `rollbench guide` from the records in {results}, from the locks, and from what the resolver answered for
them (requirements/together.json). People chose by an older guide whose claims had no evidence: each of them is a row
here, with what was found of it and where. What no record supports says so, and which command would tell.

**holds**: every finding is for it. **does not hold**: at least one finding is against it. **inconclusive**: figures are
there, and do not decide. **not measured**: nothing says anything of it. An engine *does it* where launches of a case
ended well and their certificates hold; it is *better* where `rollbench gate` would say so. A speed on a machine without
a GPU shows that all works, not how fast an engine is: such findings count only where there are no others, and say so.
"""
INTRO = {
    "Migration": """Both engines take the same neutral options (`rollbench options`); for a flag of one stands its like
in the other:
""",
    "Common scenarios": """Each is a case of that name: `rollbench run 'single_turn/*-gsm8k'`, `'multi_turn/*-agent'`,
`'single_turn/*-code'`, `'single_turn/*-memory'`.
""",
    "Feature support": """A feature counts as there when an engine did it in a record whose certificates hold, those of
the feature among them; `rollbench matrix` has the same for more features, a table for each machine.
""",
    "Installation": """Each engine has an environment of its own, from a hash-locked lock: `nox -s env-sglang env-vllm`
builds them, `rollbench doctor` says what is missing. Trainer and engine are processes of their own, so that one machine
holds both environments. What the resolver says (`python requirements/together.py` asks it anew):
""",
}
FIGURES = {  # by section: scenarios and figures whose plots stand there
    "Generation throughput": (("single_turn", "multi_turn", "long_context"), "throughput-*"),
    "Weight sync time": (("weight_sync",), "sync-*"),
    "Memory efficiency": (("sleep_wake",), "sleep-memory"),
}


def text(found: Sequence[Section], up: str) -> str:
    """The guide. `up`: the results folder, as a link from it sees that."""
    everything = [standing for section in found for standing in section.shown]
    judged = {name: [claims.judge(c, everything) for c in CLAIMS if c.section == name] for name in SECTIONS}
    parts = [HEAD.format(results=link(plain(up), f"{up}/README.md")), _summary(judged), ""]
    for number, name in enumerate(SECTIONS, 1):
        parts += [f"## {number}. {name}\n", *_extra(name, everything), *_pictures(name, found, up)]
        rows = [_row(one, up) for one in judged[name]]
        parts += [table(("the old guide says", "metric and test", "verdict", "found"), rows), ""]
    return "\n".join(parts)


def _summary(judged: Mapping[str, Sequence[Judged]]) -> str:
    rows = []
    for name, mine in judged.items():
        counts = Counter(one.says for one in mine)
        rows.append([name, *(str(counts[says]) for says in Says)])
    total = Counter(one.says for mine in judged.values() for one in mine)
    rows.append(["**all**", *(f"**{total[says]}**" for says in Says)])
    return table(("claims about", *Says), rows)


def _extra(name: str, everything: Sequence[Standing]) -> list[str]:
    parts = [INTRO[name]] if name in INTRO else []
    if name == SECTIONS[0]:
        headers = (
            "machine",
            "work",
            "metric",
            *(f"{NAMES[engine]} better" for engine in PAIR),
            "alike",
            "inconclusive",
        )
        intro = "In how many cases each engine was better, by the rule of `rollbench gate`:\n"
        return [intro, table(headers, list(_tally(everything))), "\nWhat became of the old answers:\n"]
    return [*parts, _options(), ""] if name == "Migration" else parts


def _tally(everything: Sequence[Standing]) -> Iterable[list[str]]:
    """A row for each machine, scenario and its first metric that has verdicts."""
    for machine, kind in dict.fromkeys((s.key.machine, s.key.scenario) for s in everything):
        mine = [s for s in everything if (s.key.machine, s.key.scenario) == (machine, kind)]
        metric = next((name for s in mine for name in s.headlines if name in s.verdicts), None)
        if metric is None:
            continue
        counts = Counter(s.verdicts.get(metric, "") for s in mine)
        words = (*(f"{NAMES[engine]} better" for engine in PAIR), "alike", "inconclusive")
        where = plain(machine) + ("" if mine[0].gpu else " (no GPU)")
        yield [where, plain(kind), METRICS[metric].title, *(str(counts[word]) for word in words)]


def _options() -> str:
    rows = []
    for name, row in options.ROWS.items():
        value = options.EXAMPLES.get(name, getattr(scenario.Options(), name))
        flags = (getattr(row, engine)(value) for engine in ("vllm", "sglang"))
        rows.append(
            [plain(name), plain(row.meaning), *(", ".join(code(f"{k}={v}") for k, v in f.items()) for f in flags)]
        )
    return table(("option", "meaning", "vLLM", "SGLang"), rows)


def _pictures(name: str, found: Sequence[Section], up: str) -> list[str]:
    scenarios, pattern = FIGURES.get(name, ((), ""))
    return [
        f"![{plain(plots[0].title)}, {plain(section.machine)}]({up}/{slug(section.machine)}/{slug(section.scenario)}/"
        f"{slug(figure)}.svg)\n"
        for section in found
        if section.scenario in scenarios
        for figure, plots in section.figures.items()
        if fnmatchcase(figure, pattern)
    ]


def _row(one: Judged, up: str) -> list[str]:
    against = sum(finding.says == one.says for finding in one.findings)
    many = f" ({against} of {len(one.findings)})" if 0 < against < len(one.findings) else ""
    where = ", on a CPU only" if one.cpu_only else ""
    claim = one.claim
    test = f"{METRICS[claim.metric].title}: {claim.test.told}" if claim.metric else claim.test.told
    return [plain(claim.text), plain(test), f"**{one.says}**{many}{where}", _found(one, up)]


def _found(one: Judged, up: str) -> str:
    """The findings that decide first; where there are none, what would tell."""
    ordered = sorted(one.findings, key=lambda finding: (finding.says != one.says, not finding.gpu))
    lines = [_finding(finding, up) for finding in ordered[:SHOWN]]
    if (left := len(ordered) - SHOWN) > 0:
        lines.append(f"and {left} more")
    return "<br>".join(lines) or _would_tell(one.claim)


def _finding(finding: Finding, up: str) -> str:
    links = ", ".join(link(NAMES.get(engine, plain(engine)), f"{up}/{path}") for engine, path in finding.records)
    return plain(finding.told) + (f": {links}" if links else "")


def _would_tell(claim: Claim) -> str:
    """The command that would measure it, where a case exists."""
    cases = scenario.cases()
    known = [name for pattern in claim.cases for name in cases if fnmatchcase(name, pattern)]
    if not known:
        return "no case measures it yet"
    large = next((name for name in known if "tiny" not in name), known[0])
    where = f" on {claim.needs}" if claim.needs else ""
    engines = " ".join(f"-e {engine}" for engine in PAIR if cases[large].runs_on(engine))
    return f"no record; {code(f'rollbench run {large} {engines}')}{where} would tell"


def relative(root: Path, output: Path) -> str:
    """The results folder, seen from the guide's."""
    return Path(os.path.relpath(root, output.parent)).as_posix()
