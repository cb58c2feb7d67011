"""Settings read from flat names and values, and checked: Flower checks no types.

Stands above the registries of methods, rules and tasks, whose names are values of settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from potara_flwr.core.errors import SettingsError, nearest
from potara_flwr.merging.rules import RULES
from potara_flwr.methods import METHODS
from potara_flwr.settings.groups import RunSettings, Value
from potara_flwr.settings.schema import Settings, allowed, schema, unknown
from potara_flwr.tasks import TASKS


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
    # A command line has a text such as 3, a number of classes, or 2020, a name, as a number.
    values = {
        name: str(value)
        if name in known and known[name].annotation is str and type(value) in (int, float)
        else value
        for name, value in values.items()
    }
    for name, value in values.items():
        if name not in known:
            raise SettingsError(unknown(name))
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
    _check_patterns(settings)
    _check_ranks(settings)
    _check_run(settings.run)
    _check_names(settings)
    _check_privacy(settings)
    return settings


def _check_registered(settings: Settings) -> None:
    """Check the settings whose values are names in a registry."""
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


def _check_patterns(settings: Settings) -> None:
    """Check that modules with a rank or alpha of their own are told as peft takes them."""
    lora = settings.lora
    for name, text, read, kind in (
        ("rank", lora.rank_pattern, lambda: lora.module_ranks, "a rank from 1"),
        ("alpha", lora.alpha_pattern, lambda: lora.module_alphas, "an alpha above 0"),
    ):
        try:
            read()
        except ValueError:
            raise SettingsError(
                f"setting lora.{name}-pattern is {text!r}, but must be modules with {kind} each, "
                "e.g. q_proj=16,v_proj=4"
            ) from None


def _check_ranks(settings: Settings) -> None:
    """Check that clients with a rank of their own have one that the federated adapter has."""
    lora, clients = settings.lora, settings.data.num_clients
    try:
        ranks = lora.client_ranks
    except ValueError:
        raise SettingsError(
            f"setting lora.ranks is {lora.ranks!r}, but must be ranks from 1, separated by commas, "
            "e.g. 2,4,8"
        ) from None
    if not ranks:
        return
    if len(ranks) > clients:
        raise SettingsError(
            f"lora.ranks has {len(ranks)} ranks, but data.num-clients is {clients}; leave out some"
        )
    if max(ranks) != lora.rank:
        raise SettingsError(
            f"the largest of lora.ranks is {max(ranks)}, but lora.rank, that of the federated "
            f"adapter, is {lora.rank}; make them equal"
        )
    if lora.rank_pattern:
        raise SettingsError(
            "lora.ranks and lora.rank-pattern are both given, but a client has one rank for all "
            "modules; empty one"
        )
    shared = METHODS[settings.method].shared
    if settings.federation.aggregation == "exact" and "B" in shared and "A" not in shared:
        raise SettingsError(
            f"federation.aggregation=exact cuts updates to lora.ranks, but method={settings.method}"
            " sends no A; use factors"
        )
    if settings.privacy.clipping_norm > 0:
        raise SettingsError(
            "privacy.clipping-norm bounds changes of one adapter, which all clients have; empty "
            "lora.ranks"
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
    privacy, federation = settings.privacy, settings.federation
    if privacy.noise_multiplier > 0 and privacy.clipping_norm == 0:
        raise SettingsError(
            "privacy.noise-multiplier needs a privacy.clipping-norm above 0: the noise is measured "
            "in it"
        )
    if privacy.clipping_norm == 0:
        return
    needs = [
        f"federation.{name}={wanted} (it is {value}: {why})"
        for name, value, wanted, why in (
            (
                "weighting",
                federation.weighting,
                "uniform",
                "a client's weight would be its own choice",
            ),
            ("aggregation", federation.aggregation, "factors", "an SVD has no bounded sensitivity"),
            ("transport", federation.transport, "float32", "rounding comes after clipping"),
        )
        if value != wanted
    ]
    if needs:
        raise SettingsError(f"privacy.clipping-norm needs {' and '.join(needs)}")
    if not METHODS[settings.method].averages_all:
        raise SettingsError(
            f"privacy.clipping-norm cannot be used with method={settings.method}, which sends "
            "clients what others have sent, without noise"
        )
