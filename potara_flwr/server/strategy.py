"""The strategy of a run: how its method averages, and what the settings put around that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from logging import WARNING
from typing import Any

from flwr.supercore import log

from potara_flwr.merging.rules import BY_LOSS
from potara_flwr.messages.ledger import Ledger
from potara_flwr.messages.reports import Description
from potara_flwr.methods import METHODS
from potara_flwr.server.privacy import spent
from potara_flwr.settings.schema import Settings
from potara_flwr.strategies.lora_averaging import LoraAveraging
from potara_flwr.strategies.private import ClippedAveraging, PrivateAveraging


def strategy_of(
    ledger: Ledger, settings: Settings, descriptions: Mapping[int, Description]
) -> LoraAveraging:
    """Return the method's strategy for the clients that take part."""
    method, federation = METHODS[settings.method], settings.federation
    if warning := needs_held_out(settings):
        log(WARNING, "%s", warning)
    out = method.keeps_calibration_out(settings)
    in_training = {
        client: told.num_train + (0 if out else told.num_calibration)
        for client, told in descriptions.items()
    }
    if federation.weighting == "examples" and (warning := outweighs(in_training)):
        log(WARNING, "%s", warning)
    in_evaluation = {client: told.num_test for client, told in descriptions.items()}
    norm = settings.privacy.clipping_norm
    strategy = partial(ClippedAveraging, clipping_norm=norm) if norm else method.strategy
    return strategy(
        federation,
        ledger,
        seed=settings.seed,
        num_examples={"train": in_training, "evaluate": in_evaluation},
        ranks={
            client: rank
            for client in descriptions
            if (rank := settings.rank_of(client)) is not None
        },
    )


def needs_held_out(settings: Settings) -> str:
    """Say in one line that the merge rule would see nothing but the local adapter's own samples;
    return nothing where that is no matter.
    """
    rule, source = settings.merge.rule, settings.calibration.source
    if not METHODS[settings.method].calibrates or rule not in BY_LOSS or source == "held-out":
        return ""
    return (
        f"merge.rule={rule} looks for the lowest loss on samples that the local adapter was "
        "trained on, and will choose that adapter; set calibration.source=held-out"
    )


def outweighs(num_examples: Mapping[int, int]) -> str:
    """Say in one line which of three or more clients has more samples than all others together,
    and so decides the average; else nothing.
    """
    total = sum(num_examples.values())
    for client, count in num_examples.items() if len(num_examples) > 2 else ():
        if 2 * count > total:
            return (
                f"client {client} says that it has {count} of all {total} training samples, and so "
                "decides the average; federation.weighting=uniform gives all clients the same "
                "weight"
            )
    return ""


def with_noise(strategy: LoraAveraging, settings: Settings) -> LoraAveraging | PrivateAveraging:
    """Return the strategy that runs the rounds: with the server's noise, where there is some."""
    if isinstance(strategy, ClippedAveraging):
        return PrivateAveraging(strategy, settings.privacy, settings.seed)
    return strategy


def privacy_entry(
    settings: Settings, rounds: Iterable[Mapping[str, Any]], interruptions: int
) -> dict[str, Any]:
    """Return the entry ``privacy`` of ``results.json``, where clients clip; else nothing."""
    if settings.privacy.clipping_norm == 0:
        return {}
    asked = [item["clients"] for item in rounds]
    return {"privacy": spent(settings.privacy, asked, interruptions).to_json()}
