"""What becomes of rows: each is used, or left out for a reason; the numbers add up."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from potara_flwr.core.entry import Count, Entry

USED = ("train", "calibration", "test")


class SourceRows(Entry):
    """The rows of a data source that clients share."""

    number: Count
    """Its place in ``data.path`` or ``data.datasets``, from 0."""
    found: Count
    """In all its splits."""
    unused_splits: Count
    """In splits, or parts of splits, that no setting names."""
    no_client: Count
    """Held by no client, as the partition gives them to none."""

    @model_validator(mode="after")
    def _adds_up(self) -> SourceRows:
        """Check that no more rows are left out than there are."""
        if self.unused_splits + self.no_client > self.found:
            raise ValueError("more rows are left out than were found")
        return self


class HeldRows(Entry):
    """The rows that one client holds: found = train + calibration + test + left out."""

    found: Count
    train: Count
    calibration: Count
    """Held out of training; 0 where they are training samples."""
    test: Count
    beyond_train_samples: Count = 0
    """Left out by ``data.train-samples``."""
    beyond_test_samples: Count = 0
    """Left out by ``data.test-samples``."""
    unused_splits: Count = 0
    """In splits that no setting names, of data that is the client's alone."""
    cut: Count = 0
    """Of those that are used: of which some text is left out, mostly by ``data.max-tokens``."""

    @model_validator(mode="after")
    def _adds_up(self) -> HeldRows:
        """Check that every row is used or left out, and that no more are cut than are used."""
        if self.cut > self.train + self.calibration + self.test:
            raise ValueError("more rows are cut than are used")
        left_out = self.beyond_train_samples + self.beyond_test_samples + self.unused_splits
        if self.found != self.train + self.calibration + self.test + left_out:
            raise ValueError("the rows that are used and left out are not those that were found")
        return self


def account(rows: HeldRows, source: SourceRows | None = None) -> dict[str, Any]:
    """Return what has become of a client's rows, and of those of its source that nobody holds, as
    it stands in ``results.json``: found = train + calibration + test + left out; and how many of
    those that are used are cut, where some are.
    """
    entry = {"found": rows.found, **rows.model_dump(include=set(USED))}
    entry["left_out"] = _left_out(rows, {"found", "cut", *USED})
    if rows.cut:
        entry["cut"] = rows.cut
    if source is not None:
        entry["source"] = {
            "number": source.number,
            "found": source.found,
            "left_out": _left_out(source, {"number", "found"}),
        }
    return entry


def _left_out(entry: Entry, others: set[str]) -> dict[str, int]:
    return {reason: rows for reason, rows in entry.model_dump(exclude=others).items() if rows}
