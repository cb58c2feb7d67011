"""On which side of a text a language model takes padding.

Batches come with padding before the prompts, and tell positions, from 0. Some models score or
continue a text otherwise then: a decoder that counts positions from the first column (BART, Marian,
Whisper), or from another number (RoBERTa), a recurrence that knows no mask (RWKV). For these, texts
go to the front of their rows, where what follows them cannot reach them, the model counts positions
itself, and prompts are continued in groups of one length, without padding.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.seeds import generator

PaddingSide = Literal["left", "right"]
TRIED_TOKENS, TRIED_PADDING, TRIED_STEPS = 8, 3, 3
"""Of the made-up text, of the padding beside it, and of how it is continued."""


@torch.no_grad()
def padding_side(model: PreTrainedModel, name: str) -> PaddingSide:
    """Return the side on which padding does not change how a model scores and continues a text:
    ``left`` where it can be.

    Tried on a made-up text, which the model first sees alone, as anybody would hand it over.

    Parameters
    ----------
    name : str
        Of the model, for the error message.

    Raises
    ------
    SettingsError
        It has no such side, or a token sees those after it.
    """
    text = _made_up(model)
    alone = _logits(model, text)
    # The next word of the vocabulary, in the last place.
    other = text.clone()
    other[0, -1] = text[0, 0]
    if _differ(model, _logits(model, other)[:-1], alone[:-1]):
        why = "in which a token sees those after it"
    else:
        if not (
            _differ_padded(model, text, alone, "left") or _continues_otherwise(model, text, alone)
        ):
            return "left"
        if not _differ_padded(model, text, alone, "right"):
            return "right"
        why = "which scores a text otherwise beside padding"
    raise SettingsError(
        f"task.model is {name!r}, a {type(model).__name__}, {why}; choose another architecture"
    )


def _made_up(model: PreTrainedModel) -> Tensor:
    """Return a text of tokens that mean nothing to a model's configuration, shape (1, tokens)."""
    embeddings: Any = model.get_input_embeddings()
    named = {
        token
        for config in (model.config, model.config.get_text_config(decoder=True))
        for key, value in vars(config).items()
        if key.endswith(("token_id", "token_index"))
        for token in (value if isinstance(value, list) else [value])
    }
    words = torch.tensor([at for at in range(embeddings.num_embeddings) if at not in named])
    draws = generator(0, "padding to try")
    chosen = torch.randperm(len(words), generator=draws)[:TRIED_TOKENS]
    return words[chosen][None].to(model.device)


def _beside(text: Tensor, side: PaddingSide) -> tuple[Tensor, Tensor]:
    """Return a text beside padding, and the mask."""
    padding = text.new_zeros(len(text), TRIED_PADDING)
    parts = [(padding, padding), (text, torch.ones_like(text))]
    ids, mask = zip(*(parts if side == "left" else parts[::-1]), strict=True)
    return torch.cat(ids, dim=1), torch.cat(mask, dim=1)


def _logits(model: PreTrainedModel, ids: Tensor, **inputs: Tensor) -> Tensor:
    """Return the logits of a text, shape (columns, vocabulary)."""
    found: Tensor = model(input_ids=ids, **inputs).logits[0].float()
    return found


def positions_of(mask: Tensor) -> Tensor:
    """Return each token's position in its text, 0 where there is padding before it."""
    return (mask.cumsum(1) - 1).clamp(min=0)


def _differ(model: PreTrainedModel, found: Tensor, right: Tensor) -> bool:
    """Say whether logits differ by more than rounding."""
    distance = (found - right).abs().mean() / right.abs().max()
    return not distance <= max(1e-5, 2 * torch.finfo(model.dtype).eps)


def _differ_padded(model: PreTrainedModel, text: Tensor, alone: Tensor, side: PaddingSide) -> bool:
    ids, mask = _beside(text, side)
    inputs = {"attention_mask": mask}
    if side == "left" and "position_ids" in inspect.signature(model.forward).parameters:
        inputs["position_ids"] = positions_of(mask)
    found = _logits(model, ids, **inputs)
    return _differ(model, found[-len(alone) :] if side == "left" else found[: len(alone)], alone)


def _continues_otherwise(model: PreTrainedModel, text: Tensor, alone: Tensor) -> bool:
    """Say whether transformers' generation has other logits for what follows a text, or has them
    behind padding.
    """
    if not isinstance(model, GenerationMixin):
        return False
    steps = GenerationConfig(
        max_new_tokens=TRIED_STEPS,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    writes: Any = model
    plain, behind = (
        writes.generate(input_ids=ids, attention_mask=mask, generation_config=steps).logits
        for ids, mask in ((text, torch.ones_like(text)), _beside(text, "left"))
    )
    if _differ(model, plain[0].float(), alone[-1:]):
        return True
    for one, two in zip(plain, behind, strict=False):
        if _differ(model, two.float(), one.float()):
            return True
        if one.argmax() != two.argmax():  # as good as equal, but no longer the same text
            break
    return False


def leading_padding(mask: Tensor) -> Tensor:
    """Return how many columns of padding precede the text of each row, shape (n,)."""
    return (mask > 0).int().argmax(dim=1)


def at_the_front(inputs: dict[str, Tensor], leading: Tensor) -> dict[str, Tensor]:
    """Return the same inputs, shape (n, columns), with the padding before a text behind it, and
    without positions.
    """
    columns = inputs["attention_mask"].shape[1]
    order = (torch.arange(columns, device=leading.device) + leading[:, None]) % columns
    return {
        name: tensor.gather(1, order) if tensor.shape == order.shape else tensor
        for name, tensor in inputs.items()
        if name != "position_ids"
    }


def put_back(found: Tensor, leading: Tensor, columns: int) -> Tensor:
    """Return what a model gave for texts at the front of their rows as it belongs to the last
    ``columns`` columns of the rows with padding before them; meaningless on that.

    Parameters
    ----------
    found : Tensor
        Of the last columns, as many more than ``columns`` as any text has padding before it, or
        of all; shape (n, columns, …).
    """
    more = found.shape[1] - columns
    order = torch.arange(columns, device=leading.device) + more - leading[:, None]
    order = order.clamp(min=0).view(*order.shape, *[1] * (found.ndim - 2))
    return found.gather(1, order.expand(-1, -1, *found.shape[2:]))
