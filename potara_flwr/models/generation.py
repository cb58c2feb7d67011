"""Writing on from prompts with a model whose parameters are handed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import GenerationConfig


def continue_prompts(
    module: nn.Module,
    parameters: Mapping[str, Tensor],
    samples: Mapping[str, Tensor],
    max_new_tokens: int,
    stop: Sequence[int],
) -> Tensor:
    """Continue prompts with the most likely token after token, shape (n, new tokens).

    Prompts end in the last column; what follows one of the tokens ``stop`` in a row is the
    first of them.

    Parameters
    ----------
    parameters : mapping
        Take the place of the parameters of ``module`` of these names.
    """
    prompts = samples["input_ids"]
    greedy = GenerationConfig(
        do_sample=False,
        use_cache=True,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stop),
        pad_token_id=stop[0],
    )
    continued: Tensor = functional_call(
        _Generator(module),
        {f"module.{name}": tensor for name, tensor in parameters.items()},
        kwargs={
            "input_ids": prompts,
            "attention_mask": samples["attention_mask"],
            "generation_config": greedy,
        },
        tie_weights=False,
    )
    return continued[:, prompts.shape[1] :]


@torch.no_grad()
def continue_unpadded(
    logits: Callable[[Tensor], Tensor],
    samples: Mapping[str, Tensor],
    max_new_tokens: int,
    stop: Sequence[int],
) -> Tensor:
    """Continue prompts in groups of one length, without padding; see :func:`continue_prompts`.

    Parameters
    ----------
    logits : callable
        From token ids, shape (k, columns), to the logits of what follows, (k, vocabulary).
    """
    ids, lengths = samples["input_ids"], samples["attention_mask"].sum(1)
    continued = ids.new_full((len(ids), max_new_tokens), stop[0])
    ends = ids.new_tensor(stop)
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero()[:, 0]
        texts = ids[rows, -length:]
        for column in range(max_new_tokens):
            tokens = logits(texts).argmax(-1)
            continued[rows, column] = tokens
            going = ~torch.isin(tokens, ends)
            rows, texts = rows[going], torch.cat([texts, tokens[:, None]], dim=1)[going]
            if not len(rows):
                break
    return continued


class _Generator(nn.Module):
    """Generation as a forward call, which is what ``functional_call`` can put tensors into."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: Any) -> Tensor:
        continued: Tensor = self.module.generate(**inputs)  # type: ignore[operator]
        return continued
