"""The ``potara`` command: its subcommands, and how each of them ends.

The exit status is 0, 1 for an error, 2 for a command line that cannot be read, 130 for Ctrl-C.
Nothing slow is imported before a subcommand is at work, so that help and completion come at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import click
import typer
import typer.core

from potara_flwr import __version__
from potara_flwr.command.compare import compare
from potara_flwr.command.credentials import credentials
from potara_flwr.command.deploy import deploy
from potara_flwr.command.doctor import doctor
from potara_flwr.command.exit_status import INTERRUPTED, exit_status, interrupted
from potara_flwr.command.export import export
from potara_flwr.command.merge import merge
from potara_flwr.command.node import node
from potara_flwr.command.personalize import personalize
from potara_flwr.command.predict import predict
from potara_flwr.command.presets import presets
from potara_flwr.command.report import report
from potara_flwr.command.run import run
from potara_flwr.command.sweep import sweep


class PlainCommand(typer.core.TyperCommand):
    """A command whose help is plain text: Typer escapes brackets for rich, which stays out here."""

    def get_help(self, ctx: click.Context) -> str:
        """Return the help."""
        return super().get_help(ctx).replace("\\[", "[")


OTHERS_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Of a subcommand that hands what it does not know to another program."""

app = typer.Typer(
    name="potara",
    rich_markup_mode=None,
    suggest_commands=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
SUBCOMMANDS = (
    run, sweep, compare, deploy, credentials, personalize, merge, predict, export, report,
    doctor, presets,
)  # fmt: skip
for subcommand in SUBCOMMANDS:
    app.command(cls=PlainCommand)(subcommand)
app.command(cls=PlainCommand, context_settings=OTHERS_OPTIONS)(node)


def show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        typer.echo(f"potara {__version__}")
        raise typer.Exit


@app.callback()
def potara(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=show_version, is_eager=True),
    ] = False,
) -> None:
    """Personalized federated LoRA: run it, look at what came out, see what lacks.
    An error is one line; POTARA_TRACEBACK=1 shows where it was raised.

    \b
    Example:
      potara doctor
      potara run seed=3 federation.rounds=5
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    return exit_status(lambda: obey(words))


def obey(words: list[str]) -> int:
    """Let Click read the command line and call the subcommand; return the exit status."""
    try:
        status = typer.main.get_command(app).main(words, "potara", standalone_mode=False)
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        help_at = f" ({where} --help)" if where else ""
        print(f"error: {error.format_message()}{help_at}", file=sys.stderr)
        return error.exit_code
    # Click has turned a KeyboardInterrupt into this status.
    return interrupted() if status == INTERRUPTED else int(status or 0)
