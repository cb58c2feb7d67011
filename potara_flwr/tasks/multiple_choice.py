"""Multiple choice by option log-likelihood on a causal language model.

An option's score is the log-likelihood of its tokens given the prompt. Training lifts the right
option over the others: the loss is the cross-entropy over the scores of a question's options.
"""

from __future__ import annotations

from torch import Tensor, nn

from potara_flwr.core.errors import SettingsError
from potara_flwr.models.pretrained import tokenizer_of
from potara_flwr.tasks.base import (
    Batch,
    ClientData,
    Inputs,
    LogitsTask,
    Model,
    Prediction,
    Samples,
)
from potara_flwr.tasks.causal import (
    CausalTask,
    answer_scores,
    batch_of,
    chosen_option,
    load_client,
    load_inputs,
)
from potara_flwr.tasks.encoding import first_tokens
from potara_flwr.tasks.shared_prompt import log_probabilities
from potara_flwr.tasks.usage import Usage, tokenizer_code


class MultipleChoice(CausalTask, LogitsTask):
    """Questions with options."""

    def usage(self) -> Usage:
        """Return how an option is chosen."""
        name, task = self.settings.task.model, self.settings.task
        mean = " / used.sum(1)" if task.option_score == "mean" else ""
        tokenizer, _ = tokenizer_of(name)
        first = first_tokens(tokenizer)
        begins = f"{first!r} + " if first else ""
        return Usage(
            imports=("AutoTokenizer",),
            loads=tokenizer_code(name, tokenizer, "right"),
            inputs="`prompt`: a text without blanks around it; `options`: a list of texts.",
            runs=f"""def ids_of(text):
    return {begins}tokenizer(text, add_special_tokens=False)["input_ids"]

inputs = tokenizer.pad(
    {{"input_ids": [ids_of(f"{{prompt}} {{option}}") for option in options]}}, return_tensors="pt"
)
asked = len(ids_of(prompt))
with torch.no_grad():
    log_probs = model(**inputs).logits[:, asked - 1 : -1].float().log_softmax(-1)
said, used = inputs["input_ids"][:, asked:], inputs["attention_mask"][:, asked:]
scores = (log_probs.gather(2, said[..., None])[..., 0] * used).sum(1){mean}
predicted = options[scores.argmax()]""",
        )

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

    def load_inputs(self) -> Inputs:
        """Load questions without answers, see :func:`~potara_flwr.tasks.causal.load_inputs`."""
        inputs = load_inputs(self.settings, instruct=False, score=self.settings.task.option_score)
        if inputs.samples["labels_open"].any():
            raise SettingsError(
                f"{self.settings.data.path} has no options to choose from; name their column with "
                "data.options-column"
            )
        return inputs

    def predict(self, model: Model, inputs: Inputs) -> list[Prediction]:
        """Return the most likely option of each question, with the scores of all."""
        batch = self.collate(inputs.samples)
        scores = option_scores(model(batch), batch)
        return [
            chosen_option(options, of_row)
            for options, of_row in zip(inputs.options, scores, strict=True)
        ]

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
