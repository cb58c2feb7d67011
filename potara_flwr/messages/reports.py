"""What a client tells of itself: its schema in ``results.json``, and how it travels.

A client sends numbers and a few words, flat, under dotted names (``accuracy.local``); the server
puts them together again and takes nothing that does not fit the schema. Every number has bounds far
from where a mean of them, a figure or a table would break.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from flwr.app import ConfigRecord, MetricRecord, RecordDict
from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    model_validator,
)

from potara_flwr.core.entry import Count, Entry
from potara_flwr.core.errors import ReplyError, one_line
from potara_flwr.data.account import HeldRows, SourceRows, account
from potara_flwr.merging.diagnosis import Diagnosis
from potara_flwr.merging.rules import GRID, RULES
from potara_flwr.messages.checking import ROUND, is_whole, shown, some
from potara_flwr.tasks.base import ClientData

Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[float, Field(ge=-1e30, le=1e30)]
Loss = Annotated[float, Field(ge=-1e12, le=1e12)]
Duration = Annotated[float, Field(ge=0, le=1e9)]
Line = Annotated[str, AfterValidator(one_line)]


class Description(Entry):
    """Which client a node is, and how many samples it has, or why it cannot take part."""

    client: Count | None = None
    """None where a node at fault is none."""
    num_partitions: Count = 0
    """Partitions of the nodes; 0 where nobody says."""
    fault: Annotated[Line, Field(min_length=1)] | None = None
    """What is wrong with the node itself, in one line that names it."""
    num_train: Count = 0
    num_calibration: Count = 0
    num_test: Count = 0
    rows: HeldRows | None = None
    source: SourceRows | None = None
    """None where the data is the node's own."""

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
        rows = {} if self.rows is None else {"rows": account(self.rows, self.source)}
        return {"client": self.client, **name, **sizes, **rows}


def rows_of(data: ClientData, *, alone: bool) -> tuple[HeldRows | None, SourceRows | None]:
    """Return what has become of a client's rows, and of those of its source that nobody holds.

    Parameters
    ----------
    alone : bool
        The source is the client's alone, which then holds all of its rows.
    """
    if not alone or data.rows is None or data.source is None:
        return data.rows, data.source
    of_source = data.source.model_dump(include={"found", "unused_splits"})
    return HeldRows(**data.rows.model_dump() | of_source), None


class Traces(Entry):
    """The variance traces a = tr Σ_f, b = tr Σ_l, c = tr Σ_fl."""

    federated: Number
    local: Number
    cross: Number


class Bound(Entry):
    """tr Cov of the merge at λ = 1, at λ = 0 and at λ*."""

    federated: Number
    local: Number
    merged: Number


def _is_rule(name: str) -> str:
    if name not in RULES:
        raise ValueError("there is no such rule")
    return name


class Personalized(Entry):
    """What the client ends with."""

    accuracy: Share
    loss: Loss
    weight: Number | None = None
    """Mean weight on the federated adapter, where the method has one."""
    rule: Annotated[str, AfterValidator(_is_rule)] | None = None
    fallback: Literal["", "federated", "local"] | None = None
    """The single adapter that was kept instead of the rule's merge, or empty."""
    reason: Line | None = None
    """Why it was kept, or empty."""


class Diagnosed(Entry):
    """How far the calibration samples bear the weight out."""

    favours: Literal["federated", "local", "both"]
    low: Number
    high: Number
    gain: Number
    noise: Number | None = None
    """None where it is not finite."""
    warning: Line

    @classmethod
    def of(cls, found: Diagnosis) -> Diagnosed:
        """Return what is reported of a diagnosis."""
        noise = found.noise if math.isfinite(found.noise) else None
        return cls(
            favours=found.favours, low=found.low, high=found.high, gain=found.gain, noise=noise,
            warning=found.warning,
        )  # fmt: skip


class Grid(Entry):
    """Test scores along λ."""

    weight: Annotated[list[Number], Field(min_length=len(GRID), max_length=len(GRID))]
    accuracy: Annotated[list[Share], Field(min_length=len(GRID), max_length=len(GRID))]
    loss: Annotated[list[Loss], Field(min_length=len(GRID), max_length=len(GRID))]


class Seconds(Entry):
    """Wall-clock times."""

    training: Duration
    """All optimizer steps, in rounds and after them."""
    local_training: Duration | None = None
    """Those after the rounds, where there are some."""
    weight: Duration | None = None
    """Finding the weight and merging, where there is one."""


def _checked(numbers: dict[str, float], names: set[str]) -> dict[str, float]:
    if difference := names ^ set(numbers):
        raise ValueError(f"{some(difference)} missing or not asked for")
    return numbers


MERGED = ("traces", "bound", "weights", "diagnosis", "gradients")
"""What a report has where the method merges by evidence, and only there."""
ORACLE = "oracle"
"""The best point of the grid: what the rules are compared with, where they are."""


class Report(Entry):
    """The outcome of a client."""

    optimizer_steps: Count
    personalized: Personalized
    accuracy: dict[str, Share]
    loss: dict[str, Loss]
    traces: Traces | None = None
    bound: Bound | None = None
    weights: dict[str, Number] | None = None
    """λ of every rule, and of the oracle where there is a grid."""
    diagnosis: Diagnosed | None = None
    gradients: Literal["batched", "one at a time"] | None = None
    """How those of the calibration samples were computed; the values are the same."""
    grid: Grid | None = None
    """Where merges are compared (``merge.compare``)."""
    svd_error: Number | None = None
    seconds: Seconds

    @model_validator(mode="after")
    def _belongs_together(self) -> Report:
        """Check that a merge is reported whole, and that every adapter and rule has its scores."""
        there = {name for name in MERGED if getattr(self, name) is not None}
        if there:
            _checked(dict.fromkeys(there, 0.0), set(MERGED))
            own = self.personalized.model_dump(exclude_none=True)
            _checked(own, set(Personalized.model_fields))
        compared = {ORACLE} if self.grid else set()
        if there != set(MERGED) and self.grid:
            raise ValueError("grid: not asked for")
        if self.weights is not None:
            _checked(self.weights, {*RULES, *compared})
        rules = {*RULES, *compared} if self.grid else set()
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
            raise ReplyError(f"accuracy: {some(difference)} missing or not asked for")

    def to_json(self) -> dict[str, Any]:
        """Return the entry as it stands in ``results.json``: without what the method does not
        have; the grid is a list of points.
        """
        entry = self.model_dump()
        for name in (*MERGED, "grid"):
            if entry[name] is None:
                del entry[name]
        if self.weights is None:
            del entry["svd_error"]
        if self.grid is not None:
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


E = TypeVar("E", bound=Entry)


def pack(entry: Entry, server_round: int | None = None) -> RecordDict:
    """Return an entry as the content of a reply: numbers in ``metrics``, with the round that is
    answered where there is one, and texts in ``config``.
    """
    numbers, texts = MetricRecord(), ConfigRecord()
    if server_round is not None:
        numbers[ROUND] = server_round
    for name, value in _flatten(entry.model_dump()):
        (texts if isinstance(value, str) else numbers)[name] = value
    content = RecordDict({"metrics": numbers})
    if texts:
        content["config"] = texts
    return content


def unpack(content: RecordDict, kind: type[E], server_round: int | None = None) -> E:
    """Return the entry in a reply, to a message of this round where that has one.

    Raises
    ------
    ReplyError
        Something is missing, is of the wrong kind, not finite, or was not asked for, or the reply
        is one to another round; says what.
    """
    nested: dict[str, Any] = {}
    for record, kind_of_record in (("metrics", MetricRecord), ("config", ConfigRecord)):
        if not isinstance(content.get(record, kind_of_record()), kind_of_record):
            raise ReplyError(f"its record {record!r} is a {type(content[record]).__name__}")
    if others := set(content) - {"metrics", "config"}:
        raise ReplyError(f"has the records {some(others)}, which were not asked for")
    for numbers_or_texts in content.values():
        for name, value in numbers_or_texts.items():
            group, _, key = name.partition(".")
            place = nested.setdefault(group, {}) if key else nested
            if not isinstance(place, dict) or (key or group) in place:
                raise ReplyError(one_line(f"{name} is there twice, or a number and a group"))
            place[key or group] = value
    if server_round is not None:
        answered = nested.pop(ROUND, None)
        if not is_whole(answered, server_round, server_round):
            raise ReplyError(f"answers round {shown(answered)}, not {server_round}")
    try:
        return kind.model_validate(nested)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ReplyError(one_line(f"{where}: {first['msg']}" if where else first["msg"])) from None


def _flatten(nested: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in nested.items():
        if isinstance(value, Mapping):
            for key, item in value.items():
                if item is not None:
                    yield f"{name}.{key}", item
        elif value is not None:
            yield name, value


USER_ERROR = 400
"""Error code of a reply whose reason is one line for the user, such as a wrong setting."""
