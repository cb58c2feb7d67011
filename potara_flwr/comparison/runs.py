"""Stored runs, found below folders and grouped: those of a group differ in their seed alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from potara_flwr.core.errors import PotaraError
from potara_flwr.settings.fingerprint import fingerprint
from potara_flwr.settings.groups import Value
from potara_flwr.settings.schema import flat

SEED = "seed"
FIRST = "method"
"""The setting that a table tells first, where it differs."""


class ComparisonError(PotaraError):
    """Runs cannot be compared (says which and why)."""


@dataclass(frozen=True)
class Group:
    """The runs that differ in their seed alone."""

    settings: dict[str, Value]
    """Those that differ among groups, by their flat names."""
    runs: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Seed → the contents of ``results.json``, by rising seed."""

    @property
    def label(self) -> str:
        """Its settings in words."""
        return ", ".join(f"{name}={show(value)}" for name, value in self.settings.items()) or "all"


def find(folders: Sequence[Path]) -> dict[Path, dict[str, Any]]:
    """Return folder → results of every run in or below ``folders``.

    Raises
    ------
    ComparisonError
        A folder is not there or holds no results, or a file cannot be read.
    """
    found: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ComparisonError(f"there is no folder {folder}")
        files = sorted(folder.resolve().rglob("results.json"))
        if not files:
            raise ComparisonError(f"there is no results.json in {folder} or below")
        for file in files:
            try:
                results = json.loads(file.read_text())
                results["config"][SEED], results["summary"]["mean"]["accuracy"]["personalized"]
            except (ValueError, KeyError, TypeError):
                raise ComparisonError(f"{file} holds no results of a run") from None
            found[file.parent] = results
    return found


def without_results(folders: Sequence[Path]) -> list[str]:
    """Say which runs in or below ``folders`` have failed, or are not at their end."""
    begun = {
        file.parent
        for folder in folders
        for name in ("error.txt", "checkpoint.safetensors")
        for file in folder.resolve().rglob(name)
    }
    names = sorted(folder.name for folder in begun if not (folder / "results.json").is_file())
    if not names:
        return []
    return [f"left out, failed or not at their end: {', '.join(names)}"]


def group(found: Mapping[Path, dict[str, Any]]) -> tuple[list[Group], list[str]]:
    """Group runs by their settings but the seed; return the groups, and remarks on copies.

    Groups are in the order of their settings: numbers by size, texts by alphabet.

    Raises
    ------
    ComparisonError
        Two runs have the same settings and seed, but other results.
    """
    configs = {folder: flat(results["config"]) for folder, results in found.items()}
    names = differing(list(configs.values()))
    groups: dict[str, Group] = {}
    places: dict[tuple[str, int], Path] = {}
    remarks = []
    for folder, results in found.items():
        config = configs[folder]
        key = fingerprint({**config, SEED: None})
        one = groups.setdefault(key, Group({name: config.get(name, "") for name in names}))
        seed = int(results["config"][SEED])
        if seed in one.runs:
            other = places[key, seed]
            if results.get("digest") != one.runs[seed].get("digest"):
                raise ComparisonError(
                    f"{other} and {folder} have the same settings but other results; leave one out"
                )
            remarks.append(f"{folder} is a copy of {other} and is left out")
            continue
        one.runs[seed] = results
        places[key, seed] = folder
    for one in groups.values():
        ordered = dict(sorted(one.runs.items()))
        one.runs.clear()
        one.runs.update(ordered)
    return sorted(
        groups.values(), key=lambda one: [_rank(v) for v in one.settings.values()]
    ), remarks


def differing(configs: Sequence[Mapping[str, Value]]) -> list[str]:
    """Return the names of the settings that are not the same in all runs, but the seed."""
    names = dict.fromkeys(name for config in configs for name in config if name != SEED)
    found = [name for name in names if len({show(c.get(name, "")) for c in configs}) > 1]
    return sorted(found, key=lambda name: name != FIRST)


def common(found: Mapping[Path, dict[str, Any]], names: Sequence[str]) -> dict[str, Value]:
    """Return the settings that all runs share: those that are not among ``names``."""
    config = flat(next(iter(found.values()))["config"])
    return {name: value for name, value in config.items() if name not in (*names, SEED)}


def show(value: Value) -> str:
    """Write a setting's value as a command line has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _rank(value: Value) -> tuple[bool, float, str]:
    if isinstance(value, str):
        return True, 0.0, value
    return False, float(value), ""
