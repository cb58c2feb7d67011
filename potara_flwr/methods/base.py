"""What a method is: which tensors are sent, and what a client does with them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from potara_flwr.adapted import AdapterRunner
from potara_flwr.adapters import Adapter, Kind, LoraModel, kind_of
from potara_flwr.config import Settings
from potara_flwr.personalization import Personalization
from potara_flwr.seeds import derive_seed
from potara_flwr.strategies import LoraAveraging
from potara_flwr.strategies.lora_averaging import round_size
from potara_flwr.tasks.base import ClientData, Samples, Task
from potara_flwr.training import Once, Proximal, Score, each_time, evaluate, train


@dataclass
class Client:
    """One client as a method sees it: model, samples, and what it keeps between the rounds."""

    model: LoraModel
    task: Task
    data: ClientData
    settings: Settings
    samples: Samples
    """What it trains on."""
    kept: dict[str, Adapter] = field(default_factory=dict)
    """What stays on the client from one message to the next, and is never sent."""
    steps: int = 0
    """Optimizer steps so far."""
    seconds: float = 0.0
    """Wall-clock time of these steps."""
    once: Once = each_time
    """Does a training after the rounds, or remembers what it gave when it was done before."""

    def train(
        self,
        start: Adapter,
        *,
        steps: int,
        purpose: tuple[str | int, ...],
        when: str,
        model: AdapterRunner | None = None,
        frozen: Collection[str] = (),
        proximal: Proximal | None = None,
    ) -> tuple[Adapter, float]:
        """Take optimizer steps from ``start`` on the client's samples, and count them.

        Parameters
        ----------
        purpose : tuple
            Names the seed of the sample order and dropout.
        when : str
            For the error message, e.g. ``round 2``.
        model : AdapterRunner, optional
            Runs the tensors that are trained; by default the base model with one adapter.
        frozen, proximal
            As in :func:`potara_flwr.training.train`.

        Returns
        -------
        tuple of Adapter and float
            The trained tensors, and the mean loss over the steps.
        """
        began = time.perf_counter()
        trained = self._train(start, steps, purpose, when, model, frozen, proximal)
        self.count(steps, time.perf_counter() - began)
        return trained

    def _train(
        self,
        start: Adapter,
        steps: int,
        purpose: tuple[str | int, ...],
        when: str,
        model: AdapterRunner | None,
        frozen: Collection[str] = (),
        proximal: Proximal | None = None,
    ) -> tuple[Adapter, float]:
        return train(
            model or self.model,
            self.task,
            start,
            self.samples,
            self.settings.train,
            steps=steps,
            seed=derive_seed(self.settings.seed, *purpose, self.data.client),
            who=f"client {self.data.client}, {when}",
            frozen=frozen,
            proximal=proximal,
        )

    def train_in_round(
        self,
        start: Adapter,
        server_round: int,
        *,
        stream: str = "round",
        model: AdapterRunner | None = None,
        frozen: Collection[str] = (),
        proximal: Proximal | None = None,
    ) -> tuple[Adapter, float]:
        """Take the local steps of one federated round; ``stream`` names the order of samples."""
        return self.train(
            start,
            steps=self.settings.train.local_steps,
            purpose=(stream, server_round),
            when=f"round {server_round}",
            model=model,
            frozen=frozen,
            proximal=proximal,
        )

    def train_alone(
        self, start: Adapter, steps: int, model: AdapterRunner | None = None
    ) -> tuple[Adapter, float]:
        """Take optimizer steps after the rounds, sending nothing, if they were not taken before.

        Returns
        -------
        tuple of Adapter and float
            The trained tensors, and the seconds that the steps took.
        """
        name = "local training"
        trained, seconds = self.once(
            name, start, lambda: self._train(start, steps, (name,), name, model)[0]
        )
        self.count(steps, seconds)
        return trained, seconds

    def count(self, steps: int, seconds: float) -> None:
        """Add optimizer steps and the seconds they took."""
        self.steps += steps
        self.seconds += seconds

    def score(self, adapter: Adapter, model: AdapterRunner | None = None) -> Score:
        """Return the score of an adapter on this client's test samples."""
        size = self.settings.train.evaluation_batch_size
        return evaluate(model or self.model, self.task, adapter, self.data.test, size)


@dataclass(frozen=True)
class Update:
    """A client's answer in a round: an adapter, of which the shared tensors are sent."""

    adapter: Adapter
    loss: float
    """Mean training loss over the local steps."""


@dataclass(frozen=True)
class Outcome:
    """What a client ends with, and what is reported of it."""

    scores: dict[str, Score]
    """On test data: ``initial``, ``personalized``, and the method's other adapters."""
    adapters: dict[str, Adapter]
    """What is saved, by folder below the client's; ``""`` is the personalized adapter."""
    tensors: dict[str, Mapping[str, Tensor]] = field(default_factory=dict)
    """What is saved next to them and is no adapter, by file name."""
    weight: float | None = None
    """Mean weight on the federated adapter, where the method has one."""
    merge: Personalization | None = None
    """Potara's traces, weights and diagnosis."""
    seconds_local_training: float | None = None
    """Of training after the rounds, where there is some."""
    seconds_weight: float | None = None
    """Of finding the weight and merging, where there is one."""


def plain_round(client: Client, received: Adapter, server_round: int) -> Update:
    """Train every tensor of what was received (federated averaging)."""
    return Update(*client.train_in_round(received, server_round))


def total_steps(settings: Settings) -> int:
    """Return the optimizer steps of a client with a local phase, the mean over clients: those of
    the rounds it is drawn for, then local training.
    """
    rounds = share_drawn(settings) * settings.federation.rounds
    return round(rounds * settings.train.local_steps) + settings.local.steps


def share_drawn(settings: Settings) -> float:
    """Return the share of the clients that trains in a round, which is that of the rounds in which
    a client does.
    """
    clients = settings.data.num_clients
    return round_size(settings.federation.fraction_train, clients) / clients


def single(client: Client, adapter: Adapter, **scores: Score) -> Outcome:
    """Return the outcome where the personalized model is one adapter."""
    return Outcome(
        scores={
            "initial": client.score(client.model.initial),
            **scores,
            "personalized": client.score(adapter),
        },
        adapters={"": adapter},
    )


def keep_received(client: Client, received: Adapter) -> Outcome:
    """End with the federated adapter as it is."""
    return single(client, received, federated=client.score(received))


@dataclass(frozen=True)
class Method:
    """A row of the exchange table, and the functions behind it, none of which knows Flower."""

    title: str
    source: str
    """The paper's arXiv number, or empty."""
    shared: tuple[Kind, ...]
    """What the server sends down and a client sends up; the rest never leaves where it is."""
    keeps: str
    """What a client keeps to itself from one round to the next, in words, or empty."""
    summary: str
    """What is done, in one sentence for the report."""
    adapters: tuple[str, ...]
    """The single adapters that a client scores, besides the personalized one."""
    personalize: Callable[[Client, Adapter], Outcome]
    """A client's end, after the last round."""
    train_round: Callable[[Client, Adapter, int], Update] = plain_round
    """A client's round: what it received (filled up with the initial adapter) → its update."""
    score_round: Callable[[Client, Adapter], Score] = Client.score
    """The score that is reported after each round; by default of what was received."""
    trainings: int = 1
    """Trainings of ``train.local-steps`` steps in a round; 0 where there are no rounds."""
    local_phase: bool = False
    """Whether clients train on after the rounds."""
    keeps_calibration_out: bool = False
    """Whether calibration samples are kept out of the rounds' training."""
    strategy: type[LoraAveraging] = LoraAveraging

    def client(self, model: LoraModel, task: Task, data: ClientData, settings: Settings) -> Client:
        """Return a client as this method sees it, that has kept nothing yet."""
        samples = data.train if self.keeps_calibration_out else data.train_and_calibration
        return Client(model, task, data, settings, samples)

    @property
    def averages_all(self) -> bool:
        """Whether all that clients are sent of each other is the average of all updates."""
        return self.strategy is LoraAveraging

    def sends(self, name: str, settings: Settings) -> bool:
        """Say whether the tensor of this name is sent; a local head never is."""
        kind = kind_of(name)
        return kind in self.shared and not (kind == "head" and settings.task.head == "local")

    def steps(self, settings: Settings, rounds: int) -> int:
        """Return the optimizer steps of a client that trained in so many rounds, and after them."""
        if self.trainings == 0:
            return total_steps(settings)
        in_rounds = self.trainings * settings.train.local_steps * rounds
        return in_rounds + settings.local.steps * self.local_phase

    def rounds(self, settings: Settings) -> int:
        """Return the number of federated rounds.

        A method without a local phase runs more of them, so that clients take at least as many
        optimizer steps as with one: fewer rounds are not less training.
        """
        if self.trainings == 0:
            return 0
        if self.local_phase:
            return settings.federation.rounds
        a_round = share_drawn(settings) * self.trainings * settings.train.local_steps
        # Without the last digits of a quotient that is whole.
        needed = math.ceil(round(total_steps(settings) / a_round, 6))
        return settings.federation.baseline_rounds or needed
