"""Multiple choice by option log-likelihood on a causal language model.

An option's score is the log-likelihood of its tokens given the prompt. Training lifts the right
option over the others: the loss is the cross-entropy over the scores of a question's options.
"""

from __future__ import annotations

from torch import Tensor, nn

from potara_flwr.core.errors import SettingsError
from potara_flwr.tasks.base import Batch, ClientData, LogitsTask, Samples
from potara_flwr.tasks.causal import CausalTask, answer_scores, batch_of, load_client
from potara_flwr.tasks.shared_prompt import log_probabilities


class MultipleChoice(CausalTask, LogitsTask):
    """Questions with options."""

    def load_client(self, client: int) -> ClientData:
        """Load the questions of one client, see :func:`~potara_flwr.tasks.causal.load_client`."""
        score = self.settings.task.option_score
        data = load_client(self.settings, client, instruct=False, score=score)
        if any(part["labels_open"].any() for part in (data.train, data.calibration, data.test)):
            raise SettingsError(
                f"client {client}: its data has no options to choose from; name their column with "
                "data.options-column, or run task.name=instruction"
            )
        return data

    def collate(self, samples: Samples) -> Batch:
        """Return one row for every question, its options side by side, where the model takes such
        rows; else one for every option, those of a question one after the other.
        """
        return batch_of(samples, self.most_columns)

    def losses(self, logits: Tensor, samples: Batch) -> Tensor:
        """Return the cross-entropy over the scores of each question's options, nats, (n,)."""
        return nn.functional.cross_entropy(
            option_scores(logits, samples), samples["labels"], reduction="none"
        )

    def correct(self, logits: Tensor, samples: Batch) -> Tensor:
        """Return 1.0 for each question whose right option has the highest score, shape (n,)."""
        return (option_scores(logits, samples).argmax(1) == samples["labels"]).float()


def option_scores(logits: Tensor, batch: Batch) -> Tensor:
    """Return the score of each option, shape (n, options); −∞ where a question has fewer."""
    log_probs = log_probabilities(logits, batch["labels_answers"])
    return answer_scores(log_probs, batch["labels_weights"])
