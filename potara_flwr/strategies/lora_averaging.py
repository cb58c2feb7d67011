"""FedIT: federated averaging of LoRA adapters (Zhang et al., 2024, arXiv 2305.05644)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
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
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore import log

from potara_flwr.aggregation import exact_average, weighted_average
from potara_flwr.communication import Ledger
from potara_flwr.errors import RunError
from potara_flwr.seeds import derive_seed
from potara_flwr.strategies.checking import find_fault
from potara_flwr.transport import Arrays, decode, encode


@dataclass(frozen=True)
class Sent:
    """An adapter on its way to a client."""

    record: ArrayRecord
    """As it travels."""
    values: Arrays
    """As the client reads it, float32."""


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
    aggregation : str
        ``factors`` or ``exact`` (:mod:`potara_flwr.aggregation`).
    transport : str
        How adapters travel (:mod:`potara_flwr.transport`).
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
        aggregation: str = "factors",
        transport: str = "float32",
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
        self.aggregation = aggregation
        self.transport = transport
        self.sampled: list[int] = []
        """The clients that train in the current round."""
        self.train_metrics: MetricRecord | None = None
        """The averaged training metrics of the current round."""
        self.evaluate_metrics: MetricRecord | None = None
        """The averaged scores of the current round; None where nobody evaluated."""
        self.updates: dict[int, Arrays] = {}
        """The adapters of the clients that sent a usable one in the current round."""
        self.aggregation_error: float | None = None
        """Relative error of the current round's average, where it is ``exact`` but for its rank."""
        self._residuals: dict[int | None, Arrays] = {}
        self._last: tuple[ArrayRecord, Sent] | None = None
        self._sent: dict[int, Sent] = {}

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

    def average(
        self, updates: Sequence[Arrays], weights: Sequence[float]
    ) -> tuple[Arrays, float | None]:
        """Return the average of adapters, and its relative error where that is measured."""
        if self.aggregation == "exact":
            return exact_average(updates, weights)
        return weighted_average(updates, weights), None

    def sent_to(self, client: int, arrays: ArrayRecord) -> Sent:
        """Return what a client is sent of the server's arrays: here the same for every client."""
        if self._last is None or self._last[0] is not arrays:
            self._last = arrays, self.encode(None, values_of(arrays))
        return self._last[1]

    def encode(self, client: int | None, values: Arrays) -> Sent:
        """Return arrays as they travel to a client, or to all where None."""
        sent, self._residuals[client] = encode(values, self.transport, self._residuals.get(client))
        return self._as_sent(sent)

    def state(self, arrays: ArrayRecord) -> Arrays:
        """Return what is carried from one round to the next besides the server's ``arrays``, by
        names with slashes: what int8 has rounded away, and the arrays as they were sent already.

        Sampling needs nothing: a round's clients are drawn by the seed and the round's number.
        """
        state: Arrays = {}
        for client, residuals in self._residuals.items():
            owner = "all" if client is None else str(client)
            state |= within(f"residuals/{owner}", residuals)
        if self._last is not None and self._last[0] is arrays:
            state |= within("sent", values_of(self._last[1].record))
        return state

    def restore(self, state: Arrays, arrays: ArrayRecord) -> None:
        """Go on from a :meth:`state` that was taken with these ``arrays``."""
        for owner, residuals in members(below("residuals", state)).items():
            self._residuals[None if owner == "all" else int(owner)] = residuals
        if sent := below("sent", state):
            self._last = arrays, self._as_sent(sent)

    def _as_sent(self, encoded: Arrays) -> Sent:
        return Sent(record_of(encoded), decode(encoded, self.transport))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the next round of federated training."""
        nodes = self.sample(server_round, self.fraction_train, "train")
        self.sampled = [self.clients[node] for node in nodes]
        self._sent = {client: self.sent_to(client, arrays) for client in self.sampled}
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
        self.updates = {client: self._update(client, good[client]) for client in good}
        contents = list(good.values())
        weights = [_numbers(content)[self.weighted_by_key] for content in contents]
        averaged, self.aggregation_error = self.average(list(self.updates.values()), weights)
        self.train_metrics = self.train_metrics_aggr_fn(contents, self.weighted_by_key)
        return record_of(averaged), self.train_metrics

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Check the replies and take the plain mean of the scores over the clients."""
        good = list(self._usable(server_round, replies, "evaluate", None).values())
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
        contents: dict[int, RecordDict] = {}
        messages = []
        for node in nodes:
            sent = self.sent_to(self.clients[node], arrays).record
            if id(sent) not in contents:
                contents[id(sent)] = RecordDict(
                    {self.arrayrecord_key: sent, self.configrecord_key: config}
                )
            content = contents[id(sent)]
            messages.append(Message(content, node, message_type, group_id=str(server_round)))
        return messages

    def _update(self, client: int, content: RecordDict) -> Arrays:
        """Return the adapter in a reply without fault."""
        update = decode(values_of(content.array_records["arrays"]), self.transport)
        if self.transport == "int8":  # the change to what the client was sent
            sent = self._sent[client].values
            return {name: sent[name] + array for name, array in update.items()}
        return update

    def _usable(
        self,
        server_round: int,
        replies: Iterable[Message],
        kind: str,
        sent: Mapping[int, Sent] | None,
    ) -> dict[int, RecordDict]:
        """Return the contents without a fault, sorted by client; refuse the others by name."""
        good = {}
        for reply in replies:
            client = self.clients[reply.metadata.src_node_id]
            if reply.has_error():
                fault: str | None = reply.error.reason or f"error {reply.error.code}"
            else:
                fault = find_fault(reply.content, sent[client].record if sent else None)
            if fault is None:
                good[client] = reply.content
            else:
                self.ledger.refuse(client, server_round, kind, fault)
        return {client: good[client] for client in sorted(good)}


def within(group: str, arrays: Arrays) -> Arrays:
    """Return arrays under names that begin with ``group/``."""
    return {f"{group}/{name}": array for name, array in arrays.items()}


def below(group: str, arrays: Arrays) -> Arrays:
    """Return the arrays whose names begin with ``group/``, without that."""
    start = f"{group}/"
    return {name[len(start) :]: at for name, at in arrays.items() if name.startswith(start)}


def members(arrays: Arrays) -> dict[str, Arrays]:
    """Return arrays with names ``member/name`` by member."""
    found: dict[str, Arrays] = {}
    for place, array in arrays.items():
        member, _, name = place.partition("/")
        found.setdefault(member, {})[name] = array
    return found


def record_of(arrays: Mapping[str, np.ndarray]) -> ArrayRecord:
    """Return arrays as Flower sends them."""
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def values_of(record: ArrayRecord) -> Arrays:
    """Return the arrays of a record."""
    return {name: array.numpy() for name, array in record.items()}


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
