"""Commands of `rollbench` that measure: what there is, and running it."""

import itertools
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import replay
from harness import compare, config_case, envs, groups, lock, machine, plan, runner, scenario, skyrl, store, tables
from harness.errors import UserError
from harness.paths import results_home
from harness.progress import progress
from harness.record import Record
from harness.screen import Results, console, print_table, say, stop


def add(app: typer.Typer) -> None:
    """Give the command line these commands."""
    app.command("list")(list_cases)
    app.command("run")(run)


def list_cases() -> None:
    """Show every case: what it measures, with which model, and whether this machine can run it."""
    console.print(tables.of_cases(len(machine.gpu_names())))


def run(
    cases: Annotated[
        list[str] | None,
        typer.Argument(help="Cases (`rollbench list`), scenarios or patterns (`single_turn/*`); none: the main job."),
    ] = None,
    engine: Annotated[list[str] | None, typer.Option("--engine", "-e", help="vllm, sglang or fake; repeat it.")] = None,
    launches: Annotated[int, typer.Option(min=1, help="Fresh launches of each engine, in ABBA order.")] = 3,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run of the same plan.")] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds that any one call to an engine may take.")] = 900,
    model: Annotated[
        str | None, typer.Option(help="Run the cases with this model: a name of ours, a folder, or organisation/name.")
    ] = None,
    trace: Annotated[Path | None, typer.Option(help="Replay this trace file (JSON lines) as a case.")] = None,
    config: Annotated[Path | None, typer.Option(help="Take this SkyRL configuration (YAML) as a case.")] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Inference cases of equal engine settings share launches.")
    ] = False,
    budget: Annotated[
        float | None, typer.Option(min=0, help="Minutes: begin nothing that would end later; --resume goes on.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show launches and expected time; start nothing.")] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Refuse when another run holds the machine.")] = False,
    results: Results = None,
) -> None:
    """Measure cases on the engines, interleaved, and write a record for each case and engine.

    \b
    rollbench run                                 the main job of this machine, both engines
    rollbench run single_turn/tiny-16 -e vllm     one case on one engine
    rollbench run 'single_turn/*' --launches 5    every case of a scenario that fits this machine
    rollbench run multi_turn --dry-run            what that would take
    """
    until = math.inf if budget is None else time.monotonic() + 60 * budget
    root = results or results_home()
    names = list(dict.fromkeys(engine or ([skyrl.load(config).backend] if config else envs.PAIR)))
    environments = [envs.find(name) for name in names]
    chosen = chosen_cases(cases or [], trace, config, model)
    store.writable(root)
    planned = groups.launches(groups.grouped(chosen, share), names)
    if not planned:
        raise UserError(
            f"{', '.join(chosen)}: not run on {' or '.join(names)}, since another engine's own; see --engine"
        )
    expected = plan.Plan.read(root, environments[0].device, itertools.chain(*planned))
    if dry_run:
        console.print(tables.of_plan(expected, planned, launches))
        return
    with lock.alone(not no_wait, say), progress(console) as tell:
        running = runner.Run(
            environments, launches, root, resume, timeout, tell, say, expected, share=share, until=until
        )
        try:
            written, failed = running.cases(chosen)
        except (KeyboardInterrupt, runner.BudgetSpent) as why:
            said, status = ("interrupted", 130) if isinstance(why, KeyboardInterrupt) else ("the budget is spent", 3)
            if running.written:
                say("\n  ".join(["records of cases that had ended:", *map(str, running.written)]))
            again = "the same command with --resume goes on (through nox: -- --resume)"
            stop(f"{said}: {running.kept} finished launches are kept; {again}", status)
    if written:
        show_tables([store.load(path) for path in written])
        say("\n  ".join(["records:", *map(str, written)]))
    if failed:
        stop(f"{failed} planned launch(es) gave no figures, why stands above; logs: {root / '.work' / 'logs'}", 1)


def chosen_cases(
    names: list[str], trace: Path | None, config: Path | None, model: str | None
) -> dict[str, scenario.Scenario]:
    """The cases that were asked for: by name, of a trace file or a configuration, with another model."""
    gpus = len(machine.gpu_names())
    chosen = scenario.select(names, gpus) if names or not (trace or config) else {}
    if config:
        name, chosen[name], aside = config_case.of_file(config, gpus, model)
        say(f"{config}: measured as {name}" + (f"; left aside: {', '.join(aside)}" if aside else ""))
    if trace:
        chosen[f"replay/{trace.stem}"] = replay.of_file(trace.expanduser(), gpus)
    return {name: replace(case, model=model) for name, case in chosen.items()} if model else chosen


def show_tables(records: list[Record], markdown: bool = False) -> None:
    made, why = compare.side_by_side(records)
    for table in made:
        print_table(table, markdown)
    for line in why:
        say(line)
