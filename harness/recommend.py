"""Which engine to take: the old guide's quick decision, answered from records; its rule, as opinion, where none speaks.

A record speaks of a GPU when it was measured on it, or on another GPU where there is none of it, which its answer says.
One of a machine without a GPU speaks only to who has none.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from harness import compare, scenario
from harness.claims import BATCH, DISCARD, EVERY, LONG, MULTI
from harness.envs import PAIR
from harness.findings import Finding, Says, runs
from harness.machine import Machine
from harness.metrics import METRICS
from harness.standings import NAMES, Standing

NO_GPU = "none"
CONSUMER = re.compile(r"\b(?:GTX|RTX)?\s*[1-5]0[5-9]0\b", re.IGNORECASE)  # RTX 3090, 4090; not A100, RTX 6000
RECORDS, ELSEWHERE = "from records", "from records of another GPU"
OPINION = "the old guide's rule: an opinion, no record decides it"
EITHER, OPEN = "either", "not decided"
SHOWN = 4  # pieces of evidence of an answer that are told


@dataclass(frozen=True)
class Look:
    """What of the records decides: a metric of cases, which are patterns."""

    cases: tuple[str, ...]
    metric: str = "output_throughput"


@dataclass(frozen=True)
class Rule:
    """What the old guide says, the engine that it names, if any, and what in records would decide it."""

    text: str
    engine: str = ""
    looks: tuple[Look, ...] = ()


@dataclass(frozen=True)
class Question:
    """One of the quick decision's; `choices` by what can be answered."""

    name: str
    text: str
    choices: Mapping[str, Rule]


@dataclass(frozen=True)
class Evidence:
    """`records`: their paths below the results folder."""

    text: str
    records: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """`engine`: the one to take by it, if any; `basis`: what it rests on, RECORDS, ELSEWHERE or OPINION, or nothing."""

    about: str
    engine: str
    words: str
    basis: str
    rule: str
    evidence: Sequence[Evidence] = ()
    limits: Sequence[str] = ()


_TALK = Rule("multi-turn or agent training: SGLang, the better prefix caching", "sglang",
             (Look(MULTI, "conversation_time"),))  # fmt: skip
_DEFAULT = Rule("when in doubt SGLang, the recommended default", "sglang", (Look((*BATCH, *MULTI, *LONG)),))
WORKLOAD = Question("workload", "What will it generate", {
    "multi-turn": _TALK,
    "agent": _TALK,
    "single-turn": Rule("single-turn prompts: similar", looks=(Look(BATCH),)),
    "math": Rule("GSM8K: either works well, SGLang slightly preferred", "sglang", (Look(("single_turn/*-gsm8k",)),)),
    "code": Rule("code generation: either works", looks=(Look(("single_turn/*-code",)),)),
    "long-context": Rule("long sequences: similar", looks=(Look(LONG),)),
})  # fmt: skip
MEMORY = Question("memory", "Is GPU memory tight (trainer and engine share one GPU)", {
    "tight": Rule("memory-constrained, one GPU: SGLang", "sglang",
                  (Look(DISCARD, "memory_asleep"), Look(("single_turn/*-memory",)))),
    "enough": Rule(""),
})  # fmt: skip
FAMILIAR = Question("familiar", "Which engine do you know already", {
    "vllm": Rule("already familiar with vLLM: vLLM", "vllm"), "sglang": _DEFAULT, "neither": _DEFAULT,
})  # fmt: skip
QUESTIONS = (WORKLOAD, MEMORY, FAMILIAR)


def answers(choices: Mapping[str, str], gpu: str, everything: Sequence[Standing]) -> Iterator[Answer]:
    """An answer to each question that has a rule, by its choice, and to which engine runs on the GPU, in the old
    guide's order: what comes first counts more."""
    for question in QUESTIONS:
        rule = question.choices[choices[question.name]]
        if rule.text:
            yield _answer(f"{question.name} {choices[question.name]}", rule, gpu, everything)
        if question is WORKLOAD:
            yield _on_gpu(gpu, everything)


def verdict(found: Sequence[Answer]) -> tuple[str, str]:
    """What to take, and why: what records say counts before opinions, then the order of the answers."""
    for basis in (RECORDS, ELSEWHERE, OPINION):
        if named := [answer for answer in found if answer.basis == basis and answer.engine]:
            others = [answer.about for answer in named if answer.engine != named[0].engine]
            why = f"{named[0].about} ({basis})"
            return NAMES[named[0].engine], why + (f"; against it: {', '.join(others)}" if others else "")
    return EITHER, "no answer names one"


def matches(gpu: str, names: Sequence[str]) -> bool:
    """Whether a machine with these GPUs has the one that was named, word for word; NO_GPU: whether it has none."""
    if gpu.lower() == NO_GPU:
        return not names
    return any(_words(gpu) <= _words(name) for name in names)


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def _answer(about: str, rule: Rule, gpu: str, everything: Sequence[Standing]) -> Answer:
    """By the verdicts of the gate's rule on what the rule looks at."""
    chosen = [(s, look.metric) for look in rule.looks for s in everything if _named(s, look)]
    sound = [one for one in chosen if _speaks(*one)]
    here = [one for one in sound if matches(gpu, _machine(one[0]).gpus)]
    near = here or [one for one in sound if one[0].gpu and gpu.lower() != NO_GPU]
    said = [s.verdicts.get(metric, "inconclusive") for s, metric in near]
    winners = [engine for engine in PAIR if f"{NAMES[engine]} better" in said]
    evidence = [_evidence(standing, metric) for standing, metric in near]
    mute = [one for one in chosen if not _speaks(*one)]
    left = {s.key.machine for s, _ in sound if not near and not s.gpu}
    limits = [*_limits(near, bool(here), gpu, said, winners), *_mute(mute), *_missing(rule, near, left)]
    engine, basis = (winners[0] if len(winners) == 1 else ""), RECORDS if here else ELSEWHERE
    words = "it depends on the case" if len(winners) > 1 else NAMES.get(engine, EITHER)
    if not winners and set(said) != {"alike"}:
        engine, basis, words = rule.engine, OPINION, NAMES.get(rule.engine, EITHER)
    return Answer(about, engine, words, basis, rule.text, evidence, limits)


def _named(standing: Standing, look: Look) -> bool:
    return any(fnmatchcase(standing.key.case, pattern) for pattern in look.cases)


def _speaks(standing: Standing, metric: str) -> bool:
    return metric in standing.ratios and not standing.ratios[metric].broken


def _machine(standing: Standing) -> Machine:
    return next(iter(standing.records.values())).machine


def _evidence(standing: Standing, metric: str) -> Evidence:
    """The ratio with its interval, of how many launches, what the gate's rule says, of what versions."""
    ratio, key = standing.ratios[metric], standing.key
    before, after = (NAMES[engine] for engine in PAIR)
    how = "pairs of launches" if ratio.paired else "launches, unpaired"
    told = f"{METRICS[metric].title}, {after} / {before} {compare.ratio_text(ratio)}, {ratio.estimate.launches} {how}"
    versions = "; ".join(compare.versions_text(standing.records[engine]) for engine in PAIR)
    text = (
        f"{told}: {standing.verdicts.get(metric, 'inconclusive')} ({key.case}, {key.model}, {key.machine}; {versions})"
    )
    return Evidence(text, tuple(standing.entries[engine].path for engine in PAIR))


def _limits(
    near: Sequence[tuple[Standing, str]], here: bool, gpu: str, said: Sequence[str], winners: Sequence[str]
) -> Iterator[str]:
    """What the records that speak do not say."""
    if not near:
        return
    if not here:
        yield f"measured on {', '.join(sorted({s.key.machine for s, _ in near}))}, none on {gpu}"
    if gpu.lower() == NO_GPU:
        yield "a machine without a GPU shows that all works, not how fast an engine is on one"
    yield f"measured with {', '.join(sorted({s.key.model for s, _ in near}))}: another model or size may differ"
    if undecided := sum(f"{NAMES[winner]} better" != word for winner in winners[:1] for word in said):
        yield f"{undecided} of {len(said)} say otherwise or do not decide"


def _mute(found: Sequence[tuple[Standing, str]]) -> Iterator[str]:
    """Why there is no ratio where there are records."""
    for standing, metric in found:
        refused = [f"{NAMES.get(name, name)}: {r.unsupported}" for name, r in standing.records.items() if r.unsupported]
        invalid = [f"invalid: {standing.ratios[metric].broken}"] if metric in standing.ratios else []
        why = "; ".join([*refused, *invalid]) or standing.why or f"no ratio of {METRICS[metric].title}"
        yield f"says nothing: {standing.key.case} on {standing.key.machine}: {why}"


def _missing(rule: Rule, near: Sequence[tuple[Standing, str]], left: Iterable[str]) -> Iterator[str]:
    """Records that are left out, and what would tell."""
    if machines := ", ".join(sorted(left)):
        yield f"records of {machines} are left out: no GPU"
    if rule.looks and not near:
        names = [name for look in rule.looks for pattern in look.cases for name in scenario.cases()
                 if fnmatchcase(name, pattern)]  # fmt: skip
        large = next((name for name in names if "tiny" not in name), None)
        if large:
            yield f"no record speaks of it: `rollbench run {large} --launches 5` there would tell"


def _on_gpu(gpu: str, everything: Sequence[Standing]) -> Answer:
    """Whether the engines run on this GPU at all. The old guide: on a consumer GPU SGLang."""
    chosen = [s for s in everything if any(fnmatchcase(s.key.case, pattern) for pattern in EVERY)]
    found: dict[str, list[Finding]] = {
        engine: runs(engine, lambda record: matches(gpu, record.machine.gpus)).find(chosen, "", everything)
        for engine in PAIR
    }
    can = [engine for engine in PAIR if any(finding.says == Says.HOLDS for finding in found[engine])]
    cannot = [engine for engine in PAIR if engine not in can and any(f.says == Says.FAILS for f in found[engine])]
    shown = [[f for f in found[engine] if f.says in (Says.HOLDS, Says.FAILS)][:1] for engine in PAIR]
    evidence = [Evidence(f.told, tuple(path for _, path in f.records)) for of_engine in shown for f in of_engine]
    about, rule = f"gpu {gpu}", "a consumer GPU (RTX 3090, 4090): SGLang, FlashInfer works everywhere"
    if len(can) == len(PAIR):
        return Answer(about, "", f"{EITHER}: both run", RECORDS, "", evidence)
    if can and cannot:
        return Answer(about, can[0], NAMES[can[0]], RECORDS, "", evidence)
    limits = [f"no record of {NAMES[engine]} on {gpu}" for engine in PAIR if not found[engine]]
    if CONSUMER.search(gpu):
        return Answer(about, "sglang", NAMES["sglang"], OPINION, rule, evidence, limits)
    return Answer(about, "", OPEN, "", "", evidence, limits)
