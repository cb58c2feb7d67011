"""The local adapter of a method that merges. Where calibration samples are held out, it is trained
in two parts, before and after the weight is chosen.
"""

from __future__ import annotations

from potara_flwr.methods.client import Client
from potara_flwr.models.adapter import Adapter
from potara_flwr.settings.schema import Settings


def train_local(client: Client, federated: Adapter, later: int = 0) -> tuple[Adapter, float]:
    """Train the local adapter on the client's own samples, sending nothing, by all of the local
    steps but those that :func:`refit` takes later. Also return the seconds.

    It starts from the initial adapter (``cold``, the paper) or the federated one (``warm``).
    """
    settings = client.settings.local
    start = client.model.initial if settings.start == "cold" else federated
    return client.train_alone(start, settings.steps - later, total=settings.steps)


def refit(client: Client, local: Adapter, steps: int) -> tuple[Adapter, float]:
    """Take the rest of the local steps, now that the calibration samples have done their work, on
    training and calibration samples together. Also return the seconds.
    """
    if steps == 0:
        return local, 0.0
    total = client.settings.local.steps
    return client.train_alone(
        local,
        steps,
        purpose="refit",
        samples=client.data.train_and_calibration,
        done=total - steps,
        total=total,
    )


def refit_steps(settings: Settings) -> int:
    """Return how many of the local steps are taken after the weight is chosen."""
    held_out = settings.calibration.source == "held-out"
    return round(settings.local.refit_share * settings.local.steps) if held_out else 0
