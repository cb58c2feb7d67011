"""Differential privacy of each client's contribution: clipped changes, and noise on their mean."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping

from potara_flwr.core.arrays import Arrays
from potara_flwr.core.seeds import derive_seed
from potara_flwr.settings.groups import PrivacySettings
from potara_flwr.strategies.averages import mean_of_clipped
from potara_flwr.strategies.lora_averaging import LoraAveraging
from potara_flwr.strategies.updates import RoundUpdates

ROUNDING = 1e-3
"""By how much, relatively, an honest client's norm may exceed the clipping norm: it clips and sends
in float32. The rest is clipped here."""


class ClippedAveraging(LoraAveraging):
    """Average the clients' changes so that none of them moves the average by more than the clipping
    norm over the number of clients that were asked.

    Every client has the same weight, one that does not answer has changed nothing, and an update
    that was not clipped is refused. No reply decides whether another is used.
    """

    def __init__(self, *args: Any, clipping_norm: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.clipping_norm = clipping_norm

    def norm_limit(self, norms: Mapping[int, float]) -> tuple[float, str]:
        """Return the clipping norm, whatever the others have sent."""
        return self.clipping_norm * (1 + ROUNDING), "it was not clipped"

    def combine(
        self, updates: RoundUpdates, weights: Sequence[float]
    ) -> tuple[Arrays, float | None]:
        """Return what was sent plus the mean of the clipped changes to it."""
        start = next(iter(self._sent.values())).values
        size = len(self._sent)
        return mean_of_clipped(start, list(updates.values()), self.clipping_norm, size), None


class PrivateAveraging(DifferentialPrivacyClientSideFixedClipping):
    """Flower's wrapper around a strategy: has clients clip, and adds noise to the average.

    Flower's own skips a round in which one reply is an error. This one leaves it to the strategy to
    refuse replies, whose average has the same sensitivity however many there are.

    Parameters
    ----------
    strategy : ClippedAveraging
        Averages; its clients all take part in a round or not by a seed.
    privacy : PrivacySettings
        Clipping norm and noise.
    seed : int
        Of noise that is ``seeded``.
    """

    strategy: ClippedAveraging

    def __init__(self, strategy: ClippedAveraging, privacy: PrivacySettings, seed: int) -> None:
        super().__init__(
            strategy,
            noise_multiplier=privacy.noise_multiplier,
            clipping_norm=privacy.clipping_norm,
            num_sampled_clients=strategy.sample_size(strategy.fraction_train),
        )
        self.seed = seed if privacy.noise == "seeded" else None

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord]:
        """Average the replies that can be used, and add the noise."""
        averaged, metrics = self.strategy.aggregate_train(server_round, replies)
        with global_numpy_seed(self.seed, "privacy noise", server_round):
            return self._add_noise_to_aggregated_arrays(averaged), metrics


@contextmanager
def global_numpy_seed(seed: int | None, *purpose: str | int) -> Iterator[None]:
    """Seed NumPy's global generator, from which Flower draws its noise, and put it back after.

    Where ``seed`` is None it is seeded by 256 bits of the operating system's, which nobody keeps.
    """
    before = np.random.get_state()
    bits = secrets.randbits(256) if seed is None else derive_seed(seed, *purpose)
    words = [(bits >> shift) & 0xFFFFFFFF for shift in range(0, 256, 32)]
    np.random.seed(words)
    try:
        yield
    finally:
        np.random.set_state(before)
