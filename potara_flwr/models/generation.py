"""Writing on from prompts with a model whose parameters are handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
        # Said again, for a model that samples by default would complain of its own.
        temperature=1.0,
        top_p=1.0,
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


class _Generator(nn.Module):
    """Generation as a forward call, which is what ``functional_call`` can put tensors into."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, **inputs: Any) -> Tensor:
        continued: Tensor = self.module.generate(**inputs)  # type: ignore[operator]
        return continued
