"""What a client tells of itself: its schema in ``results.json``, and how it travels.

A client sends numbers and a few words, flat, under dotted names (``accuracy.local``); the server
puts them together again and takes nothing that does not fit the schema.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from flwr.app import ConfigRecord, MetricRecord, RecordDict
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from potara_flwr.errors import ReplyError
from potara_flwr.methods import Outcome
from potara_flwr.personalization import Personalization
from potara_flwr.rules import GRID, RULES

MOST_CHARACTERS = 2000
"""Of a line in which a node says what is wrong with it."""


class Entry(BaseModel):
    """Exactly these names, and finite numbers only."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Description(Entry):
    """Which client a node is, and how many samples it has, or why it cannot take part."""

    client: int | None = Field(None, ge=0)
    """None where a node at fault is none."""
    num_partitions: int = Field(0, ge=0)
    """Partitions of the nodes; 0 where nobody says."""
    fault: str | None = Field(None, min_length=1, max_length=MOST_CHARACTERS)
    """What is wrong with the node itself, in one line that names it."""
    num_train: int = Field(0, ge=0)
    num_calibration: int = Field(0, ge=0)
    num_test: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _says_something(self) -> Description:
        """Check that it is a client, or at fault."""
        if self.client is None and self.fault is None:
            raise ValueError("neither client nor fault")
        return self

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the beginning of the client's entry in ``results.json``; with its name where
        clients have ``names``.
        """
        assert self.client is not None
        name = {"name": names[self.client]} if names else {}
        sizes = self.model_dump(include={"num_train", "num_calibration", "num_test"})
        return {"client": self.client, **name, **sizes}


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
    """What the client ends with."""

    accuracy: float
    loss: float
    weight: float | None = None
    """Mean weight on the federated adapter, where the method has one."""
    rule: str | None = None
    fallback: str | None = None
    """The single adapter that was kept instead of the rule's merge, or empty."""
    reason: str | None = None
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

    training: float
    """All optimizer steps, in rounds and after them."""
    local_training: float | None = None
    """Those after the rounds, where there are some."""
    weight: float | None = None
    """Finding the weight and merging, where there is one."""


def _of_every_rule(numbers: dict[str, float]) -> dict[str, float]:
    return _checked(numbers, {*RULES, "oracle"})


def _checked(numbers: dict[str, float], names: set[str]) -> dict[str, float]:
    if difference := names ^ set(numbers):
        raise ValueError(f"{sorted(difference)} missing or not asked for")
    return numbers


MERGED = ("traces", "bound", "weights", "diagnosis", "grid")
"""What a report has where the method merges by evidence, and only there."""


class Report(Entry):
    """The outcome of a client."""

    optimizer_steps: int = Field(ge=0)
    personalized: Personalized
    accuracy: dict[str, float]
    loss: dict[str, float]
    traces: Traces | None = None
    bound: Bound | None = None
    weights: Annotated[dict[str, float], AfterValidator(_of_every_rule)] | None = None
    diagnosis: Diagnosed | None = None
    grid: Grid | None = None
    svd_error: float | None = None
    seconds: Seconds

    @model_validator(mode="after")
    def _belongs_together(self) -> Report:
        """Check that a merge is reported whole, and that every adapter and rule has its scores."""
        there = {name for name in MERGED if getattr(self, name) is not None}
        if there:
            _checked(dict.fromkeys(there, 0.0), set(MERGED))
            own = self.personalized.model_dump(exclude_none=True)
            _checked(own, set(Personalized.model_fields))
        rules = {*RULES, "oracle"} if there else set()
        for name in ("accuracy", "loss"):
            scores: dict[str, float] = getattr(self, name)
            single = set(scores) & {"initial", "federated", "local"}
            try:
                _checked(scores, single | rules | {"initial"})
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        _checked(self.loss, set(self.accuracy))
        return self

    def check_adapters(self, names: set[str]) -> None:
        """Check that it is these adapters that are scored, next to any rules.

        Raises
        ------
        ReplyError
            One is missing or was not asked for.
        """
        if difference := (set(self.accuracy) - set(self.weights or ())) ^ names:
            raise ReplyError(f"accuracy: {sorted(difference)} missing or not asked for")

    @classmethod
    def of(cls, outcome: Outcome, optimizer_steps: int, seconds: float) -> Report:
        """Return what of an outcome may leave the client: numbers, no adapter."""
        own = outcome.scores["personalized"]
        scores = {name: score for name, score in outcome.scores.items() if name != "personalized"}
        personalized = Personalized(accuracy=own.accuracy, loss=own.loss, weight=outcome.weight)
        if outcome.merge is not None:
            merged = outcome.merge
            personalized = personalized.model_copy(
                update={
                    "rule": merged.rule,
                    "fallback": merged.fallback,
                    "reason": merged.reason,
                }
            )
        return cls(
            optimizer_steps=optimizer_steps,
            personalized=personalized,
            accuracy={name: score.accuracy for name, score in scores.items()},
            loss={name: score.loss for name, score in scores.items()},
            seconds=Seconds(
                training=seconds,
                local_training=outcome.seconds_local_training,
                weight=outcome.seconds_weight,
            ),
            **(_of_merge(outcome.merge) if outcome.merge is not None else {}),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the entry as it stands in ``results.json``: without what the method does not
        have; the grid is a list of points.
        """
        entry = self.model_dump()
        for name in MERGED:
            if entry[name] is None:
                del entry[name]
        if self.grid is None:
            del entry["svd_error"]
        else:
            columns = entry["grid"]
            entry["grid"] = [
                dict(zip(columns, point, strict=True))
                for point in zip(*columns.values(), strict=True)
            ]
        for group in ("personalized", "seconds"):
            entry[group] = {
                name: value for name, value in entry[group].items() if value is not None
            }
        return entry


def _of_merge(merge: Personalization) -> dict[str, Any]:
    """Return the parts of a report that tell of a merge by evidence."""
    found = merge.diagnosis
    points = [score for _, score in merge.grid]
    return {
        "traces": Traces(**merge.traces),
        "bound": Bound(**merge.bound),
        "weights": merge.weights,
        "diagnosis": Diagnosed(
            favours=found.favours,
            low=found.low,
            high=found.high,
            gain=found.gain,
            noise=found.noise if math.isfinite(found.noise) else None,
            warning=found.warning,
        ),
        "grid": Grid(
            weight=[weight for weight, _ in merge.grid],
            accuracy=[score.accuracy for score in points],
            loss=[score.loss for score in points],
        ),
        "svd_error": merge.svd_error,
    }


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
        raise ReplyError(f"{where}: {first['msg']}" if where else first["msg"]) from None


def _flatten(nested: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in nested.items():
        if isinstance(value, Mapping):
            for key, item in value.items():
                if item is not None:
                    yield f"{name}.{key}", item
        elif value is not None:
            yield name, value
