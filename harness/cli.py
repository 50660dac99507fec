"""The command line: every command of `rollbench`."""

import itertools
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from harness import (
    clientcheck,
    commit,
    compare,
    config_commands,
    crosscheck,
    doctor,
    envs,
    exchange_commands,
    gate_commands,
    history_commands,
    lock,
    machine,
    matrix_commands,
    models,
    recommend_commands,
    report_commands,
    run_commands,
    scenario,
    selfcheck,
    store,
    tables,
)  # fmt: skip
from harness import trace as traces
from harness.errors import LaunchFailed, UserError
from harness.inference import Inference
from harness.paths import results_home
from harness.progress import progress
from harness.screen import Results, console, print_table, say, stderr

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Benchmark RL rollout backends: the same scenarios on SGLang and on vLLM, each in its own environment.",
)
run_commands.add(app)
exchange_commands.add(app)
gate_commands.add(app)
history_commands.add(app)
matrix_commands.add(app)
recommend_commands.add(app)
report_commands.add(app)
config_commands.add(app)


@app.command("compare")
def compare_records(
    records: Annotated[
        list[Path] | None, typer.Argument(help="Two record files: BEFORE AFTER. None: the newest.")
    ] = None,
    case: Annotated[list[str] | None, typer.Option("--case", help="Only this case; repeat it.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables as GitHub shows them.")] = False,
    results: Results = None,
) -> None:
    """Compare two records, or the newest of every case and engine on this machine, by ratios with intervals."""
    if not records:
        root, here, cases = results or results_home(), machine.fingerprint().id, case or ()
        found, skipped = compare.latest(root, here, cases)
        for reason in skipped:
            stderr.print(f"skipped {reason}", markup=False, highlight=False)
        run_commands.show_tables(found, markdown)
        if not exchange_commands.show_foreign(root, here, cases, found, markdown) and not found:
            raise UserError("no records of this machine: `rollbench run` makes them")
        return
    if len(records) != 2:
        raise UserError(f"compare takes two records, BEFORE and AFTER, or none; {len(records)} given")
    before, after = map(store.load, records)
    print_table(compare.ratios_table(before, after), markdown)
    for why in [*before.broken, *after.broken]:
        say(f"invalid: {why}")


@app.command()
def show(record: Annotated[Path, typer.Argument(help="A record file.")]) -> None:
    """Show one record: what was measured, how, on what, and every launch."""
    console.print(tables.of_record(store.load(record)))


@app.command("doctor")
def check_machine(results: Results = None) -> None:
    """Say what is on this machine, which engines can run, and what to do about those that cannot."""
    found = list(doctor.findings(results or results_home()))
    for finding in found:
        advice = f"\n         {finding.advice}" if finding.advice else ""
        say(f"{finding.state:<8} {finding.what}{advice}")
    if any(finding.state == "error" for finding in found):
        raise typer.Exit(1)


@app.command()
def env(engine: Annotated[str, typer.Argument(help="vllm or sglang.")]) -> None:
    """Build an engine's environment from its lock, if it is not there yet; print its interpreter."""
    say(envs.build(envs.known(engine), lambda text: stderr.print(text, markup=False, highlight=False)).python)


@app.command("selfcheck")
def check_harness(
    engine: Annotated[list[str] | None, typer.Option("--engine", "-e", help="Hold this engine against itself.")] = None,
    launches: Annotated[int, typer.Option(min=1, help="Pairs of launches, through rollbench and directly.")] = 5,
    client: Annotated[
        bool, typer.Option("--client", help="How many requests a second the client sustains, beside vLLM's.")
    ] = False,
) -> None:
    """Measure what the harness itself costs; ends 1 when a target is missed."""
    with lock.alone(True, say), progress(console) as tell:
        lines = selfcheck.report(engine or (), len(machine.gpu_names()), launches, tell)
        show_checks(itertools.chain(lines, clientcheck.report(tell) if client else ()))


@app.command("crosscheck")
def check_against_tools(
    engine: Annotated[list[str] | None, typer.Option("--engine", "-e", help="vllm or sglang; repeat it.")] = None,
    launches: Annotated[int, typer.Option(min=1, help="Pairs of launches, rollbench's and the tool's.")] = 3,
) -> None:
    """Measure one case with rollbench and with the engine's own benchmark tool in turn; ends 1 when they differ."""
    with lock.alone(True, say), progress(console) as tell:
        show_checks(crosscheck.report(engine or envs.PAIR, len(machine.gpu_names()), launches, tell))


def show_checks(lines: Iterable[tuple[bool, str]]) -> None:
    """Each check's line as it comes; ends 1 when one missed its target."""
    met = True
    for ok, line in lines:
        met &= ok
        say(f"{'ok' if ok else 'missed':<8} {line}")
    if not met:
        raise typer.Exit(1)


@app.command("options")
def show_options() -> None:
    """Show each neutral engine option with the flags that say the same to vLLM and to SGLang."""
    console.print(tables.of_options())
    say("A native flag goes over all of them: Options(native={'vllm': {'block_size': 32}}); the record shows it.")
    say("Sampling is the same in both: temperature as the case says, no top-k or top-p, end tokens ignored.")


@app.command("trace")
def record_trace(
    case: Annotated[str, typer.Argument(help="The case whose workload is written down.")],
    file: Annotated[Path, typer.Argument(help="The trace file to write (JSON lines).")],
) -> None:
    """Write the workload of a case's first step to a trace file, which `rollbench run --trace FILE` replays."""
    chosen = scenario.select([case], len(machine.gpu_names()) or 1)
    for name, found in chosen.items():
        if not isinstance(found, Inference):
            raise UserError(f"case {name} has no workload of requests to record")
        traces.save(found.requests((found.seed, 0), models.vocabulary(found.model)), file)
        say(f"{file}: the first step of {name}")
        return


@app.command()
def stamp() -> None:
    """Write the commit down, for a copy of this tree that will have no git history (a GPU machine, a container)."""
    say(f"{commit.STAMP}: {commit.stamp().id}")


@contextmanager
def one_line_errors() -> Iterator[None]:
    """A user's mistake is one line on standard error and exit status 2."""
    try:
        yield
    except UserError as error:
        stderr.print(f"rollbench: {error}", markup=False, highlight=False)
        sys.exit(2)
    except LaunchFailed as error:
        stderr.print(f"rollbench: {error}", markup=False, highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        stderr.print("rollbench: interrupted")
        sys.exit(130)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    with one_line_errors():
        app()


def _interrupt(*_: object) -> None:
    """The first signal interrupts; those behind it (nox sends several) must not stop the cleaning up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
