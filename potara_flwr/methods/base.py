"""What a method is: which tensors are sent, and what a client does with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from potara_flwr.core.errors import SettingsError
from potara_flwr.methods.client import Client
from potara_flwr.methods.outcome import Outcome, Update, single
from potara_flwr.models.adapter import Adapter, Kind, kind_of
from potara_flwr.models.lora import LoraModel
from potara_flwr.settings.schema import Settings
from potara_flwr.strategies.lora_averaging import LoraAveraging, round_size
from potara_flwr.tasks.base import ClientData
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.local_steps import Score


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
    """What a client keeps to itself from one round to the next, in words; where it is empty nothing
    is stored in a round (:meth:`keeps_state`)."""
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
    calibrates: bool = False
    """Whether it needs the calibration samples for more than training."""
    strategy: type[LoraAveraging] = LoraAveraging
    weighs: tuple[Kind, ...] = ()
    """What of two adapters is weighed in every forward pass, which must stand in linear modules."""
    whole_batches: bool = False
    """Whether what it weighs is a sample's by its place in the batch."""

    def check(self, model: LoraModel) -> None:
        """Check that a model's adapters can be what this method makes of them.

        Raises
        ------
        SettingsError
            What the method weighs stands in a module that is not linear; names it. Or the model
            writes the answers of a batch in parts, and the method weighs by place in it.
        """
        if self.whole_batches and model.padding_side == "right":
            raise SettingsError(
                f"{self.title} weighs two adapters for each sample of a batch, but a "
                f"{type(model.module.get_base_model()).__name__}, which takes padding for text, "
                "writes samples of other lengths apart; choose another method"
            )
        for name, parameter in model.parameters.items():
            owner = model.module.get_submodule(parameter.rpartition(".")[0])
            if kind_of(name) in self.weighs and not isinstance(owner, nn.Linear):
                raise SettingsError(
                    f"{self.title} weighs two adapters in linear modules, but "
                    f"{name.rpartition('.')[0]} is a {type(owner).__name__}; choose another method"
                    + ("" if kind_of(name) == "head" else ", or others in lora.target-modules")
                )

    def client(self, bench: Workbench, data: ClientData, **so_far: Any) -> Client:
        """Return the client with these samples as this method sees it; ``so_far`` is what it has
        from earlier messages, by the names of :class:`Client`.
        """
        out = self.keeps_calibration_out(bench.settings)
        samples = data.train if out else data.train_and_calibration
        model = bench.model_for(data)
        rounds = self.rounds(bench.settings)
        return Client(model, bench.task, data, bench.settings, samples, rounds=rounds, **so_far)

    def keeps_calibration_out(self, settings: Settings) -> bool:
        """Say whether calibration samples are kept out of training until the weight is chosen."""
        return self.calibrates and settings.calibration.source == "held-out"

    @property
    def averages_all(self) -> bool:
        """Whether all that clients are sent of each other is the average of all updates."""
        return self.strategy is LoraAveraging

    def sends(self, name: str, settings: Settings) -> bool:
        """Say whether the tensor of this name is sent; a local head never is."""
        kind = kind_of(name)
        return kind in self.shared and not (kind == "head" and settings.task.head == "local")

    def keeps_state(self, settings: Settings) -> bool:
        """Say whether a client keeps something from one round to the next: parts of its own, a head
        of its own, or what int8 has rounded away.
        """
        transport, head = settings.federation.transport, settings.task.head
        return bool(self.keeps) or transport == "int8" or head == "local"

    def steps(self, settings: Settings, rounds: int) -> int:
        """Return the optimizer steps of a client that trained in so many rounds, and after them."""
        if self.trainings == 0:
            return total_steps(settings)
        in_rounds = self.steps_in_rounds(settings, rounds)
        return in_rounds + settings.local.steps * self.local_phase

    def steps_in_rounds(self, settings: Settings, rounds: int) -> int:
        """Return the optimizer steps of a client in so many rounds."""
        return self.trainings * settings.train.local_steps * rounds

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
