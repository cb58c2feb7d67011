"""What happens around the rounds of a run: progress for people, a tracker, checkpoints."""

from __future__ import annotations

from contextlib import suppress
from logging import INFO
from typing import Any

from flwr.app import Message
from flwr.supercore import log

from potara_flwr.core.errors import ReplyError
from potara_flwr.core.many import MANY
from potara_flwr.core.version import code_version
from potara_flwr.messages.reports import Report, unpack
from potara_flwr.results.rows import ROWS, in_words, spread_in_words, total_rows
from potara_flwr.results.tracking import Tracker, final_metrics, round_metrics
from potara_flwr.server.checkpoint import Progressed, save_checkpoint
from potara_flwr.server.progress import Progress
from potara_flwr.server.rounds import RoundResult
from potara_flwr.server.run import FederatedRun, RunCallback


class LogProgress(RunCallback):
    """Logs what becomes of the rows, then one line after each round and for each client that is
    personalized.
    """

    def __init__(self) -> None:
        self._training: list[float] = []
        """Of each round's seconds those that went into optimizer steps."""
        self._losses = self._accuracies = 0.0
        """Sums over the clients that are personalized."""
        self._scored = self._replies = self._asked = 0

    def before_rounds(self, run: FederatedRun) -> None:
        """Log how many rows every client found, uses and leaves out, of many clients the least, the
        middle and the most, and all of them together.
        """
        names = run.settings.federation.names
        clients = [told.to_json(names) for _, told in sorted(run.descriptions.items())]
        if len(clients) > MANY:
            log(INFO, "%s%s", ROWS, spread_in_words(clients))
        for client in clients:
            if "rows" in client and len(clients) <= MANY:
                who = client.get("name", f"client {client['client']}")
                log(INFO, "%s%s: %s", ROWS, who, in_words(client["rows"]))
        log(INFO, "%sin all: %s", ROWS, in_words(total_rows(clients)))

    def after_round(self, run: FederatedRun, result: RoundResult) -> None:
        """Log the mean score after the round."""
        seconds = run.rounds[-1]["seconds"]
        self._training.append(min(seconds, result.training_seconds * len(result.clients)))
        progress = Progress.of(
            "round", result.round, run.total, result.loss, result.accuracy,
            sum(run.ledger.bytes()), self._seconds_left(run),
        )  # fmt: skip
        log(INFO, "%s", progress)

    def on_reply(self, run: FederatedRun, reply: Message) -> None:
        """Log how many clients are personalized, and their mean score so far; of more than a
        hundred clients at every hundredth of them.
        """
        self._replies += 1
        if reply.has_content():
            with suppress(ReplyError):  # it will be refused
                own = unpack(reply.content, Report, run.total).personalized
                self._losses += own.loss
                self._accuracies += own.accuracy
                self._scored += 1
        self._asked = self._asked or len(run.asked)
        done, total, scored = self._replies, self._asked, self._scored
        if done < total and done % max(1, total // 100):
            return
        progress = Progress.of(
            "personalized", done, total,
            self._losses / scored if scored else None,
            self._accuracies / scored if scored else None,
            sum(run.ledger.bytes()), run.clock.running() / done * (total - done),
        )  # fmt: skip
        log(INFO, "%s", progress)

    def _seconds_left(self, run: FederatedRun) -> float:
        """Estimate the rest from the mean round: the rounds to go, then the last message, which
        trains for the local steps. What a round takes beyond its optimizer steps, such as the start
        of a process for every message, the last message takes once.
        """
        mean: float = sum(record["seconds"] for record in run.rounds) / len(run.rounds)
        training = sum(self._training) / len(self._training)
        local = run.settings.local.steps * run.method.local_phase
        last = mean - training + training * local / run.settings.train.local_steps
        return mean * (run.total - len(run.rounds)) + last


class TrackRun(RunCallback):
    """Tells a tracker of every round and of the end."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def before_rounds(self, run: FederatedRun) -> None:
        """Begin the run, or go on with it."""
        self.tracker.start(run.run_key)

    def after_round(self, run: FederatedRun, result: RoundResult) -> None:
        """Log the numbers of the round."""
        self.tracker.log(round_metrics(run.rounds[-1]), result.round)

    def at_end(self, run: FederatedRun, results: dict[str, Any]) -> None:
        """Log the mean scores and all bytes."""
        self.tracker.summarize(final_metrics(results))


class SaveCheckpoints(RunCallback):
    """Saves all that is needed to go on after each round."""

    def before_rounds(self, run: FederatedRun) -> None:
        """Save where no round will, and that a run which goes on was interrupted."""
        if not run.total or run.interruptions:
            self._save(run)

    def after_round(self, run: FederatedRun, result: RoundResult) -> None:
        """Save the run as it is after the round."""
        self._save(run)

    def _save(self, run: FederatedRun) -> None:
        progress = Progressed(
            run_key=run.run_key,
            round=len(run.rounds),
            config=run.settings.computed(),
            classes=list(run.classes),
            code=code_version(),
            rounds=run.rounds,
            ledger=run.ledger.to_json(),
            seconds=run.clock.seconds,
            interruptions=run.interruptions,
        )
        save_checkpoint(run.folder, progress, run.strategy, run.arrays)
