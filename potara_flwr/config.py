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
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from potara_flwr.errors import SettingsError

Value = bool | int | float | str
Partition = Literal["dirichlet", "pathological", "size-skewed", "natural", "iid", "whole"]


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

    name: str = Field(
        "digits",
        description="task: `digits`, `image-classification`, `text-classification`, "
        "`multiple-choice` or `instruction`",
    )
    model: str = Field(
        "digits-vit",
        description="base model: the embedded `digits-vit`, a local Hugging Face model folder "
        "or a hub id",
    )
    head: Literal["shared", "local"] = Field(
        "shared",
        description="task head: `shared` is averaged with the adapter and has the same classes on "
        "every client, `local` stays on the client and has the classes of the client's data",
    )
    option_score: Literal["sum", "mean"] = Field(
        "sum",
        description="score of an option for a language model: `sum` of its tokens' "
        "log-probabilities, or their `mean`, which does not favour short options",
    )
    metric: Literal["f1", "exact-match", "rouge-l"] = Field(
        "f1", description="how an `instruction` answer that has no options to choose from is scored"
    )
    max_new_tokens: int = Field(
        32, ge=1, description="tokens a language model may write where it answers freely"
    )


class ModelSettings(Group):
    """How the base model is held in memory."""

    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="type of the frozen weights; adapters and heads are always float32"
    )
    device: str = Field(
        "auto",
        description="where a process computes: `cpu`, `cuda`, `cuda:1`; `auto` is a GPU where "
        "there is one",
    )
    device_map: str = Field(
        "",
        description="spreads the base model over several GPUs, e.g. `auto` or `balanced` "
        "(transformers' device map); empty keeps it on one device",
    )
    quantize: Literal["none", "4bit"] = Field(
        "none", description="`4bit` holds the frozen weights as NF4 (bitsandbytes, on a GPU)"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations anew in the backward pass: less memory, more time"
    )


class DataSettings(Group):
    """What each client holds. ``path`` and what goes with it, down to ``label_column``, may be
    several, separated by commas: client k holds a share of the k-th, in turn.
    """

    num_clients: int = Field(8, ge=1, description="clients the data is partitioned over")
    partition: Partition = Field(
        "dirichlet",
        description="whose samples are whose: Dirichlet label skew, a few classes a client, "
        "random shares that grow with the client, the values of a column, equal random shares, "
        "or all of a source",
    )
    partition_column: str = Field(
        "",
        description="column that decides the partition: a domain, user or task for `natural` "
        "(client k holds a share of the k-th value, in turn); empty is the labels",
    )
    classes_per_client: int = Field(
        2, ge=1, description="classes of a client where `data.partition` is `pathological`"
    )
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
    path: str = Field(
        "",
        description="data: a hub id, a folder of data files or images, or a file that ends in "
        ".parquet, .csv, .json or .jsonl",
    )
    name: str = Field("", description="configuration of the data set; empty is its only one")
    train_split: str = Field(
        "train", description="split of the training samples, e.g. `train` or `train[:1000]`"
    )
    test_split: str = Field(
        "",
        description="split of the test samples, partitioned together with the training samples; "
        "empty splits each client's samples",
    )
    image_column: str = Field("image", description="column of the images")
    text_column: str = Field(
        "text", description="column of the texts; `first+second` are pairs of texts"
    )
    label_column: str = Field(
        "label", description="column of the labels: classes by name, or whole numbers from 0"
    )
    classes: str = Field(
        "",
        description="classes by name, separated by commas, in the order of their numbers, or how "
        "many there are; empty finds them in the data. Needed where nodes bring their own data",
    )
    split_column: str = Field(
        "",
        description="column that says `train` or `test`; empty splits each client's samples by "
        "`data.test-fraction`",
    )
    max_tokens: int = Field(
        64,
        ge=1,
        description="tokens a text is cut to; a prompt loses its beginning, an answer nothing",
    )
    datasets: str = Field(
        "",
        description="benchmark data sets of a language-model task, separated by commas: client k "
        "holds a share of the k-th, in turn; empty reads `data.path`",
    )
    root: str = Field(
        "",
        description="folder with copies of the benchmark data sets, each in a folder that is "
        "named by its hub id; empty loads them from the hub",
    )
    prompt_column: str = Field(
        "prompt", description="column of the prompts, for a language model and data of your own"
    )
    answer_column: str = Field("answer", description="column of the answers, likewise")
    options_column: str = Field(
        "",
        description="column of the lists of options, the answer (its text, or its number from 0) "
        "being one of them; empty has the model answer freely",
    )


class LoraSettings(Group):
    """The adapter."""

    rank: int = Field(4, ge=1, description="rank r of the LoRA update ΔW = (alpha / r)·B·A")
    alpha: float = Field(8.0, gt=0, description="LoRA alpha; the scaling is alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before A, in training only")
    target_modules: str = Field(
        "",
        description="modules that get an adapter, separated by commas; empty finds the query and "
        "value projections of the architecture",
    )


class TrainSettings(Group):
    """Optimization, the same in federated rounds and in local training."""

    learning_rate: float = Field(3e-3, gt=0, description="AdamW learning rate")
    batch_size: int = Field(16, ge=1, description="samples per optimizer step")
    local_steps: int = Field(
        10, ge=1, description="optimizer steps a client takes in one federated round"
    )
    evaluation_batch_size: int = Field(
        64, ge=1, description="samples scored at once, without gradients"
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

    rounds: int = Field(20, ge=0, description="federated rounds; 0 trains locally only")
    baseline_rounds: int = Field(
        0,
        ge=0,
        description="federated rounds of a method that has no local phase; 0 is as many as give "
        "every client the optimizer steps of the rounds and of local training",
    )
    aggregation: Literal["factors", "exact"] = Field(
        "factors",
        description="`factors` averages A and B apart, `exact` the update ΔW, which it brings back "
        "to rank r by a truncated SVD",
    )
    transport: Literal["float32", "float16", "bfloat16", "int8"] = Field(
        "float32",
        description="how adapters are sent, both ways; `int8` has a scale per tensor and error "
        "feedback",
    )
    weighting: Literal["examples", "uniform"] = Field(
        "examples",
        description="weights of the average: a client's training samples, or the same for all",
    )
    max_norm_ratio: float = Field(
        10.0,
        ge=0,
        description="a client's update is refused whose norm is more than this many times the "
        "median of the round's; 0 is no limit",
    )
    fraction_train: float = Field(
        1.0, gt=0, le=1, description="share of the clients that train in a round (at least one)"
    )
    fraction_evaluate: float = Field(
        1.0, ge=0, le=1, description="share of the clients that evaluate after a round; 0 is none"
    )
    min_reply_fraction: float = Field(
        0.5,
        gt=0,
        le=1,
        description="share of the expected clients that must connect, and of a round's clients "
        "that must reply well",
    )
    timeout: float = Field(3600.0, gt=0, description="seconds to wait for the replies of a round")
    connect_timeout: float = Field(
        60.0, ge=0, description="seconds to wait for all clients to connect, before the first round"
    )
    nodes: str = Field(
        "",
        description="names of the nodes that are expected, separated by commas: client k is the "
        "k-th; empty: nodes say by their partition-id which client they are",
    )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the clients, in order; empty where they have none."""
        return tuple(name.strip() for name in self.nodes.split(",") if name.strip())


class PrivacySettings(Group):
    """Differential privacy of a client's whole contribution to the rounds (docs/security.md)."""

    clipping_norm: float = Field(
        0.0,
        ge=0,
        description="norm to which each client clips what it changes in a round; 0 is no clipping "
        "and no privacy",
    )
    noise_multiplier: float = Field(
        0.0,
        ge=0,
        description="standard deviation of the server's noise on the sum of the clipped changes, "
        "in clipping norms",
    )
    delta: float = Field(
        1e-5, gt=0, lt=1, description="δ at which ε is told; well below 1 / number of clients"
    )
    noise: Literal["secret", "seeded"] = Field(
        "secret",
        description="`secret` noise is drawn anew in every run; `seeded` noise comes from `seed`, "
        "so that a run can be repeated, and gives no privacy: who knows the seed can take it off",
    )


class CalibrationSettings(Group):
    """The samples and the damping behind the variance traces."""

    samples: int = Field(30, ge=1, description="calibration samples per client (the paper: 30)")
    source: Literal["held-out", "training"] = Field(
        "held-out",
        description="`held-out` samples are never used in training, `training` ones are",
    )
    batch_size: int = Field(
        0,
        ge=0,
        description="calibration samples whose gradients are computed at once; 0 is all of them",
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


class BaselineSettings(Group):
    """The knobs of single methods, at their papers' values."""

    fedprox_mu: float = Field(
        0.01, ge=0, description="FedProx: μ of the pull μ/2·‖θ − θ_received‖²"
    )
    ditto_mu: float = Field(
        0.1, ge=0, description="Ditto: μ of the pull of the personal adapter to the federated one"
    )
    ties_density: float = Field(
        0.2, gt=0, le=1, description="TIES: share of the entries of a task vector that are kept"
    )
    dare_density: float = Field(
        0.5, gt=0, le=1, description="DARE: share of the entries of a task vector that are kept"
    )
    feddpa_samples: int = Field(
        5, ge=1, description="FedDPA: training samples that a sample is compared with"
    )
    feddpa_scale: float = Field(
        0.5, ge=0, le=1, description="FedDPA: most weight of the local adapter"
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
    resume: str = Field(
        "",
        description="results folder of a run that was interrupted: goes on there with the next "
        "round, all other settings being the same (docs/resume.md)",
    )
    personalize_only: str = Field(
        "",
        description="results folder of a finished run: asks the clients that are missing there to "
        "personalize, and completes its results",
    )

    @property
    def earlier(self) -> tuple[str, str]:
        """The setting that names a folder to go on in, and the folder; empty for a new run."""
        for name, folder in (
            ("run.resume", self.resume),
            ("run.personalize-only", self.personalize_only),
        ):
            if folder:
                return name, folder
        return "", ""


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
