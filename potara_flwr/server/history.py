"""What happened in each round, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from logging import INFO
from typing import Any

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.supercore import log

from potara_flwr.core.errors import ReplyError
from potara_flwr.messages.ledger import Ledger
from potara_flwr.messages.reports import Report, unpack
from potara_flwr.methods import METHODS
from potara_flwr.results.tracking import Tracker, round_metrics
from potara_flwr.server.progress import Progress
from potara_flwr.settings.schema import Settings
from potara_flwr.strategies.lora_averaging import LoraAveraging


class RoundRecorder:
    """Writes down and logs every round; Flower's strategy calls it after each one.

    Parameters
    ----------
    strategy : LoraAveraging
        Holds the averaged metrics of the round.
    ledger : Ledger
        Holds the bytes.
    settings : Settings
        Tell how much work is left.
    tracker : Tracker
        Is told every round.
    """

    def __init__(
        self, strategy: LoraAveraging, ledger: Ledger, settings: Settings, tracker: Tracker
    ) -> None:
        self.strategy = strategy
        self.ledger = ledger
        self.settings = settings
        self.total = METHODS[settings.method].rounds(settings)
        self.tracker = tracker
        self.rounds: list[dict[str, Any]] = []
        self._training: list[float] = []
        self._clock = time.perf_counter()

    def __call__(self, server_round: int, arrays: ArrayRecord) -> None:
        """Record the round that has just ended (0 is before the first)."""
        now = time.perf_counter()
        seconds, self._clock = now - self._clock, now
        if server_round == 0:
            return
        evaluated = _numbers(self.strategy.evaluate_metrics)
        trained = _numbers(self.strategy.train_metrics)
        exchanges = [item for item in self.ledger.exchanges if item.round == server_round]
        record = {
            "round": server_round,
            "loss": (loss := evaluated.get("loss")),
            "accuracy": (accuracy := evaluated.get("accuracy")),
            "training_loss": trained.get("loss"),
            "bytes_down": sum(item.bytes_down for item in exchanges),
            "bytes_up": sum(item.bytes_up for item in exchanges),
            "aggregation_error": self.strategy.aggregation_error,
            "norm_ratio": self.strategy.norm_ratio,
            "seconds": seconds,
            "clients": self.strategy.sampled,
        }
        self.rounds.append(record)
        self._training.append(
            min(seconds, trained.get("seconds", 0.0) * len(self.strategy.sampled))
        )
        self.tracker.log(round_metrics(record), server_round)
        self._log("round", server_round, self.total, loss, accuracy, self._seconds_left())

    def check_steps(self, clients: Iterable[Mapping[str, Any]]) -> None:
        """Write down which personalized clients have taken fewer optimizer steps than the server
        has updates of theirs: what they kept between the rounds was lost on the way.
        """
        absent = {
            (item.client, item.round)
            for item in [*self.ledger.refused, *self.ledger.missing]
            if item.kind == "train"
        }
        for entry in clients:
            client, steps = entry["client"], entry["optimizer_steps"]
            rounds = sum(
                client in record["clients"] and (client, record["round"]) not in absent
                for record in self.rounds
            )
            expected = METHODS[self.settings.method].steps(self.settings, rounds)
            if steps < expected:
                self.ledger.miss(
                    client, None, "state", f"it has taken {steps} optimizer steps, but {expected} "
                    f"with those of the {rounds} rounds in which it trained: its state was lost"
                )  # fmt: skip

    def watch_personalization(self, total: int) -> PersonalizationWatch:
        """Return a callback that logs each client's reply in the last phase."""
        return PersonalizationWatch(self, total)

    def _seconds_left(self) -> float:
        """Estimate the rest from the mean round: the rounds to go, then the last message, which
        trains for the local steps. What a round takes beyond its optimizer steps, such as the start
        of a process for every message, the last message takes once.
        """
        mean: float = sum(record["seconds"] for record in self.rounds) / len(self.rounds)
        training = sum(self._training) / len(self._training)
        local = self.settings.local.steps * METHODS[self.settings.method].local_phase
        last = mean - training + training * local / self.settings.train.local_steps
        return mean * (self.total - len(self.rounds)) + last

    def _log(
        self,
        phase: str,
        done: int,
        total: int,
        loss: float | None,
        accuracy: float | None,
        seconds_left: float,
    ) -> None:
        num_bytes = sum(self.ledger.bytes())
        log(INFO, "%s", Progress.of(phase, done, total, loss, accuracy, num_bytes, seconds_left))


class PersonalizationWatch:
    """Logs how many clients are personalized, and their mean score so far."""

    def __init__(self, recorder: RoundRecorder, total: int) -> None:
        self.recorder = recorder
        self.total = total
        self.scores: list[tuple[float, float]] = []
        self.replies = 0
        self._start = time.perf_counter()

    def __call__(self, reply: Message) -> None:
        """Count one reply."""
        self.replies += 1
        if reply.has_content():
            with suppress(ReplyError):  # it will be refused
                own = unpack(reply.content, Report, self.recorder.total).personalized
                self.scores.append((own.loss, own.accuracy))
        losses, accuracies = zip(*self.scores, strict=True) if self.scores else ((), ())
        elapsed = time.perf_counter() - self._start
        self.recorder._log(
            "personalized",
            self.replies,
            self.total,
            sum(losses) / len(losses) if losses else None,
            sum(accuracies) / len(accuracies) if accuracies else None,
            elapsed / self.replies * (self.total - self.replies),
        )


def _numbers(record: MetricRecord | None) -> dict[str, float]:
    """Return the single numbers of a record."""
    pairs = record.items() if record is not None else ()
    return {name: float(value) for name, value in pairs if not isinstance(value, list)}
