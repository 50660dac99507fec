"""Commands for SkyRL's configurations: check, migrate."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from harness import cards, mistakes, skyrl, store
from harness.errors import UserError
from harness.migrate import diff, left_out, migrate
from harness.screen import say, warn

File = Annotated[Path, typer.Argument(metavar="CONFIG", help="A SkyRL configuration (YAML).")]


def add(app: typer.Typer) -> None:
    """Give the command line these commands."""
    app.command("check")(find_mistakes)
    app.command("migrate")(convert)


def find_mistakes(
    config: File,
    gpu: Annotated[
        str | None, typer.Option(help="Judge for this GPU, such as `RTX 4090`; else this machine's.")
    ] = None,
    gpu_memory: Annotated[float | None, typer.Option(min=1, help="Its memory in GiB, where it is another.")] = None,
) -> None:
    """Find mistakes in a SkyRL configuration, each with its fix; ends 1 when it cannot run.

    \b
    rollbench check config.yaml                    for this machine's GPU
    rollbench check config.yaml --gpu 'RTX 4090'   for another
    """
    read, card = skyrl.load(config), cards.named(gpu) if gpu else cards.here()
    if card and gpu_memory:
        card = cards.Card(card.name, card.sm, gpu_memory)
    if not card:
        say("no GPU here and none named: attention and memory are not judged (--gpu 'RTX 4090')")
    elif not mistakes.Asked(read, card).shape:
        say("memory is not judged: the file names no model whose dimensions are known here (trainer.policy.model.path)")
    found = list(mistakes.check(read, card))
    for one in found:
        where = f"line {one.line}" if one.line else "not stated"
        say(f"{one.level:<8} {config}: {where}: {one.key}: {one.words}\n         fix: {one.fix}")
    errors = sum(one.level == "error" for one in found)
    on = f" on {card.name}" if card else ""
    say(f"{config}: {read.backend}{on}: {errors} error(s), {len(found) - errors} warning(s)")
    if errors:
        raise typer.Exit(1)


def convert(
    config: File,
    to: Annotated[Literal["sglang", "vllm"], typer.Option("--to", help="The backend to convert to.")],
    write: Annotated[
        bool, typer.Option("--write", help="Change the file; without it the difference is shown.")
    ] = False,
) -> None:
    """Convert a SkyRL configuration to the other backend: show the difference, or with --write change the file.

    What the other backend does not have stays as a comment, so that the way back gives every byte again.

    \b
    rollbench migrate config.yaml --to sglang           the difference
    rollbench migrate config.yaml --to sglang --write   the file
    """
    read = skyrl.load(config)
    made = migrate(read.text, to, str(config))
    if made == read.text:
        say(f"{config}: for {to} already")
        return
    for name in left_out(read, to):
        warn(f"engine_init_kwargs.{name} has no counterpart known here: it stays behind as a comment")
    if read.layout != skyrl.parse(made).layout:
        warn("keys get the names of SkyRL v0.4.0, the last with SGLang (tag skyrl_train-v0.4.0)")
    if not write:
        typer.echo(diff(read.text, made, str(config)), nl=False)
        warn("nothing is written: --write changes the file")
        return
    path = config.resolve()
    mode = path.stat().st_mode
    try:
        store.write(path, made)
        path.chmod(mode)
    except OSError as error:
        raise UserError(f"{config}: cannot be written: {error.strerror}") from None
    say(f"{config}: {read.backend} is now {to}; `rollbench migrate {config} --to {read.backend} --write` goes back")
