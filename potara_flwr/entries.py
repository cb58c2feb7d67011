"""What a client tells of itself: its schema in ``results.json``, and how it travels.

A client sends numbers and a few words, flat, under dotted names (``accuracy.local``); the server
puts them together again and takes nothing that does not fit the schema.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

from flwr.app import ConfigRecord, MetricRecord, RecordDict
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from potara_flwr.errors import ReplyError
from potara_flwr.personalization import Personalization
from potara_flwr.rules import GRID, RULES


class Entry(BaseModel):
    """Exactly these names, and finite numbers only."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Description(Entry):
    """Which client a node is, and how many samples it has."""

    client: int = Field(ge=0)
    num_partitions: int = Field(ge=0)
    """Partitions of the nodes; 0 where nobody says."""
    num_train: int = Field(0, ge=0)
    num_calibration: int = Field(0, ge=0)
    num_test: int = Field(0, ge=0)


class Traces(Entry):
    """The variance traces a = tr Σ_f, b = tr Σ_l, c = tr Σ_fl."""

    federated: float
    local: float
    cross: float


class Bound(Entry):
    """tr Cov of the merge at λ = 1, at λ = 0 and at λ*."""

    federated: float
    local: float
    merged: float


class Personalized(Entry):
    """The adapter that was saved."""

    rule: str
    weight: float
    accuracy: float
    loss: float
    fallback: str
    """The single adapter that was kept instead of the rule's merge, or empty."""
    reason: str
    """Why it was kept, or empty."""


class Diagnosed(Entry):
    """How far the calibration samples bear the weight out."""

    favours: str
    low: float
    high: float
    gain: float
    noise: float | None = None
    warning: str


class Grid(Entry):
    """Test scores along λ."""

    weight: Annotated[list[float], Field(min_length=len(GRID), max_length=len(GRID))]
    accuracy: Annotated[list[float], Field(min_length=len(GRID), max_length=len(GRID))]
    loss: Annotated[list[float], Field(min_length=len(GRID), max_length=len(GRID))]


class Seconds(Entry):
    """Wall-clock times."""

    local_training: float
    weight: float


def _of_every_rule(numbers: dict[str, float]) -> dict[str, float]:
    return _checked(numbers, {*RULES, "oracle"})


def _of_every_adapter(numbers: dict[str, float]) -> dict[str, float]:
    return _checked(numbers, {"initial", "federated", "local", *RULES, "oracle"})


def _checked(numbers: dict[str, float], names: set[str]) -> dict[str, float]:
    if difference := names ^ set(numbers):
        raise ValueError(f"{sorted(difference)} missing or not asked for")
    return numbers


class Report(Entry):
    """The outcome of a client's personalization."""

    traces: Traces
    bound: Bound
    weights: Annotated[dict[str, float], AfterValidator(_of_every_rule)]
    personalized: Personalized
    diagnosis: Diagnosed
    accuracy: Annotated[dict[str, float], AfterValidator(_of_every_adapter)]
    loss: Annotated[dict[str, float], AfterValidator(_of_every_adapter)]
    grid: Grid
    svd_error: float | None = None
    seconds: Seconds

    @classmethod
    def of(cls, outcome: Personalization) -> Report:
        """Return what of a personalization may leave the client: numbers, no adapter."""
        own, found = outcome.scores["personalized"], outcome.diagnosis
        scores = {name: score for name, score in outcome.scores.items() if name != "personalized"}
        points = [score for _, score in outcome.grid]
        return cls(
            traces=Traces(**outcome.traces),
            bound=Bound(**outcome.bound),
            weights=outcome.weights,
            personalized=Personalized(
                rule=outcome.rule,
                weight=outcome.weight,
                accuracy=own.accuracy,
                loss=own.loss,
                fallback=outcome.fallback,
                reason=outcome.reason,
            ),
            diagnosis=Diagnosed(
                favours=found.favours,
                low=found.low,
                high=found.high,
                gain=found.gain,
                noise=found.noise if math.isfinite(found.noise) else None,
                warning=found.warning,
            ),
            accuracy={name: score.accuracy for name, score in scores.items()},
            loss={name: score.loss for name, score in scores.items()},
            grid=Grid(
                weight=[weight for weight, _ in outcome.grid],
                accuracy=[score.accuracy for score in points],
                loss=[score.loss for score in points],
            ),
            svd_error=outcome.svd_error,
            seconds=Seconds(
                local_training=outcome.seconds_local_training, weight=outcome.seconds_weight
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the entry as it stands in ``results.json``: the grid is a list of points."""
        entry = self.model_dump()
        columns = entry["grid"]
        entry["grid"] = [
            dict(zip(columns, point, strict=True)) for point in zip(*columns.values(), strict=True)
        ]
        return entry


E = TypeVar("E", bound=Entry)


def pack(entry: Entry) -> RecordDict:
    """Return an entry as the content of a reply: numbers in ``metrics``, texts in ``config``."""
    numbers, texts = MetricRecord(), ConfigRecord()
    for name, value in _flatten(entry.model_dump()):
        (texts if isinstance(value, str) else numbers)[name] = value
    content = RecordDict({"metrics": numbers})
    if texts:
        content["config"] = texts
    return content


def unpack(content: RecordDict, kind: type[E]) -> E:
    """Return the entry in a reply.

    Raises
    ------
    ReplyError
        Something is missing, is of the wrong kind, not finite, or was not asked for; says what.
    """
    nested: dict[str, Any] = {}
    for name in content:
        if name not in ("metrics", "config"):
            raise ReplyError(f"has the record {name!r}, which was not asked for")
    records: list[Mapping[str, Any]] = [
        *content.metric_records.values(),
        *content.config_records.values(),
    ]
    for record in records:
        for name, value in record.items():
            group, _, key = name.partition(".")
            place = nested.setdefault(group, {}) if key else nested
            if not isinstance(place, dict):
                raise ReplyError(f"{group} is a number and a group of numbers")
            place[key or group] = value
    try:
        return kind.model_validate(nested)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ReplyError(f"{where}: {first['msg']}") from None


def _flatten(nested: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in nested.items():
        if isinstance(value, Mapping):
            for key, item in value.items():
                if item is not None:
                    yield f"{name}.{key}", item
        elif value is not None:
            yield name, value
