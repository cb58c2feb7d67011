"""The machine: Python, folders and their disks, the length of a path."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from potara_flwr.command.checks.check import Check, fail, ok, warn

FIRST, BEYOND = (3, 11), (3, 14)
"""Python versions of ``requires-python``; a test compares them."""

LITTLE, TOO_LITTLE = 2e9, 2e8
"""Free bytes: base models take gigabytes, the results of a run megabytes."""

SOCKET_PATH = 107
"""Bytes of the longest path of a Unix socket on Linux (unix(7): 108 with the zero at its end)."""

HOME = "/potara-xxxxxxxx"
"""What a run through Flower adds to the folder for temporary files."""

SOCKET = "/ray/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""What Ray adds to its folder: the longest of its sockets, with a process id of seven digits."""


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """Check the version of Python."""
    found = ".".join(map(str, version))
    if FIRST <= tuple(version[:2]) < BEYOND:
        return ok("python", f"{found} ({sys.executable})")
    span = f"{'.'.join(map(str, FIRST))} to {'.'.join(map(str, (BEYOND[0], BEYOND[1] - 1)))}"
    return fail("python", found, f"install Python {span} and make the environment with it")


def free_bytes(folder: Path) -> int:
    """Return the bytes that are free on a folder's disk."""
    return shutil.disk_usage(folder).free


def check_folder(name: str, folder: Path, free: Callable[[Path], int] = free_bytes) -> Check:
    """Check that a folder is there or can be made, can be written to, and has room."""
    folder = folder.expanduser().absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return fail(name, f"{there} cannot be written ({error.strerror})", "name another folder")
    room = free(there)
    found = f"{folder}, {room / 1e9:.1f} GB free"
    if room < TOO_LITTLE:
        return fail(name, found, "make room, or name a folder on another disk")
    if room < LITTLE:
        return warn(name, found, "make room: a base model may take more")
    return ok(name, found)


def check_ray_folder(temporary: str | None = None) -> Check:
    """Check that Ray's sockets have short enough paths in a run through Flower."""
    folder = temporary or tempfile.gettempdir()
    length = len(os.fsencode(folder + HOME + SOCKET))
    if length <= SOCKET_PATH:
        return ok("ray folder", f"sockets in {folder} have paths of {length} bytes")
    return fail(
        "ray folder",
        f"sockets in {folder} would have paths of {length} bytes, {SOCKET_PATH} are allowed, so "
        "that nothing can be simulated on Ray",
        "export TMPDIR=/tmp",
    )
