"""The schema of all settings of a run.

Flower's run config (``[tool.flwr.app.config]``), the command line of ``simulations`` and the table
in ``docs/reference/settings.md`` hold the same nested keys (``lora.rank``, ``train.learning-rate``)
and are checked against this schema by tests. :mod:`potara_flwr.run_config` makes settings of flat
values.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import Field
from pydantic.fields import FieldInfo

from potara_flwr.core.errors import nearest
from potara_flwr.core.markdown import table
from potara_flwr.settings.groups import (
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
    method: str = Field("potara", description="method: a row of docs/reference/methods.md")
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

    def rank_of(self, client: int) -> int | None:
        """Return the rank that ``lora.ranks`` gives a client; None where its adapter has that of
        the federated one, as that of a client has which the run does not know.
        """
        ranks = self.lora.client_ranks
        return ranks[client % len(ranks)] if ranks and client < self.data.num_clients else None

    def to_flat(self) -> dict[str, Value]:
        """Return every setting by its flat name, as Flower's run config has them."""
        return flat(self.model_dump(by_alias=True))

    def computed(self) -> dict[str, Any]:
        """Return the settings that decide numbers (all but ``run``), nested."""
        return self.model_dump(by_alias=True, exclude={"run"})


def flat(nested: Mapping[str, Any]) -> dict[str, Value]:
    """Return nested settings by their flat names, in their order."""
    values: dict[str, Value] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            values |= {f"{name}.{key}": item for key, item in flat(value).items()}
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


REFUSED = {
    "lora.use-dora": "DoRA scales every output of the whole weight, W₀ included: its update is no "
    "s·B·A, and no merge, average or stack of such updates is one; leave it out (lora.rslora, "
    "lora.rank-pattern and lora.target-modules=all-linear are there)",
    "lora.bias": "a merge is of A, B and the head; biases stay those of the base model",
    "lora.init-lora-weights": "A is drawn and B is 0; PiSSA, OLoRA and the like take their start "
    "out of the base model, on which the saved adapters would no longer load",
}
"""Options of peft's that are no settings here, and why."""


def unknown(name: str) -> str:
    """Say that there is no such setting: why, or which it may have meant."""
    asked = name.replace("_", "-")
    for option, reason in REFUSED.items():
        if asked in (option, option.replace("use-", "")):
            return f"{name} is no setting: {reason}"
    return f"unknown setting {name!r}{nearest(name, dict(schema()))}"


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


def settings_table() -> str:
    """Return the table of docs/reference/settings.md; ``python -m`` this module prints it."""
    defaults = Settings().to_flat()
    rows = [
        [f"`{name}`", f"`{json.dumps(defaults[name])}`", allowed(field), str(field.description)]
        for name, field in schema()
    ]
    return table(["setting", "default", "allowed", "what it is"], rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(settings_table())
