"""What a person sees while a run goes on: one bar, and above it what they should know."""

from __future__ import annotations

import logging
import re
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from potara_flwr.results.rows import ROWS
from potara_flwr.server import progress

_LEVEL = re.compile(r"^(?P<level>DEBUG|INFO|WARNING|ERROR)\s*:\s*(?P<text>.*)$")


class LiveDisplay:
    """Draws the lines of a run's log: progress as a bar, above it warnings and what has become of
    the rows, the rest not at all.

    Parameters
    ----------
    console : Console
        Where to draw.
    lines : bool, optional
        Whether rows are said, and progress comes as plain lines where the console is no terminal.
    """

    def __init__(self, console: Console, *, lines: bool = True) -> None:
        self.console = console
        self.lines = lines
        self.error = ""
        """The one line by which the ServerApp said why it failed."""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[scores]} · {task.fields[size]} · {task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> LiveDisplay:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def feed(self, line: str) -> None:
        """Take one line of a Flower log, with or without colours."""
        match = _LEVEL.match(Text.from_ansi(line).plain.strip())
        if match is None:
            return
        level, text = match["level"], match["text"].strip()
        if step := progress.Progress.parse(text):
            self._step(step)
        elif level == "ERROR" and text.startswith("error: "):
            self.error = text.removeprefix("error: ")
        elif (self.lines and text.startswith(ROWS)) or (level == "WARNING" and _matters(text)):
            self.say(text)

    def _step(self, step: progress.Progress) -> None:
        if not self.console.is_terminal:
            if self.lines:
                self.say(str(step))
            return
        if step.phase not in self._tasks:
            for earlier in self._tasks.values():
                self._bar.update(earlier, left="done")
            self._tasks[step.phase] = self._bar.add_task("", scores="", size="", left="")
        self._bar.update(
            self._tasks[step.phase],
            description=f"{step.phase} {step.done}/{step.total}",
            completed=step.done,
            total=step.total,
            scores=step.scores,
            size=step.size,
            left=f"{step.seconds_left // 60}:{step.seconds_left % 60:02d} left",
        )


def _matters(text: str) -> bool:
    """Say whether a warning is about this run, and not one of Flower's at every start."""
    return not text.startswith(("Since flwr", "DEPRECATED", "To change federation size"))


class DisplayHandler(logging.Handler):
    """Feeds the records of Flower's logger in this process to a display."""

    def __init__(self, display: LiveDisplay) -> None:
        super().__init__()
        self.display = display

    def emit(self, record: logging.LogRecord) -> None:
        """Feed one record."""
        for line in record.getMessage().splitlines():
            self.display.feed(f"{record.levelname} : {line}")
