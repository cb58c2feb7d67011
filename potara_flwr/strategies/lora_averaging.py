"""FedIT: federated averaging of LoRA adapters (Zhang et al., 2024, arXiv 2305.05644)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from logging import INFO

import numpy as np
from flwr.app import (
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
from numpy.typing import NDArray

from potara_flwr.core.arrays import Arrays, below, members, within
from potara_flwr.core.errors import RunError
from potara_flwr.core.seeds import derive_seed
from potara_flwr.messages.checking import ReplySpec, find_fault
from potara_flwr.messages.ledger import Ledger
from potara_flwr.messages.transport import decode, encode, record_of, values_of
from potara_flwr.models.adapter import components
from potara_flwr.settings.groups import FederationSettings
from potara_flwr.strategies.averages import (
    average_components,
    exact_average,
    norm_limit,
    norm_of_change,
)
from potara_flwr.strategies.updates import RoundUpdates

SCORES = {"train": ("loss", "seconds"), "evaluate": ("loss", "accuracy")}
"""What a client reports of itself in a round, besides its number of samples and the round."""


@dataclass(frozen=True)
class EncodedAdapter:
    """An adapter on its way to a client."""

    record: ArrayRecord
    """As it travels."""
    values: Arrays
    """As the client reads it, float32."""


def round_size(fraction: float, clients: int) -> int:
    """Return how many of the clients a round has, when it has a fraction of them."""
    return max(round(fraction * clients), 1)


class LoraAveraging(FedAvg):
    """Average the A and B factors and the head apart, by default weighted by the number of training
    samples.

    Beyond ``FedAvg``: clients are sampled by a seed, every reply is checked before it is averaged,
    and the average is taken in a fixed order, in float64, so that equal runs give equal bits.

    Parameters
    ----------
    federation : FederationSettings
        Who takes part in a round, how adapters travel and are averaged, which are refused.
    ledger : Ledger
        Names the clients that take part; refused replies are written down there.
    seed : int
        Decides which clients take part in each round.
    num_examples : mapping, optional
        ``train`` and ``evaluate`` → client → the samples that it has told of, which all its replies
        must be about.
    ranks : mapping, optional
        Client → the rank of its adapter, where it may be below that of the federated one.
    """

    def __init__(
        self,
        federation: FederationSettings,
        ledger: Ledger,
        *,
        seed: int,
        num_examples: Mapping[str, Mapping[int, int]] | None = None,
        ranks: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__(
            fraction_train=federation.fraction_train,
            fraction_evaluate=federation.fraction_evaluate,
            min_train_nodes=1,
            min_evaluate_nodes=1,
            min_available_nodes=1,
            evaluate_metrics_aggr_fn=mean_over_clients,
        )
        self.federation = federation
        self.ledger = ledger
        self.clients = ledger.clients
        self.seed = seed
        self.num_examples = num_examples or {}
        self.ranks = ranks or {}
        self._sent: dict[int, EncodedAdapter] = {}
        """Client → what it was sent, of those that train in the round that goes on."""
        self._residuals: dict[int | None, Arrays] = {}
        self._last: tuple[ArrayRecord, EncodedAdapter] | None = None
        self._parts: dict[int | None, EncodedAdapter] = {}
        """Rank → what its clients are sent of the last."""

    def summary(self) -> None:
        """Log the configuration of the strategy."""
        super().summary()
        needed = 100 * self.federation.min_reply_fraction
        log(INFO, "\t└──> Replies needed: %.0f %% of a round", needed)

    def sample_size(self, fraction: float) -> int:
        """Return how many clients a round has."""
        return round_size(fraction, len(self.clients))

    def sample(self, server_round: int, fraction: float, purpose: str) -> list[int]:
        """Return the node ids of a round's clients, sorted by client."""
        nodes = sorted(self.clients, key=self.clients.__getitem__)
        size = self.sample_size(fraction)
        rng = np.random.default_rng(derive_seed(self.seed, purpose, server_round))
        return [nodes[index] for index in sorted(rng.permutation(len(nodes))[:size])]

    def average(
        self, updates: Sequence[Mapping[str, NDArray]], weights: Sequence[float]
    ) -> tuple[Arrays, float | None]:
        """Return the average of adapters, and its relative error where that is measured."""
        if self.federation.aggregation == "exact":
            return exact_average(updates, weights, self.before)
        return average_components(updates, weights, self.before), None

    @property
    def before(self) -> Arrays:
        """The federated adapter before the round's average, in full, as clients read it."""
        assert self._last is not None
        return self._last[1].values

    def encoded(self, arrays: ArrayRecord) -> EncodedAdapter:
        """Return the server's arrays as they travel, in full."""
        if self._last is None or self._last[0] is not arrays:
            self._last = arrays, self.encode(None, values_of(arrays))
            self._parts.clear()
        return self._last[1]

    def sent_to(self, client: int, arrays: ArrayRecord) -> EncodedAdapter:
        """Return what a client is sent of the server's arrays: here the same for every client of
        its rank.
        """
        whole, rank = self.encoded(arrays), self.ranks.get(client)
        if rank not in self._parts:
            self._parts[rank] = self.part(client, whole)
        return self._parts[rank]

    def part(self, client: int, whole: EncodedAdapter) -> EncodedAdapter:
        """Return the part of an adapter that a client trains: as many of its first components as
        the client's rank (HetLoRA: arXiv 2401.06432), or all.
        """
        if (rank := self.ranks.get(client)) is None:
            return whole
        cut = {name: at[components(name, 0, rank)] for name, at in values_of(whole.record).items()}
        return self._as_sent(cut)

    def encode(self, client: int | None, values: Arrays) -> EncodedAdapter:
        """Return arrays as they travel to a client, or to all where None."""
        residuals = self._residuals.get(client)
        sent, self._residuals[client] = encode(values, self.federation.transport, residuals)
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

    def _as_sent(self, encoded: Arrays) -> EncodedAdapter:
        return EncodedAdapter(record_of(encoded), decode(encoded, self.federation.transport))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the next round of federated training."""
        nodes = self.sample(server_round, self.fraction_train, "train")
        self._sent = {
            self.clients[node]: self.sent_to(self.clients[node], arrays) for node in nodes
        }
        config["server-round"] = server_round
        return self._messages(arrays, config, nodes, MessageType.TRAIN, str(server_round))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure the next round of federated evaluation."""
        if self.fraction_evaluate == 0.0:
            return []
        nodes = self.sample(server_round, self.fraction_evaluate, "evaluate")
        config["server-round"] = server_round
        return self._messages(arrays, config, nodes, MessageType.EVALUATE, str(server_round))

    def configure_personalize(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, nodes: Iterable[int]
    ) -> Iterable[Message]:
        """Configure what comes after the last round, of these nodes."""
        config["server-round"] = server_round
        return self._messages(arrays, config, nodes, "query.personalize")

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord, MetricRecord]:
        """Check the replies and average the ones that can be used.

        Returns
        -------
        tuple
            The average, and the round's metrics: the clients' averaged ``loss`` and ``seconds``,
            the ``clients`` that were asked and the ``training-seconds`` of each (−1 where its
            update is not used), ``norm-ratio``, the largest norm of an update over
            their median, before any limit, and ``aggregation-error``, the average's relative error
            where it is ``exact`` but for its rank.

        Raises
        ------
        RunError
            Fewer than ``min_reply_fraction`` of the round's clients sent a usable update.
        """
        with RoundUpdates() as updates:
            numbers = self._take(server_round, replies, updates)
            norm_ratio = self._drop_far(server_round, updates)
            self._check_enough(server_round, updates)
            contents = [numbers[client] for client in updates]
            weights = [1.0] * len(contents)
            if self.federation.weighting == "examples":
                weights = [_numbers(content)[self.weighted_by_key] for content in contents]
            averaged, error = self.combine(updates, weights)
            metrics = self.train_metrics_aggr_fn(contents, self.weighted_by_key)
            metrics["clients"] = list(self._sent)
            metrics["training-seconds"] = [
                float(_numbers(numbers[client])["seconds"]) if client in updates else -1.0
                for client in self._sent
            ]
        for name, value in (("norm-ratio", norm_ratio), ("aggregation-error", error)):
            if value is not None:
                metrics[name] = value
        return record_of(averaged), metrics

    def _check_enough(self, server_round: int, updates: Collection[int]) -> None:
        needed = math.ceil(self.federation.min_reply_fraction * len(self._sent))
        if len(updates) < needed:
            reasons = self.ledger.absent(server_round, "train")
            raise RunError(
                f"round {server_round}: {len(updates)} of {len(self._sent)} clients sent a "
                f"usable update, {needed} are needed ({reasons})"
            )

    def combine(
        self, updates: RoundUpdates, weights: Sequence[float]
    ) -> tuple[Arrays, float | None]:
        """Return the average of the round's updates (client → adapter), and its relative error
        where that is measured.
        """
        return self.average(list(updates.values()), weights)

    def norm_limit(self, norms: Mapping[int, float]) -> tuple[float, str]:
        """Return the largest norm that a client's update may have, and where that comes from."""
        ratio = self.federation.max_norm_ratio
        limit = norm_limit(norms.values(), ratio)
        return limit, f"{ratio:g} times the median of the round's updates"

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Check the replies and take the plain mean of the scores over the clients."""
        found = sorted(self._usable(server_round, replies, "evaluate"), key=lambda pair: pair[0])
        good = [content for _, content in found]
        return self.evaluate_metrics_aggr_fn(good, self.weighted_by_key) if good else None

    def _messages(
        self,
        arrays: ArrayRecord,
        config: ConfigRecord,
        nodes: Iterable[int],
        message_type: str,
        group_id: str | None = None,
    ) -> list[Message]:
        """Return messages to nodes; those that are sent the same have one content."""
        sent = {node: self.sent_to(self.clients[node], arrays).record for node in nodes}
        contents = {
            id(record): RecordDict({self.arrayrecord_key: record, self.configrecord_key: config})
            for record in sent.values()
        }
        return [
            Message(contents[id(record)], node, message_type, group_id=group_id)
            for node, record in sent.items()
        ]

    def _take(
        self, server_round: int, replies: Iterable[Message], updates: RoundUpdates
    ) -> dict[int, RecordDict]:
        """Put the adapters of the replies without fault into ``updates``, each as it arrives;
        return client → the rest of its reply.
        """
        numbers = {}
        for client, content in self._usable(server_round, replies, "train"):
            update = self._update(client, content)
            updates.add(client, update, norm_of_change(self._sent[client].values, update))
            numbers[client] = RecordDict({"metrics": content.metric_records["metrics"]})
        return numbers

    def _drop_far(self, server_round: int, updates: RoundUpdates) -> float | None:
        """Refuse the updates that lie too far from what the client was sent; return the largest
        norm of all over their median.
        """
        norms = updates.norms
        finite = {client: norm for client, norm in norms.items() if math.isfinite(norm)}
        limit, origin = self.norm_limit(finite)
        for client, norm in norms.items():
            if client not in finite:
                fault = "its update is not finite once it is decoded"
            elif norm > limit:
                fault = f"its update has the norm {norm:.3g}, above {limit:.3g}: {origin}"
            else:
                continue
            self.ledger.refuse(client, server_round, "train", fault)
            updates.drop(client)
        return _ratio_to_median(finite.values())

    def _update(self, client: int, content: RecordDict) -> Arrays:
        """Return the adapter in a reply without fault; an int8 one may overflow."""
        with np.errstate(over="ignore", invalid="ignore"):
            transport = self.federation.transport
            update = decode(values_of(content.array_records["arrays"]), transport)
            if transport == "int8":  # the change to what the client was sent
                sent = self._sent[client].values
                return {name: sent[name] + array for name, array in update.items()}
        return update

    def _usable(
        self, server_round: int, replies: Iterable[Message], kind: str
    ) -> Iterator[tuple[int, RecordDict]]:
        """Yield the clients and contents of replies without a fault, as they arrive; refuse the
        others by name.
        """
        good: set[int] = set()
        told = self.num_examples.get(kind, {})
        for reply in replies:
            node = reply.metadata.src_node_id
            client = self.clients.get(node)
            if client is None or (kind == "train" and client not in self._sent):
                self.ledger.refuse(client, server_round, kind, f"node {node} was not asked")
                continue
            asked = ReplySpec(
                server_round=server_round,
                scores=SCORES[kind],
                arrays=self._sent[client].record if kind == "train" else None,
                num_examples=told.get(client),
            )
            if reply.has_error():
                fault: str | None = reply.error.reason or f"error {reply.error.code}"
            elif client in good:
                fault = "has replied twice"
            else:
                fault = find_fault(reply.content, asked)
            if fault is None:
                good.add(client)
                yield client, reply.content
            else:
                self.ledger.refuse(client, server_round, kind, fault)


def _ratio_to_median(norms: Collection[float]) -> float | None:
    median = float(np.median(list(norms))) if norms else 0.0
    return max(norms) / median if median else None


def mean_over_clients(contents: list[RecordDict], weighted_by_key: str) -> MetricRecord:
    """Return the plain mean of every score over the clients, each client counting the same: a
    client is a person, not its number of samples (the paper's mean accuracy).
    """
    records = [_numbers(content) for content in contents]
    names = [name for name in records[0] if name not in (weighted_by_key, "server-round")]
    return MetricRecord(
        {name: sum(record[name] for record in records) / len(records) for name in names}
    )


def _numbers(content: RecordDict) -> dict[str, float]:
    """Return the metrics of a reply without fault, which are single numbers."""
    metrics = content.metric_records["metrics"]
    return {name: float(value) for name, value in metrics.items() if not isinstance(value, list)}
