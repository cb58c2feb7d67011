"""How a saved model is used without this package: lines of Python for its card."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from potara_flwr.models.pretrained import find_model


@dataclass(frozen=True)
class Usage:
    """What a task puts on a model card. The lines know ``base``, the base model as it was loaded,
    and behind it ``model``, which has the adapter.
    """

    imports: tuple[str, ...]
    """What is imported from transformers."""
    loads: str
    """Loads what prepares inputs, ``tokenizer`` or ``processor``, and completes ``base``."""
    inputs: str
    """In words: what the model takes."""
    runs: str
    """Prepares a batch of raw inputs and computes what the model says of them."""


def tokenizer_code(model: str, tokenizer: PreTrainedTokenizerBase, padding_side: str) -> str:
    """Return the line that loads a tokenizer which pads as it did in the run."""
    return (
        f"tokenizer = AutoTokenizer.from_pretrained(\n    {find_model(model)!r}, "
        f"pad_token={tokenizer.pad_token!r}, padding_side={padding_side!r}\n)"
    )
