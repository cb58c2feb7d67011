"""How every program of the project begins and ends: its help, one line for an error, its status."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable

from potara_flwr.core.errors import PotaraError

TRACEBACK = "POTARA_TRACEBACK"
"""Environment variable that has errors show their traceback, if it is set to anything."""

INTERRUPTED = 130
"""Exit status of what Ctrl-C has ended, by the shell's custom: 128 + SIGINT."""


def parser_of(name: str, text: str | None) -> argparse.ArgumentParser:
    """Return a parser of the command line of ``python -m name``, whose module's docstring is its
    help.
    """
    summary, _, rest = (text or "").partition("\n\n")
    return argparse.ArgumentParser(
        prog=f"python -m {name}",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def exit_status(work: Callable[[], int | None], at_interrupt: str = "") -> int:
    """Do the work of a program, and return the exit status it gives (0 where it gives none).

    Whatever is raised becomes a line on stderr, after its traceback if that is asked for; the
    status is then 1, and 130 after Ctrl-C.

    Parameters
    ----------
    work : callable
        What the program does.
    at_interrupt : str
        What somebody who has pressed Ctrl-C should know.
    """
    try:
        return int(work() or 0)
    except PotaraError as error:
        return failed(str(error))
    except KeyboardInterrupt:
        return interrupted(at_interrupt)
    except Exception as error:  # noqa: BLE001
        # The one place where whatever is raised becomes a line for people.
        first = str(error).strip().partition("\n")[0]
        said = f"{type(error).__name__}: {first}" if first else type(error).__name__
        return failed(
            f"{said} (not foreseen: with {TRACEBACK}=1 the same command shows where; please open "
            "an issue with that)"
        )


def failed(line: str) -> int:
    """Print an error, after its traceback if that is asked for; return the exit status."""
    if os.environ.get(TRACEBACK):
        traceback.print_exc()
    print(f"error: {line}", file=sys.stderr)
    return 1


def interrupted(hint: str = "") -> int:
    """Say that the user has ended the program; return the exit status."""
    print("error: stopped by the user" + (f"; {hint}" if hint else ""), file=sys.stderr)
    return INTERRUPTED
