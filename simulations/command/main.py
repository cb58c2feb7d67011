"""The ``potara`` command: its subcommands, and how each of them ends.

An error is one line on stderr, whatever it is; the traceback comes if ``POTARA_TRACEBACK`` is set.
The exit status is 0, 1 for an error, 2 for a command line that cannot be read, 130 for Ctrl-C.
Nothing slow is imported before a subcommand is at work, so that help and completion come at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import click
import typer
import typer.core

from potara_flwr import __version__
from potara_flwr.errors import PotaraError
from simulations.command.doctor import doctor
from simulations.command.personalize import personalize
from simulations.command.report import report
from simulations.command.run import run

TRACEBACK = "POTARA_TRACEBACK"
"""Environment variable that has errors show their traceback, if it is set to anything."""

INTERRUPTED = 130
"""Exit status of what Ctrl-C has ended, by the shell's custom: 128 + SIGINT."""


class PlainCommand(typer.core.TyperCommand):
    """A command whose help is plain text: Typer escapes brackets for rich, which stays out here."""

    def get_help(self, ctx: click.Context) -> str:
        """Return the help."""
        return super().get_help(ctx).replace("\\[", "[")


app = typer.Typer(
    name="potara",
    rich_markup_mode=None,
    suggest_commands=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for subcommand in (run, report, personalize, doctor):
    app.command(cls=PlainCommand)(subcommand)


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
      potara report results/2026-11-24_10-14-30
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        status = typer.main.get_command(app).main(words, "potara", standalone_mode=False)
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        help_at = f" ({where} --help)" if where else ""
        print(f"error: {error.format_message()}{help_at}", file=sys.stderr)
        return error.exit_code
    except PotaraError as error:
        return failed(str(error))
    except Exception as error:  # noqa: BLE001
        # The one place where whatever is raised becomes a line for people.
        first = str(error).strip().partition("\n")[0]
        said = f"{type(error).__name__}: {first}" if first else type(error).__name__
        return failed(
            f"{said} (not foreseen: with {TRACEBACK}=1 the same command shows where; please open "
            "an issue with that)"
        )
    if status == INTERRUPTED:
        print("error: stopped by the user", file=sys.stderr)
    return int(status or 0)


def failed(line: str) -> int:
    """Print an error, after its traceback if that is asked for; return the exit status."""
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    print(f"error: {line}", file=sys.stderr)
    return 1
