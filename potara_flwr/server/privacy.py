"""How much differential privacy a run gives: exact ε and δ of Gaussian noise in several rounds.

A round adds Gaussian noise to a sum in which a client's part has at most the norm 1 (in clipping
norms). Several such rounds, each with its own noise σ, tell of a client as much as one with
1/σ² = Σ 1/σ_t² does (Gaussian differential privacy with μ = 1/σ and its composition: Dong, Roth
and Su, arXiv 1905.02383, sections 2.3 and 3.2), and one has exactly

    δ(ε) = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ)

(Balle and Wang, arXiv 1805.06530, Theorem 8). That needs no Rényi orders and is tight. It takes no
account of sampling clients: who takes part in a round follows from the seed, which is no secret.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from potara_flwr.settings.groups import PrivacySettings

TOLERANCE = 1e-9
"""Relative error of ε, on the upper side."""


def delta_of(epsilon: float, noise_multiplier: float, releases: int) -> float:
    """Return the δ that goes with an ε after ``releases`` rounds of Gaussian noise."""
    mu = math.sqrt(releases) / noise_multiplier
    near = (epsilon / mu - mu / 2) / math.sqrt(2)
    far = (epsilon / mu + mu / 2) / math.sqrt(2)
    # e^ε erfc(far) = e^(−near²) erfcx(far), where nothing overflows.
    return 0.5 * (math.erfc(near) - math.exp(-near * near) * scaled_erfc(far))


def scaled_erfc(x: float) -> float:
    """Return e^(x²) erfc(x) for x ≥ 0 (Abramowitz and Stegun, 7.1.23 for large x)."""
    if x < 20:
        return math.exp(x * x) * math.erfc(x)
    square = 2 * x * x
    return (1 - 1 / square + 3 / square**2 - 15 / square**3) / (x * math.sqrt(math.pi))


def epsilon_of(noise_multiplier: float, releases: int, delta: float) -> float:
    """Return the least ε for a δ after rounds of Gaussian noise; infinite without noise.

    Parameters
    ----------
    noise_multiplier : float
        Standard deviation of the noise on the sum, in clipping norms.
    releases : int
        Rounds that a client takes part in.
    """
    if releases == 0:
        return 0.0
    if noise_multiplier == 0:
        return math.inf
    if delta_of(0.0, noise_multiplier, releases) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while delta_of(high, noise_multiplier, releases) > delta:
        low, high = high, 2 * high
    while high - low > TOLERANCE * high:
        middle = (low + high) / 2
        if delta_of(middle, noise_multiplier, releases) > delta:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True)
class Spent:
    """What a run has told of any one client, at most."""

    clipping_norm: float
    noise_multiplier: float
    noise: str
    """``secret`` or ``seeded``; with seeded noise ε is what secret noise would have given."""
    releases: int
    """Averages that a client had a part in, at most."""
    delta: float
    epsilon: float | None
    """None: no noise, no bound."""

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``results.json``."""
        return asdict(self)


def spent(privacy: PrivacySettings, rounds: Iterable[list[int]], interruptions: int = 0) -> Spent:
    """Return the privacy spent in rounds, given by the clients that were asked in each.

    A client that was asked counts, whether or not its reply was used; one that was not asked has no
    part in the round's sum. The seed decides who is asked, not the data. A run that was interrupted
    and went on may have sent the average of a round, and then another with new noise: each of the
    ``interruptions`` counts as one more round of everybody.
    """
    asked = Counter(client for clients in rounds for client in clients)
    releases = max(asked.values(), default=0) + interruptions
    epsilon = epsilon_of(privacy.noise_multiplier, releases, privacy.delta)
    return Spent(
        clipping_norm=privacy.clipping_norm,
        noise_multiplier=privacy.noise_multiplier,
        noise=privacy.noise,
        releases=releases,
        delta=privacy.delta,
        epsilon=epsilon if math.isfinite(epsilon) else None,
    )
