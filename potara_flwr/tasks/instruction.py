"""Instructions: a causal language model is trained on the answer's tokens alone.

Where a question has options, they stand in the prompt, and the one with the highest log-likelihood
is the model's answer; where it has none, the model writes one, which a text metric scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from potara_flwr.core.errors import SettingsError
from potara_flwr.data.questions import may_be_instructions
from potara_flwr.models.padding import PaddingSide
from potara_flwr.models.pretrained import tokenizer_of
from potara_flwr.tasks.base import (
    Batch,
    ClientData,
    Inputs,
    Model,
    Prediction,
    Samples,
    take,
)
from potara_flwr.tasks.causal import (
    CausalTask,
    answer_scores,
    batch_of,
    chosen_option,
    load_client,
    load_inputs,
    prompts_of,
)
from potara_flwr.tasks.chat import PLAIN_TEMPLATE, stop_tokens
from potara_flwr.tasks.encoding import first_tokens, template_of
from potara_flwr.tasks.shared_prompt import log_probabilities
from potara_flwr.tasks.text_metrics import METRICS
from potara_flwr.tasks.usage import Usage, tokenizer_code

WRITES: dict[PaddingSide, str] = {
    "left": """greedy = GenerationConfig(
    max_new_tokens={max_new_tokens}, do_sample=False, eos_token_id={stop!r}, pad_token_id={stop[0]},
)
inputs = tokenizer.pad(
    {{"input_ids": [ids_of(prompt) for prompt in prompts]}}, return_tensors="pt"
)
written = model.generate(**inputs, generation_config=greedy)
answers = tokenizer.batch_decode(
    written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
)""",
    "right": """answers = []
for prompt in prompts:  # each alone, without padding, which this model takes for text
    ids = ids_of(prompt)
    start = len(ids)
    while len(ids) < start + {max_new_tokens} and not (len(ids) > start and ids[-1] in {stop!r}):
        with torch.no_grad():
            ids.append(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item())
    answers.append(tokenizer.decode(ids[start:], skip_special_tokens=True))""",
}
"""On a model's card, by the side on which it takes padding: how answers are written."""


class Instruction(CausalTask):
    """Prompts with answers, of any kind of question."""

    def usage(self) -> Usage:
        """Return how an answer is written."""
        name, task = self.settings.task.model, self.settings.task
        tokenizer, _ = tokenizer_of(name)
        template = template_of(tokenizer, self.settings)
        chats = may_be_instructions(self.settings.data)
        first = first_tokens(tokenizer)
        begins = f"{first!r} + " if first else ""
        stop = stop_tokens(tokenizer, template)
        lines = ["def ids_of(prompt):"]
        if chats:
            # Its own template begins a text itself.
            own = "" if template else "chat_template=template, "
            lines += [
                "    if not isinstance(prompt, str):",
                "        text = tokenizer.apply_chat_template(",
                f"            prompt, {own}tokenize=False, add_generation_prompt=True",
                "        )",
                f"        return {'' if template else begins}"
                'tokenizer(text, add_special_tokens=False)["input_ids"]',
            ]
        lines += [
            f'    return {begins}tokenizer(prompt, add_special_tokens=False)["input_ids"]',
            "",
            WRITES[self.padding_side].format(max_new_tokens=task.max_new_tokens, stop=stop),
        ]
        plain = "" if template or not chats else f"template = {PLAIN_TEMPLATE!r}\n\n"
        return Usage(
            imports=("AutoTokenizer", "GenerationConfig"),
            loads=tokenizer_code(name, tokenizer, self.padding_side)
            + "\nbase.generation_config = GenerationConfig()  # without penalties and the like",
            inputs="`prompts`: a list of texts"
            + (", or of chats: lists of messages with `role` and `content`" if chats else "")
            + ". Options, where there are some, stand before a prompt's last line.",
            runs=plain + "\n".join(lines),
        )

    def load_client(self, client: int) -> ClientData:
        """Load the questions of one client, see :func:`~potara_flwr.tasks.causal.load_client`.

        Raises
        ------
        SettingsError
            Also where the tokenizer has no end-of-text token to end an answer with.
        """
        self._check_end()
        score = self.settings.task.option_score
        return load_client(self.settings, client, instruct=True, score=score)

    def load_inputs(self) -> Inputs:
        """Load questions without answers, see :func:`~potara_flwr.tasks.causal.load_inputs`."""
        self._check_end()
        return load_inputs(self.settings, instruct=True, score=self.settings.task.option_score)

    def _check_end(self) -> None:
        """Check that there is a token to end an answer with."""
        model = self.settings.task.model
        if tokenizer_of(model)[0].eos_token_id is None:
            raise SettingsError(
                f"task.model is {model!r}, whose tokenizer has no end-of-text token, "
                "with which task.name=instruction ends an answer"
            )

    def collate(self, samples: Samples) -> Batch:
        """Return one row a sample: the prompt with the answer that is trained."""
        return batch_of(samples, self.most_columns, samples["labels"])

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

    def predict(self, model: Model, inputs: Inputs) -> list[Prediction]:
        """Return each question's most likely option, or the answer that the model writes."""
        said: list[Prediction] = [{} for _ in inputs.options]
        free = inputs.samples["labels_open"]
        if free.any():
            written = self._written(model, take(inputs.samples, free))
            for row, text in zip(free.nonzero()[:, 0].tolist(), written, strict=True):
                said[row] = {"answer": text}
        if not free.all():
            batch = batch_of(take(inputs.samples, ~free), self.most_columns)
            log_probs = log_probabilities(model(batch), batch["labels_answers"])
            scores = answer_scores(log_probs, batch["labels_weights"])
            for row, of_row in zip((~free).nonzero()[:, 0].tolist(), scores, strict=True):
                said[row] = chosen_option(inputs.options[row], of_row)
        return said

    def _choose(self, model: Model, samples: Samples) -> tuple[Tensor, Tensor]:
        """Score questions by whether the right option has the highest log-likelihood."""
        batch = batch_of(samples, self.most_columns)
        log_probs = log_probabilities(model(batch), batch["labels_answers"])
        chosen = answer_scores(log_probs, batch["labels_weights"]).argmax(1)
        right = torch.arange(len(chosen), device=chosen.device), samples["labels"]
        return _mean_losses(log_probs, batch)[right], (chosen == samples["labels"]).float()

    def _write(self, model: Model, samples: Samples) -> tuple[Tensor, Tensor]:
        """Score questions by the answers that the model writes."""
        metric = METRICS[self.settings.task.metric]
        batch = self.collate(samples)
        losses = self.losses(model(batch), batch)
        scores = [
            metric(text, [self._text(reply) for reply in row])
            for text, row in zip(self._written(model, samples), _replies(samples), strict=True)
        ]
        return losses, losses.new_tensor(scores)

    def _written(self, model: Model, samples: Samples) -> list[str]:
        """Return the last reply to each sample, as the model writes it."""
        task = self.settings.task
        tokenizer, _ = tokenizer_of(task.model)
        written = model.generate(
            _before_reply(samples),
            max_new_tokens=task.max_new_tokens,
            stop=stop_tokens(tokenizer, template_of(tokenizer, self.settings)),
        )
        return [self._text(ids) for ids in written]

    def _text(self, ids: Tensor) -> str:
        tokenizer, _ = tokenizer_of(self.settings.task.model)
        return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


def _replies(samples: Samples) -> list[list[Tensor]]:
    """Return the token ids of every right last reply to each sample."""
    return [
        [ids[start:][real[start:]] for ids, real in zip(answers, masks, strict=True) if real.any()]
        for answers, masks, start in zip(
            samples["labels_answers"], samples["labels_mask"], samples["labels_reply"], strict=True
        )
    ]


def _before_reply(samples: Samples) -> Batch:
    """Return model inputs of all that precedes each sample's last reply, padded on the left."""
    prompts, mask = prompts_of(samples)
    rows = [
        torch.cat([ids[real > 0], answers[0, :reply]])
        for ids, real, answers, reply in zip(
            prompts, mask, samples["labels_answers"], samples["labels_reply"], strict=True
        )
    ]
    longest = max(map(len, rows))
    filled = prompts.new_zeros(len(rows), longest)
    attended = mask.new_zeros(len(rows), longest)
    for row, ids in enumerate(rows):
        filled[row, longest - len(ids) :] = ids
        attended[row, longest - len(ids) :] = 1
    return {"input_ids": filled, "attention_mask": attended}


def _mean_losses(log_probs: Tensor, batch: Batch) -> Tensor:
    """Return minus the mean log-probability over the tokens of each answer, (n, answers)."""
    used = (batch["labels_weights"] > 0).to(log_probs.dtype)
    return -(log_probs * used).sum(2) / used.sum(2).clamp(min=1)
