"""`rollbench recommend`: which engine to take, asked for or asked of the user."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.prompt import Prompt

from harness import evidence, machine, recommend, standings
from harness.errors import UserError, nearest
from harness.paths import results_home
from harness.recommend import NO_GPU, QUESTIONS, WORKLOAD, Answer
from harness.screen import Results, say, warn


def add(app: typer.Typer) -> None:
    """Give the command line this command."""
    app.command("recommend")(recommend_engine)


def recommend_engine(
    workload: Annotated[
        str | None, typer.Option(help="multi-turn, agent, single-turn, math, code or long-context.")
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="The GPU, as `H100` or `RTX 4090`; none.")] = None,
    memory: Annotated[str | None, typer.Option(help="tight: trainer and engine share one GPU; enough.")] = None,
    familiar: Annotated[str | None, typer.Option(help="The engine that you know: vllm, sglang, neither.")] = None,
    results: Results = None,
) -> None:
    """Say which engine to take, from records: each answer with its evidence and its limits.

    Where no record speaks it gives the old guide's rule, and says that this is an opinion. What is not given is asked.

    \b
    rollbench recommend
    rollbench recommend --workload agent --gpu H100 --memory enough --familiar neither
    """
    given = {"workload": workload, "gpu": gpu, "memory": memory, "familiar": familiar}
    for question in QUESTIONS:
        if (chosen := given[question.name]) is not None and chosen not in question.choices:
            raise UserError(f"--{question.name} {chosen}: {nearest(chosen, question.choices)}")
    if gpu is not None and not gpu.strip():
        raise UserError(f"--gpu is empty: name one as `H100`, or `{NO_GPU}`")
    choices = _asked(given)
    root = (results or results_home()).resolve()
    found = evidence.read(root)
    everything = list(standings.standings(found))
    for why in found.skipped:
        warn(f"passed over: {why}")
    told = list(recommend.answers(choices, choices["gpu"], everything))
    for answer in told:
        _show(answer, root)
    engine, why = recommend.verdict(told)
    say(f"take {engine}: {why}")


def _asked(given: dict[str, str | None]) -> dict[str, str]:
    """With what was not given asked for. Raises UserError where nobody can be asked."""
    missing = [name for name, value in given.items() if value is None]
    if missing and not sys.stdin.isatty():
        options = ", ".join(f"--{name}" for name in missing)
        raise UserError(f"no terminal to ask on: give {options} (`rollbench recommend --help`)")
    made = {name: value for name, value in given.items() if value is not None}
    here = next(iter(machine.gpu_names()), NO_GPU)
    for question in QUESTIONS:
        if question.name in missing:
            names = list(question.choices)
            likely = ... if question is WORKLOAD else names[-1]  # nobody's work is to be guessed
            made[question.name] = str(Prompt.ask(question.text, choices=names, default=likely))
    if "gpu" in missing:
        made["gpu"] = Prompt.ask("Which GPU", default=here)
    return made


def _show(answer: Answer, root: Path) -> None:
    say(f"{answer.about}: {answer.words}" + (f" ({answer.basis})" if answer.basis else ""))
    if answer.basis == recommend.OPINION:
        say(f"  the old guide says: {answer.rule}")
    for one in answer.evidence[: recommend.SHOWN]:
        say(f"  {one.text}")
        for path in one.records:
            say(f"    {root / path}")
    if (left := len(answer.evidence) - recommend.SHOWN) > 0:
        say(f"  and {left} more (`rollbench report`)")
    for limit in answer.limits:
        say(f"  limit: {limit}")
    say("")
