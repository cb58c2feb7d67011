"""Whether something was made with the same settings: a hash of them, and those that differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from potara_flwr.core.errors import SettingsError
from potara_flwr.settings.groups import Value
from potara_flwr.settings.schema import Settings, flat


def fingerprint(config: Mapping[str, Any]) -> str:
    """Return a hash of settings: equal ones have equal fingerprints.

    Parameters
    ----------
    config : mapping
        What :meth:`Settings.computed` gives, or a part of it.
    """
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def differences(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> dict[str, tuple[Value | None, Value | None]]:
    """Return flat name → both values of the settings that differ; None where there is no such
    setting.

    Parameters
    ----------
    one, other : mapping
        What :meth:`Settings.computed` gives, nested or flat.
    """
    ours, theirs = flat(one), flat(other)
    return {
        name: (ours.get(name), theirs.get(name))
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    }


def check_same(settings: Settings, stored: Mapping[str, Any], setting: str, folder: str) -> None:
    """Check that a stored run was made with these settings.

    Parameters
    ----------
    stored : mapping
        What :meth:`Settings.computed` gave for that run.
    setting, folder : str
        The setting that names the run's folder, and the folder.

    Raises
    ------
    SettingsError
        A setting differs; names all that do.
    """
    if differing := differences(settings.computed(), stored):
        words = "; ".join(
            f"{name} is {json.dumps(now)}, there {json.dumps(then)}"
            for name, (now, then) in differing.items()
        )
        raise SettingsError(
            f"{setting}: the run in {folder} had other settings ({words}); give the same ones, "
            "only those of run.* may differ"
        )
