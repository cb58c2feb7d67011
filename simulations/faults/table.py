"""What happened, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from potara_flwr.core import markdown
from simulations.faults.disturbing import Struck
from simulations.faults.here import Finding
from simulations.faults.subject import ROUNDS

FINDINGS = ("done to a run", "what happened", "bits")
KILLS = ("", "killed", "in", "needed", "the run", "seconds", "bits")


def findings_rows(findings: Sequence[Finding]) -> Iterator[list[str]]:
    """Yield a row for each run in one process."""
    for item in findings:
        yield [item.fault, item.then, "equal" if item.equal else "OTHER"]


def kills_rows(struck: Sequence[Struck]) -> Iterator[list[str]]:
    """Yield a row for each kill. OTHER bits should not be, other ones may."""
    for number, item in enumerate(struck, 1):
        where = "personalization" if item.at_stage > ROUNDS else f"round {item.at_stage}"
        left_out = [f"without {line.partition(':')[0]}" for line in item.left_out]
        bits = "equal" if item.equal else "other" if item.well else "OTHER"
        yield [
            str(number), item.kill.target, where, "all" if item.strict else "half",
            "; ".join([item.then, *left_out]), f"{item.seconds:.0f}", bits,
        ]  # fmt: skip


def on_screen(header: Sequence[str], rows: Iterator[list[str]]) -> Table:
    """Return a table for the terminal."""
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    return table


def page(findings: Sequence[Finding], struck: Sequence[Struck]) -> str:
    """Return both tables as Markdown, as docs/research/faults.md has them."""
    tables = (
        markdown.table(FINDINGS, findings_rows(findings)),
        markdown.table(KILLS, kills_rows(struck)),
    )
    return "\n\n".join(tables) + "\n"
