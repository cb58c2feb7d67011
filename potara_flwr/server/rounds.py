"""The federated rounds: Flower's strategy, from any round on.

``Strategy.start`` of Flower 1.41 counts from 1. This is its loop with a first round, so that a run
that was interrupted goes on with the numbers that it would have had.
"""

from __future__ import annotations

from collections.abc import Callable
from logging import INFO

from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore import log


def run_rounds(
    strategy: Strategy,
    grid: Grid,
    arrays: ArrayRecord,
    *,
    done: int,
    total: int,
    timeout: float,
    run_key: str,
    after_round: Callable[[int, ArrayRecord], None],
) -> ArrayRecord:
    """Run the rounds ``done`` + 1 … ``total``; return the server's arrays after the last one.

    Parameters
    ----------
    arrays : ArrayRecord
        The server's arrays after round ``done``.
    timeout : float
        Seconds to wait for the replies of a round.
    run_key : str
        Goes out with every message, next to the round.
    after_round : function
        Is called after each round with its number and the server's arrays.
    """
    strategy.summary()
    for server_round in range(done + 1, total + 1):
        log(INFO, "[ROUND %d/%d]", server_round, total)
        config = ConfigRecord({"run-key": run_key})
        messages = strategy.configure_train(server_round, arrays, config, grid)
        replies = grid.send_and_receive(messages, timeout=timeout)
        averaged, _ = strategy.aggregate_train(server_round, replies)
        arrays = arrays if averaged is None else averaged
        config = ConfigRecord({"run-key": run_key})
        messages = strategy.configure_evaluate(server_round, arrays, config, grid)
        replies = grid.send_and_receive(messages, timeout=timeout)
        strategy.aggregate_evaluate(server_round, replies)
        after_round(server_round, arrays)
    return arrays
