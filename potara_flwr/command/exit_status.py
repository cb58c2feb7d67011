"""How every program of the project ends: one line for an error, and its exit status."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from potara_flwr.core.errors import PotaraError

TRACEBACK = "POTARA_TRACEBACK"
"""Environment variable that has errors show their traceback, if it is set to anything."""

INTERRUPTED = 130
"""Exit status of what Ctrl-C has ended, by the shell's custom: 128 + SIGINT."""


class WorkInterruptedError(Exception):
    """Ctrl-C has ended the work (says what the user should know now)."""


@contextmanager
def at_interrupt(hint: str) -> Iterator[None]:
    """Tell somebody who presses Ctrl-C during the block what they should know."""
    try:
        yield
    except KeyboardInterrupt:
        raise WorkInterruptedError(hint) from None


def exit_status(work: Callable[[], int | None]) -> int:
    """Do the work of a program, and return the exit status it gives (0 where it gives none).

    Whatever is raised becomes a line on stderr, after its traceback if that is asked for; the
    status is then 1, and 130 after Ctrl-C.
    """
    try:
        return int(work() or 0)
    except PotaraError as error:
        return failed(str(error))
    except (KeyboardInterrupt, WorkInterruptedError) as stop:
        return interrupted(str(stop))
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
