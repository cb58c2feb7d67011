"""Presets: named sets of settings in ``conf/experiment/``, one file each."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml

from potara_flwr.config import Value
from potara_flwr.errors import SettingsError

FOLDER = Path(__file__).parent.parent / "conf" / "experiment"


def preset_names() -> list[str]:
    """Return the names of all presets."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load_preset(name: str) -> dict[str, Value]:
    """Return the settings of a preset by their flat names.

    Raises
    ------
    SettingsError
        There is no such preset.
    """
    if name not in preset_names():
        nearest = difflib.get_close_matches(name, preset_names(), n=1, cutoff=0.5)
        hint = (
            f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(preset_names())}"
        )
        raise SettingsError(f"experiment is {name!r}, which is no file in conf/experiment; {hint}")
    nested: dict[str, Any] = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    flat: dict[str, Value] = {}
    for group, value in nested.items():
        if isinstance(value, dict):
            flat |= {f"{group}.{key}": item for key, item in value.items()}
        else:
            flat[group] = value
    return flat
