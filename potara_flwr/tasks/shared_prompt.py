"""One row for a question: its prompt once, its answers side by side behind it.

Of a row for every answer, the prompt is most of the work, and the same in each. Here an answer sees
the prompt and itself, by a mask of its own, and its positions go on from the prompt's, so that its
tokens have the log-probabilities that they have in a row of their own.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from potara_flwr.core.seeds import generator
from potara_flwr.models.padding import positions_of
from potara_flwr.tasks.base import Batch

logger = logging.getLogger(__name__)

TRIED_ANSWERS = (8, 6, 8)
"""Tokens of the answers on which a model is tried."""
WINDOWS = ("sliding_window", "attention_chunk_size")
"""What configurations call the tokens over which their attention looks back."""


def rows_apart(prompts: Tensor, mask: Tensor, answers: Tensor, real: Tensor) -> Batch:
    """Return the model inputs with a row for every answer.

    Parameters
    ----------
    prompts, mask : Tensor
        Token ids, padded on the left, and 1 where a token is none of the padding, shape (n, p).
    answers, real : Tensor
        Token ids, padded on the right, and true where a token is none of the padding, shape
        (n, k, t).

    Returns
    -------
    dict
        Of k rows a question, one after the other, whose last t columns predict the answer.
    """
    length = answers.shape[2]
    # The last token of an answer predicts nothing that counts.
    rows = torch.cat([_per_answer(prompts, answers), answers[..., :-1]], dim=2).flatten(0, 1)
    seen = torch.cat([_per_answer(mask, answers), real.long()[..., :-1]], dim=2).flatten(0, 1)
    return {
        "input_ids": rows,
        "attention_mask": seen,
        "position_ids": positions_of(seen),
        "logits_to_keep": torch.tensor(length),
    }


def rows_shared(prompts: Tensor, mask: Tensor, answers: Tensor, real: Tensor) -> Batch:
    """Return the model inputs with a row for every question, see :func:`rows_apart`.

    Returns
    -------
    dict
        Of n rows of p + k · (t − 1) columns: the last of the prompt predicts the first token of
        every answer, those behind it predict the answers' other tokens, in turn. The mask is what
        attention adds to its scores, 0 or −∞, shape (n, 1, columns, columns).
    """
    n, num_answers, length = answers.shape
    tokens = torch.cat([mask > 0, real[..., :-1].flatten(1)], dim=1)
    asked = mask.sum(1)[:, None, None]
    positions = asked + torch.arange(length - 1, device=mask.device)
    # Which answer a column is of; the prompt is none.
    owner = torch.arange(num_answers, device=mask.device).repeat_interleave(length - 1)
    owner = torch.cat([owner.new_full((prompts.shape[1],), -1), owner])
    order = torch.arange(len(owner), device=mask.device)
    seen = (owner == -1) | (owner == owner[:, None])
    seen = seen & (order <= order[:, None]) & tokens[:, None, :]
    # Padding sees itself: a softmax over nothing is no number.
    seen = seen | torch.eye(len(owner), dtype=torch.bool, device=mask.device)
    added = torch.zeros(seen.shape, device=mask.device).masked_fill(~seen, -torch.inf)
    return {
        "input_ids": torch.cat([prompts, answers[..., :-1].flatten(1)], dim=1),
        "attention_mask": added[:, None],
        "position_ids": torch.cat(
            [
                positions_of(mask),
                positions.expand(n, num_answers, length - 1).flatten(1),
            ],
            dim=1,
        ),
        "logits_to_keep": torch.tensor(1 + num_answers * (length - 1)),
    }


def log_probabilities(logits: Tensor, answers: Tensor) -> Tensor:
    """Return the log-probability of each token of each answer given what precedes it, in nats.

    Parameters
    ----------
    logits : Tensor
        Of the last ``logits_to_keep`` columns: shape (n · k, t, vocabulary) of rows apart,
        (n, 1 + k · (t − 1), vocabulary) of shared ones.
    answers : Tensor
        Token ids, shape (n, k, t).

    Returns
    -------
    Tensor
        Shape (n, k, t), float32; meaningless on padding.
    """
    if len(logits) == len(answers):
        first = _log_probability(_per_answer(logits[:, 0], answers), answers[..., 0])
        rest = _log_probability(logits[:, 1:], answers[..., 1:].flatten(1))
        return torch.cat([first[..., None], rest.view_as(answers[..., 1:])], dim=2)
    return _log_probability(logits, answers.flatten(0, 1)).view_as(answers)


@torch.no_grad()
def most_columns(model: PreTrainedModel, max_tokens: int) -> int:
    """Return how many columns a row may have in which answers share a prompt; 0 where the model
    takes none such. What it takes is tried on one question of made-up tokens, as long as any.

    An architecture without masks of this kind (ALiBi, state spaces) gives other numbers, or fails.
    An attention that looks back over a window does not take them beyond it: the log says so.
    """
    config: Any = model.config.get_text_config()
    windows = [getattr(config, name, None) or max_tokens for name in WINDOWS]
    if min(windows) < max_tokens or hasattr(config, "window_size"):
        return _none(model, "looks back over a window")
    limit = getattr(config, "max_position_embeddings", None) or -1
    limit = limit if limit > 0 else sys.maxsize
    embeddings: Any = model.get_input_embeddings()
    question = _made_up(embeddings.num_embeddings, min(max_tokens, limit), model.device)
    try:
        apart = _scored(model, rows_apart(*question), question)
        shared = _scored(model, rows_shared(*question), question)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        return _none(model, f"takes no mask of its own ({str(error).strip().splitlines()[0]})")
    difference = (apart - shared).abs().mean() / apart.abs().max()
    if not difference <= max(1e-4, 2 * torch.finfo(model.dtype).eps):
        return _none(model, f"gives answers side by side other scores (by {difference:.1%})")
    return limit


def _none(model: nn.Module, why: str) -> int:
    logger.warning(
        "%s %s: a prompt is computed once for each of its options, which takes longer",
        type(model).__name__, why,
    )  # fmt: skip
    return 0


def _made_up(vocabulary: int, max_tokens: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return a question as :func:`rows_apart` takes one, of ``max_tokens`` with an answer."""
    draws, lengths = generator(0, "a question to try"), torch.tensor(TRIED_ANSWERS)
    shape = (1, len(lengths), int(lengths.max()))
    prompts = torch.randint(vocabulary, (1, max(max_tokens - shape[2], 1)), generator=draws)
    answers = torch.randint(vocabulary, shape, generator=draws)
    real = (torch.arange(shape[2]) < lengths[:, None])[None]
    return tuple(at.to(device) for at in (prompts, torch.ones_like(prompts), answers, real))


def _scored(model: PreTrainedModel, batch: Batch, question: tuple[Tensor, ...]) -> Tensor:
    """Return the log-probabilities of the answers' tokens."""
    *_, answers, real = question
    mask = batch["attention_mask"]
    if mask.is_floating_point():
        batch["attention_mask"] = mask.to(model.dtype)
    keep = int(batch.pop("logits_to_keep"))
    logits = model(**batch, logits_to_keep=keep).logits
    return log_probabilities(logits, answers)[real]


def _log_probability(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the log-probability of each id, in the shape of ``ids``."""
    losses = nn.functional.cross_entropy(
        logits.flatten(0, -2).float(), ids.flatten(), reduction="none"
    )
    return -losses.view_as(ids)


def _per_answer(tensor: Tensor, answers: Tensor) -> Tensor:
    """Return a tensor of questions, shape (n, …), for each of their answers, (n, k, …)."""
    return tensor[:, None].expand(-1, answers.shape[1], *tensor.shape[1:])
