"""Every setting: its name, type, default, unit and range. The one source of truth.

Flower's run config (``[tool.flwr.app.config]``), the command line of ``simulations`` and the table
in ``docs/settings.md`` hold the same nested keys (``lora.rank``, ``train.learning-rate``) and are
checked against this schema by tests. Flower checks no types, so :func:`from_flat` does.
"""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from potara_flwr.errors import SettingsError

Value = bool | int | float | str


class Group(BaseModel):
    """A group of settings: immutable, strictly typed, with kebab-case names from outside."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )


class TaskSettings(Group):
    """What is learned."""

    name: str = Field("digits", description="task: `digits` or `text-classification`")
    model: str = Field(
        "digits-vit",
        description="base model: the embedded `digits-vit`, a local Hugging Face model folder "
        "or a hub id",
    )


class DataSettings(Group):
    """What each client holds."""

    num_clients: int = Field(8, ge=1, description="clients the data is partitioned over")
    alpha: float = Field(
        0.5, gt=0, description="concentration of the Dirichlet label skew; small is skewed"
    )
    shift: Literal["conflicting", "shared"] = Field(
        "conflicting",
        description="task shift: `conflicting` rotates the images of client k by k·90°, "
        "`shared` rotates the images of every client by 90°",
    )
    train_samples: int = Field(
        100, ge=0, description="samples: most training samples a client uses; 0 is all it has"
    )
    test_samples: int = Field(
        0, ge=0, description="samples: most test samples a client scores on; 0 is all it has"
    )
    test_fraction: float = Field(
        0.4,
        gt=0,
        lt=1,
        description="share of a client's samples kept for testing, where the data has no split",
    )
    path: str = Field("", description="data file of a text task: .parquet, .csv, .json or .jsonl")
    text_column: str = Field("text", description="column of the texts")
    label_column: str = Field("label", description="column of the labels: whole numbers from 0")
    split_column: str = Field(
        "",
        description="column that says `train` or `test`; empty splits each client's samples by "
        "`data.test-fraction`",
    )
    domain_column: str = Field(
        "",
        description="column of the domain: client k holds a share of the k-th domain, in turn; "
        "empty partitions by Dirichlet label skew",
    )
    max_tokens: int = Field(64, ge=1, description="tokens a text is cut to")


class LoraSettings(Group):
    """The adapter."""

    rank: int = Field(4, ge=1, description="rank r of the LoRA update ΔW = (alpha / r)·B·A")
    alpha: float = Field(8.0, gt=0, description="LoRA alpha; the scaling is alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before A, in training only")
    target_modules: str = Field(
        "q_proj,v_proj", description="modules that get an adapter, separated by commas"
    )


class TrainSettings(Group):
    """Optimization, the same in federated rounds and in local training."""

    learning_rate: float = Field(3e-3, gt=0, description="AdamW learning rate")
    batch_size: int = Field(16, ge=1, description="samples per optimizer step")
    local_steps: int = Field(
        10, ge=1, description="optimizer steps a client takes in one federated round"
    )


class LocalSettings(Group):
    """Local training, after the last round, sending nothing."""

    start: Literal["cold", "warm"] = Field(
        "warm",
        description="where the local adapter starts: `warm` is the federated adapter, `cold` the "
        "initial one (the paper)",
    )
    steps: int = Field(300, ge=0, description="optimizer steps of local training")
    refit_share: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="share of the local steps that are taken after the weight is chosen, with the "
        "calibration samples in training too; 0 keeps them out (the paper)",
    )


class FederationSettings(Group):
    """The federated rounds."""

    strategy: str = Field("fedit", description="how adapters are averaged")
    rounds: int = Field(20, ge=0, description="federated rounds; 0 trains locally only")
    fraction_train: float = Field(
        1.0, gt=0, le=1, description="share of the clients that train in a round (at least one)"
    )
    fraction_evaluate: float = Field(
        1.0, ge=0, le=1, description="share of the clients that evaluate after a round; 0 is none"
    )
    min_reply_fraction: float = Field(
        0.5, gt=0, le=1, description="share of a round's clients that must reply well"
    )
    timeout: float = Field(3600.0, gt=0, description="seconds to wait for the replies of a round")
    connect_timeout: float = Field(
        60.0, ge=0, description="seconds to wait for all clients to connect, before the first round"
    )


class CalibrationSettings(Group):
    """The samples and the damping behind the variance traces."""

    samples: int = Field(30, ge=1, description="calibration samples per client (the paper: 30)")
    source: Literal["held-out", "training"] = Field(
        "held-out",
        description="`held-out` samples are never used in training, `training` ones are",
    )
    damping: float = Field(
        1e-2, gt=0, description="added to every Fisher entry before it is inverted: Σ = 1/(F + δ)"
    )


class MergeSettings(Group):
    """How the personalized adapter is made of the two."""

    rule: str = Field("excess-loss", description="merge rule of the adapter that is saved")
    fallback: bool = Field(
        True,
        description="keep the better single adapter where the calibration samples show the merge "
        "to be worse by more than their noise",
    )
    space: Literal["factors", "delta"] = Field(
        "factors",
        description="`factors` averages A and B apart (the paper), `delta` the update ΔW exactly",
    )
    svd: bool = Field(
        False, description="in the `delta` space: bring rank 2r back to r by a truncated SVD"
    )


class RunSettings(Group):
    """Where a run leaves its results and its logs. Decides no number."""

    results: str = Field(
        "",
        description="results folder; empty is a new folder in `potara-results` of the home "
        "folder, named by the run id",
    )
    tracker: Literal["none", "tensorboard", "wandb", "mlflow"] = Field(
        "none",
        description="where rounds and the end are logged besides; each is an extra: "
        "`pip install 'potara-flwr[wandb]'`",
    )


class Settings(Group):
    """All settings of a run."""

    seed: int = Field(0, ge=0, description="the one seed that decides everything")
    task: TaskSettings = TaskSettings()
    data: DataSettings = DataSettings()
    lora: LoraSettings = LoraSettings()
    train: TrainSettings = TrainSettings()
    federation: FederationSettings = FederationSettings()
    local: LocalSettings = LocalSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    merge: MergeSettings = MergeSettings()
    run: RunSettings = RunSettings()

    def to_flat(self) -> dict[str, Value]:
        """Return every setting by its flat name, as Flower's run config has them."""
        flat: dict[str, Value] = {}
        for name, value in self.model_dump(by_alias=True).items():
            if isinstance(value, dict):
                flat |= {f"{name}.{key}": item for key, item in value.items()}
            else:
                flat[name] = value
        return flat

    def computed(self) -> dict[str, Any]:
        """Return the settings that decide numbers (all but ``run``), nested."""
        return self.model_dump(by_alias=True, exclude={"run"})


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
    from potara_flwr.rules import RULES
    from potara_flwr.strategies import STRATEGIES
    from potara_flwr.tasks import TASKS

    for name, value, registry in (
        ("task.name", settings.task.name, TASKS),
        ("merge.rule", settings.merge.rule, RULES),
        ("federation.strategy", settings.federation.strategy, STRATEGIES),
    ):
        if value not in registry:
            raise SettingsError(
                f"setting {name} is {value!r}, but must be one of {', '.join(registry)}"
                f"{nearest(value, registry)}"
            )


if __name__ == "__main__":
    sys.stdout.write(settings_table())
