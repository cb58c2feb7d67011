"""A disk that is full, for some files."""

from __future__ import annotations

import errno
import fnmatch
import os
from pathlib import Path

import pytest


def fill_disk(patch: pytest.MonkeyPatch, pattern: str) -> None:
    """Have the disk be full in the midst of writing any file whose path fits the pattern."""
    real = Path.open

    def half_open(self, mode="r", *args, **kwargs):
        file = real(self, mode, *args, **kwargs)
        if "w" in mode and fnmatch.fnmatch(str(self), pattern):
            write = file.write

            def half_write(data):
                write(data[: len(data) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            return _Full(file, half_write)
        return file

    patch.setattr(Path, "open", half_open)


class _Full:
    """A file that takes half of what is written to it."""

    def __init__(self, file, write):
        self.file, self.write = file, write

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)
