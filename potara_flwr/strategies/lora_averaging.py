"""FedIT: federated averaging of LoRA adapters (Zhang et al., 2024, arXiv 2305.05644)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from logging import INFO

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.common import NDArray
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore import log

from potara_flwr.communication import Ledger
from potara_flwr.errors import RunError
from potara_flwr.seeds import derive_seed


class LoraAveraging(FedAvg):
    """Average the A and B factors and the head apart, weighted by the number of training samples.

    Beyond ``FedAvg``: clients are sampled by a seed, every reply is checked before it is averaged,
    and the average is taken in a fixed order, in float64, so that equal runs give equal bits.

    Parameters
    ----------
    clients : dict of int to int
        Node id → client, of every client that takes part.
    seed : int
        Decides which clients take part in each round.
    fraction_train : float
        Share of the clients that train in a round; at least one does.
    fraction_evaluate : float
        Share of the clients that evaluate after a round; 0 is none.
    min_reply_fraction : float
        Share of a round's clients that must send an update that can be used.
    ledger : Ledger
        Where refused replies are written down.
    """

    def __init__(
        self,
        clients: Mapping[int, int],
        *,
        seed: int,
        fraction_train: float,
        fraction_evaluate: float,
        min_reply_fraction: float,
        ledger: Ledger,
    ) -> None:
        super().__init__(
            fraction_train=fraction_train,
            fraction_evaluate=fraction_evaluate,
            min_train_nodes=1,
            min_evaluate_nodes=1,
            min_available_nodes=1,
            evaluate_metrics_aggr_fn=mean_over_clients,
        )
        self.clients = clients
        self.seed = seed
        self.min_reply_fraction = min_reply_fraction
        self.ledger = ledger
        self.sampled: list[int] = []
        """The clients that train in the current round."""
        self.train_metrics: MetricRecord | None = None
        """The averaged training metrics of the current round."""
        self.evaluate_metrics: MetricRecord | None = None
        """The averaged scores of the current round; None where nobody evaluated."""
        self._sent = ArrayRecord()

    def summary(self) -> None:
        """Log the configuration of the strategy."""
        super().summary()
        log(INFO, "\t└──> Replies needed: %.0f %% of a round", 100 * self.min_reply_fraction)

    def sample(self, server_round: int, fraction: float, purpose: str) -> list[int]:
        """Return the node ids of a round's clients, sorted by client."""
        nodes = sorted(self.clients, key=self.clients.__getitem__)
        size = max(round(fraction * len(nodes)), 1)
        rng = np.random.default_rng(derive_seed(self.seed, purpose, server_round))
        return [nodes[index] for index in sorted(rng.permutation(len(nodes))[:size])]

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the next round of federated training."""
        nodes = self.sample(server_round, self.fraction_train, "train")
        self.sampled = [self.clients[node] for node in nodes]
        self._sent = arrays
        return self._messages(server_round, arrays, config, nodes, MessageType.TRAIN)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the next round of federated evaluation."""
        if self.fraction_evaluate == 0.0:
            return []
        nodes = self.sample(server_round, self.fraction_evaluate, "evaluate")
        return self._messages(server_round, arrays, config, nodes, MessageType.EVALUATE)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord]:
        """Check the replies and average the ones that can be used.

        Raises
        ------
        RunError
            Fewer than ``min_reply_fraction`` of the round's clients sent a usable update.
        """
        good = self._usable(server_round, replies, "train", self._sent)
        needed = math.ceil(self.min_reply_fraction * len(self.sampled))
        if len(good) < needed:
            reasons = self.ledger.absent(server_round, "train")
            raise RunError(
                f"round {server_round}: {len(good)} of {len(self.sampled)} clients sent a usable "
                f"update, {needed} are needed ({reasons})"
            )
        updates = [
            {name: array.numpy() for name, array in content.array_records["arrays"].items()}
            for content in good
        ]
        weights = [_numbers(content)[self.weighted_by_key] for content in good]
        averaged = weighted_average(updates, weights)
        self.train_metrics = self.train_metrics_aggr_fn(good, self.weighted_by_key)
        arrays = ArrayRecord({name: Array(array) for name, array in averaged.items()})
        return arrays, self.train_metrics

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Check the replies and take the plain mean of the scores over the clients."""
        good = self._usable(server_round, replies, "evaluate", None)
        self.evaluate_metrics = (
            self.evaluate_metrics_aggr_fn(good, self.weighted_by_key) if good else None
        )
        return self.evaluate_metrics

    def _messages(
        self,
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        nodes: list[int],
        message_type: str,
    ) -> list[Message]:
        config["server-round"] = server_round
        content = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        return [Message(content, node, message_type, group_id=str(server_round)) for node in nodes]

    def _usable(
        self,
        server_round: int,
        replies: Iterable[Message],
        kind: str,
        sent: ArrayRecord | None,
    ) -> list[RecordDict]:
        """Return, by client, the contents without a fault; refuse the others by name."""
        good = {}
        for reply in replies:
            client = self.clients[reply.metadata.src_node_id]
            if reply.has_error():
                fault: str | None = reply.error.reason or f"error {reply.error.code}"
            else:
                fault = find_fault(reply.content, sent)
            if fault is None:
                good[client] = reply.content
            else:
                self.ledger.refuse(client, server_round, kind, fault)
        return [good[client] for client in sorted(good)]


def find_fault(content: RecordDict, sent: ArrayRecord | None) -> str | None:
    """Say what is wrong with a reply, or None.

    A good reply has one metric record ``metrics`` of finite numbers with a whole, positive
    ``num-examples``, and, where ``sent`` is given, one array record ``arrays`` with the keys,
    shapes and dtypes of ``sent`` and finite values only; and nothing else.
    """
    expected = {"metrics"} | ({"arrays"} if sent is not None else set())
    if set(content) != expected:
        return f"has the records {sorted(content)}, not {sorted(expected)}"
    metrics = content["metrics"]
    if not isinstance(metrics, MetricRecord):
        return "its record 'metrics' holds no metrics"
    num_examples = metrics.get("num-examples")
    if not isinstance(num_examples, int) or num_examples < 1:
        return f"num-examples is {num_examples!r}, not a whole number above 0"
    for name, value in metrics.items():
        if isinstance(value, list) or not math.isfinite(value):
            return f"the metric {name!r} is {value!r}, not a finite number"
    if sent is None:
        return None
    arrays = content["arrays"]
    if not isinstance(arrays, ArrayRecord):
        return "its record 'arrays' holds no arrays"
    if difference := set(arrays) ^ set(sent):
        return f"the arrays {sorted(difference)} are missing or not asked for"
    for name, expected_array in sent.items():
        try:
            array = arrays[name].numpy()
        except (ValueError, TypeError, OSError, EOFError) as error:
            return f"the array {name!r} cannot be read: {error}"
        wanted = (tuple(expected_array.shape), expected_array.dtype)
        if (array.shape, str(array.dtype)) != wanted:
            return f"the array {name!r} is {array.dtype} {array.shape}, not {wanted[1]} {wanted[0]}"
        if not np.isfinite(array).all():
            return f"the array {name!r} has values that are not finite"
    return None


def mean_over_clients(contents: list[RecordDict], weighted_by_key: str) -> MetricRecord:
    """Return the plain mean of every score over the clients, each client counting the same: a
    client is a person, not its number of samples (the paper's mean accuracy).
    """
    records = [_numbers(content) for content in contents]
    names = [name for name in records[0] if name != weighted_by_key]
    return MetricRecord(
        {name: sum(record[name] for record in records) / len(records) for name in names}
    )


def _numbers(content: RecordDict) -> dict[str, float]:
    """Return the metrics of a reply without fault, which are single numbers."""
    metrics = content.metric_records["metrics"]
    return {name: float(value) for name, value in metrics.items() if not isinstance(value, list)}


def weighted_average(
    updates: Sequence[Mapping[str, NDArray]], weights: Sequence[float]
) -> dict[str, NDArray]:
    """Return Σ w_k u_k / Σ w_k, array by array, summed in the given order in float64.

    The result has the dtype of the first update (McMahan et al., 2017, arXiv 1602.05629, eq. of
    FederatedAveraging).
    """
    total = float(sum(weights))
    return {
        name: sum(
            (weight / total) * update[name].astype(np.float64)
            for update, weight in zip(updates, weights, strict=True)
        ).astype(first.dtype)  # type: ignore[union-attr]
        for name, first in updates[0].items()
    }
