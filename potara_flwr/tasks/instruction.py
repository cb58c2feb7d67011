"""Instructions: a causal language model is trained on the answer's tokens alone.

Where a question has options, they stand in the prompt, and the one with the highest log-likelihood
is the model's answer; where it has none, the model writes one, which a text metric scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from potara_flwr.core.errors import SettingsError
from potara_flwr.models.pretrained import tokenizer_of
from potara_flwr.tasks.base import Batch, ClientData, Model, Samples, take
from potara_flwr.tasks.causal import (
    CausalTask,
    answer_scores,
    batch_of,
    load_client,
    prompts_of,
)
from potara_flwr.tasks.shared_prompt import log_probabilities
from potara_flwr.tasks.text_metrics import METRICS


class Instruction(CausalTask):
    """Prompts with answers, of any kind of question."""

    def load_client(self, client: int) -> ClientData:
        """Load the questions of one client, see :func:`~potara_flwr.tasks.causal.load_client`.

        Raises
        ------
        SettingsError
            Also where the tokenizer has no end-of-text token to end an answer with.
        """
        task = self.settings.task
        if tokenizer_of(task.model)[0].eos_token_id is None:
            raise SettingsError(
                f"task.model is {task.model!r}, whose tokenizer has no end-of-text token, "
                "with which task.name=instruction ends an answer"
            )
        return load_client(self.settings, client, instruct=True, score=task.option_score)

    def collate(self, samples: Samples) -> Batch:
        """Return one row a sample: the prompt with the answer that is trained."""
        trained = torch.arange(len(samples["labels"])), samples["labels"]
        answers, weights = (
            samples[name][trained][:, None] for name in ("labels_answers", "labels_weights")
        )
        return batch_of(samples, answers, weights, self.most_columns)

    def losses(self, logits: Tensor, samples: Batch) -> Tensor:
        """Return minus the mean log-probability of each answer's tokens, nats, (n,)."""
        return _mean_losses(log_probabilities(logits, samples["labels_answers"]), samples)[:, 0]

    def scores(self, model: Model, samples: Samples) -> tuple[Tensor, Tensor]:
        """Return each sample's loss and score, shape (n,) each.

        The score is 1 or 0 where there are options, and the text metric (``task.metric``) of the
        answer that the model writes where there are none.
        """
        losses = torch.empty(len(samples["labels"]), device=samples["labels"].device)
        scores = torch.empty_like(losses)
        free = samples["labels_open"]
        for at, score in ((~free, self._choose), (free, self._write)):
            if at.any():
                losses[at], scores[at] = score(model, take(samples, at))
        return losses, scores

    def _choose(self, model: Model, samples: Samples) -> tuple[Tensor, Tensor]:
        """Score questions by whether the right option has the highest log-likelihood."""
        answers, weights = samples["labels_answers"], samples["labels_weights"]
        batch = batch_of(samples, answers, weights, self.most_columns)
        log_probs = log_probabilities(model(batch), batch["labels_answers"])
        chosen = answer_scores(log_probs, batch["labels_weights"]).argmax(1)
        right = torch.arange(len(chosen)), samples["labels"]
        return _mean_losses(log_probs, batch)[right], (chosen == samples["labels"]).float()

    def _write(self, model: Model, samples: Samples) -> tuple[Tensor, Tensor]:
        """Score questions by the answers that the model writes."""
        task = self.settings.task
        tokenizer, _ = tokenizer_of(task.model)
        batch = self.collate(samples)
        losses = self.losses(model(batch), batch)
        prompts, mask = prompts_of(samples)
        written = model.generate(
            {"input_ids": prompts, "attention_mask": mask},
            max_new_tokens=task.max_new_tokens,
            stop=tokenizer.eos_token_id,
        )

        def text(ids: Tensor) -> str:
            return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()

        right = [
            [text(ids[used]) for ids, used in zip(answers, weights > 0, strict=True) if used.any()]
            for answers, weights in zip(
                samples["labels_answers"], samples["labels_weights"], strict=True
            )
        ]
        metric = METRICS[task.metric]
        scores = [metric(text(ids), texts) for ids, texts in zip(written, right, strict=True)]
        return losses, losses.new_tensor(scores)


def _mean_losses(log_probs: Tensor, batch: Batch) -> Tensor:
    """Return minus the mean log-probability over the tokens of each answer, (n, answers)."""
    used = (batch["labels_weights"] > 0).to(log_probs.dtype)
    return -(log_probs * used).sum(2) / used.sum(2).clamp(min=1)
