"""All settings of a run, read from flat names and checked against their groups.

Flower's run config (``[tool.flwr.app.config]``), the command line of ``simulations`` and the table
in ``docs/settings.md`` hold the same nested keys (``lora.rank``, ``train.learning-rate``) and are
checked against this schema by tests. Flower checks no types, so :func:`from_flat` does.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from potara_flwr.errors import SettingsError
from potara_flwr.setting_groups import (
    BaselineSettings,
    CalibrationSettings,
    DataSettings,
    FederationSettings,
    Group,
    LocalSettings,
    LoraSettings,
    MergeSettings,
    ModelSettings,
    PrivacySettings,
    RunSettings,
    TaskSettings,
    TrainSettings,
    Value,
)


class Settings(Group):
    """All settings of a run."""

    seed: int = Field(0, ge=0, description="the one seed that decides everything")
    method: str = Field("potara", description="method: a row of docs/methods.md")
    task: TaskSettings = TaskSettings()
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    lora: LoraSettings = LoraSettings()
    train: TrainSettings = TrainSettings()
    federation: FederationSettings = FederationSettings()
    privacy: PrivacySettings = PrivacySettings()
    local: LocalSettings = LocalSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    merge: MergeSettings = MergeSettings()
    baseline: BaselineSettings = BaselineSettings()
    run: RunSettings = RunSettings()

    def to_flat(self) -> dict[str, Value]:
        """Return every setting by its flat name, as Flower's run config has them."""
        return flat(self.model_dump(by_alias=True))

    def computed(self) -> dict[str, Any]:
        """Return the settings that decide numbers (all but ``run``), nested."""
        return self.model_dump(by_alias=True, exclude={"run"})

    def check_same(self, stored: Mapping[str, Any], setting: str, folder: str) -> None:
        """Check that a stored run was made with these settings.

        Parameters
        ----------
        stored : mapping
            What :meth:`computed` gave for that run.
        setting, folder : str
            The setting that names the run's folder, and the folder.

        Raises
        ------
        SettingsError
            A setting differs; names all that do.
        """
        now, then = flat(self.computed()), flat(stored)
        differing = [
            f"{name} is {json.dumps(now.get(name))}, there {json.dumps(then.get(name))}"
            for name in {**now, **then}
            if now.get(name) != then.get(name)
        ]
        if differing:
            raise SettingsError(
                f"{setting}: the run in {folder} had other settings ({'; '.join(differing)}); give "
                "the same ones, only those of run.* may differ"
            )


def flat(nested: Mapping[str, Any]) -> dict[str, Value]:
    """Return nested settings by their flat names."""
    values: dict[str, Value] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            values |= {f"{name}.{key}": item for key, item in value.items()}
        else:
            values[name] = value
    return values


def schema() -> Iterator[tuple[str, FieldInfo]]:
    """Yield the flat name and the definition of every setting, in order."""
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, Group):
            for key, item in group.model_fields.items():
                yield f"{name}.{key.replace('_', '-')}", item
        else:
            yield name, field


def from_flat(values: Mapping[str, Value]) -> Settings:
    """Build the settings from flat names; what is not given has its default.

    Raises
    ------
    SettingsError
        A name is unknown, a value has the wrong type or is out of range. One line, with the
        nearest known name or the allowed range.
    """
    known = dict(schema())
    nested: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise SettingsError(f"unknown setting {name!r}{nearest(name, known)}")
        group, _, key = name.rpartition(".")
        (nested.setdefault(group, {}) if group else nested)[key] = value
    try:
        settings = Settings.model_validate(nested)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"setting {name} is {first['input']!r}, but must be {allowed(known[name])}"
        ) from None
    _check_registered(settings)
    _check_run(settings.run)
    _check_names(settings)
    _check_privacy(settings)
    return settings


def allowed(field: FieldInfo) -> str:
    """Say in words which values a setting takes, e.g. ``an integer ≥ 1``."""
    if choices := get_args(field.annotation):
        return "one of " + ", ".join(choices)
    kind = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
    words = kind[field.annotation]  # type: ignore[index]
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    bounds = [
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for name, sign in signs.items()
        if hasattr(limit, name)
    ]
    return f"{words} {' and '.join(bounds)}" if bounds else words


def nearest(name: str, known: Mapping[str, object]) -> str:
    """Return the end of an error line: the known name nearest to ``name``, or all of them."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]}?" if match else f"; known are {', '.join(known)}"


def settings_table() -> str:
    """Return the table of ``docs/settings.md``: ``python -m potara_flwr.config`` prints it."""
    rows = ["| setting | default | allowed | what it is |", "|---|---|---|---|"]
    defaults = Settings().to_flat()
    for name, field in schema():
        default = json.dumps(defaults[name])
        rows.append(f"| `{name}` | `{default}` | {allowed(field)} | {field.description} |")
    return "\n".join(rows) + "\n"


def _check_registered(settings: Settings) -> None:
    """Check the settings whose values are names in a registry."""
    from potara_flwr.methods import METHODS
    from potara_flwr.rules import RULES
    from potara_flwr.tasks import TASKS

    for name, value, registry in (
        ("method", settings.method, METHODS),
        ("task.name", settings.task.name, TASKS),
        ("merge.rule", settings.merge.rule, RULES),
    ):
        if value not in registry:
            raise SettingsError(
                f"setting {name} is {value!r}, but must be one of {', '.join(registry)}"
                f"{nearest(value, registry)}"
            )
    method = METHODS[settings.method]
    if (
        settings.federation.aggregation == "exact"
        and "A" in method.shared
        and "B" not in method.shared
    ):
        raise SettingsError(
            f"federation.aggregation=exact averages updates, but method={settings.method} sends no "
            "B; use factors"
        )


def _check_run(run: RunSettings) -> None:
    """Check that a run has one results folder."""
    if run.resume and run.personalize_only:
        raise SettingsError("run.resume and run.personalize-only are both given; empty one")
    name, folder = run.earlier
    if name and run.results and Path(run.results).expanduser() != Path(folder).expanduser():
        raise SettingsError(f"{name} goes on in its own folder; leave out run.results")


def _check_names(settings: Settings) -> None:
    """Check that the nodes' names are those of the clients."""
    names = settings.federation.names
    if twice := {name for name in names if names.count(name) > 1}:
        raise SettingsError(f"federation.nodes names {', '.join(sorted(twice))} twice")
    if names and len(names) != settings.data.num_clients:
        raise SettingsError(
            f"federation.nodes names {len(names)} nodes, but data.num-clients is "
            f"{settings.data.num_clients}; make them equal"
        )


def _check_privacy(settings: Settings) -> None:
    """Check that a client's contribution is bounded by the clipping norm, whatever it sends."""
    from potara_flwr.methods import METHODS

    privacy, federation = settings.privacy, settings.federation
    if privacy.noise_multiplier > 0 and privacy.clipping_norm == 0:
        raise SettingsError(
            "privacy.noise-multiplier needs a privacy.clipping-norm above 0: the noise is measured "
            "in it"
        )
    if privacy.clipping_norm == 0:
        return
    for name, value, wanted, why in (
        ("weighting", federation.weighting, "uniform", "a client's weight would be its own choice"),
        ("aggregation", federation.aggregation, "factors", "an SVD has no bounded sensitivity"),
        ("transport", federation.transport, "float32", "rounding comes after clipping"),
    ):
        if value != wanted:
            raise SettingsError(
                f"privacy.clipping-norm needs federation.{name}={wanted}, but it is {value}: {why}"
            )
    if not METHODS[settings.method].averages_all:
        raise SettingsError(
            f"privacy.clipping-norm cannot be used with method={settings.method}, which sends "
            "clients what others have sent, without noise"
        )


if __name__ == "__main__":
    sys.stdout.write(settings_table())
