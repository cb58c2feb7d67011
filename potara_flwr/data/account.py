"""What becomes of rows: each is used, or left out for a reason; the numbers add up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceRows:
    """The rows of a data source that clients share."""

    number: int
    """Its place in ``data.path`` or ``data.datasets``, from 0."""
    found: int
    """In all its splits."""
    unused_splits: int
    """In splits, or parts of splits, that no setting names."""
    no_client: int
    """Held by no client, as the partition gives them to none."""


@dataclass(frozen=True)
class HeldRows:
    """The rows that one client holds: found = train + calibration + test + left out."""

    found: int
    train: int
    calibration: int
    """Held out of training; 0 where they are training samples."""
    test: int
    beyond_train_samples: int = 0
    """Left out by ``data.train-samples``."""
    beyond_test_samples: int = 0
    """Left out by ``data.test-samples``."""
    unused_splits: int = 0
    """In splits that no setting names, of data that is the client's alone."""
    cut: int = 0
    """Of those that are used: of which some text is left out, mostly by ``data.max-tokens``."""
