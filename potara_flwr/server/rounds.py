"""The federated rounds: Flower's strategy, from any round on.

``Strategy.start`` of Flower 1.41 counts from 1. This is its loop with a first round, so that a run
that was interrupted goes on with the numbers that it would have had.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from logging import INFO
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.supercore import log

from potara_flwr.messages.grid import MeteredGrid
from potara_flwr.strategies.lora_averaging import LoraAveraging
from potara_flwr.strategies.private import PrivateAveraging


@dataclass(frozen=True)
class RoundResult:
    """What came of a round."""

    round: int
    arrays: ArrayRecord
    """The server's, after the round."""
    clients: list[int]
    """Those that were asked to train."""
    client_seconds: list[float | None]
    """Of each one's optimizer steps; None where its update is not used."""
    training_loss: float
    training_seconds: float
    """Of a client's optimizer steps, the mean."""
    norm_ratio: float | None
    """The largest norm of an update over their median, before any limit."""
    aggregation_error: float | None
    """Relative, of an average that is ``exact`` but for its rank."""
    loss: float | None
    """Mean over the clients that evaluated, if any did; so is ``accuracy``."""
    accuracy: float | None

    @classmethod
    def of(
        cls,
        server_round: int,
        arrays: ArrayRecord,
        trained: MetricRecord,
        evaluated: MetricRecord | None,
    ) -> RoundResult:
        """Return what a strategy has returned of a round, as numbers."""
        train: Mapping[str, Any] = trained
        scores: Mapping[str, Any] = evaluated or {}
        return cls(
            round=server_round,
            arrays=arrays,
            clients=train["clients"],
            client_seconds=[at if at >= 0 else None for at in train["training-seconds"]],
            training_loss=train["loss"],
            training_seconds=train["seconds"],
            norm_ratio=train.get("norm-ratio"),
            aggregation_error=train.get("aggregation-error"),
            loss=scores.get("loss"),
            accuracy=scores.get("accuracy"),
        )


def run_rounds(
    strategy: LoraAveraging | PrivateAveraging,
    grid: MeteredGrid,
    arrays: ArrayRecord,
    *,
    done: int,
    total: int,
    timeout: float,
    told: Mapping[str, str],
) -> Iterator[RoundResult]:
    """Run the rounds ``done`` + 1 … ``total``; yield the result of each once it has ended.

    Parameters
    ----------
    arrays : ArrayRecord
        The server's arrays after round ``done``.
    timeout : float
        Seconds to wait for the replies of a round.
    told : mapping
        What goes out with every message, next to the round.
    """
    strategy.summary()
    for server_round in range(done + 1, total + 1):
        log(INFO, "[ROUND %d/%d]", server_round, total)
        config = ConfigRecord(dict(told))
        messages = strategy.configure_train(server_round, arrays, config, grid)
        replies = grid.replies(messages, timeout=timeout)
        arrays, trained = strategy.aggregate_train(server_round, replies)
        config = ConfigRecord(dict(told))
        messages = strategy.configure_evaluate(server_round, arrays, config, grid)
        replies = grid.replies(messages, timeout=timeout)
        evaluated = strategy.aggregate_evaluate(server_round, replies)
        yield RoundResult.of(server_round, arrays, trained, evaluated)
