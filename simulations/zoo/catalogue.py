"""Every class that transformers' auto classes load, by kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from transformers.models.auto import modeling_auto

from simulations.zoo.journey import Kind

MAPPINGS: dict[Kind, Mapping[str, str | Sequence[str]]] = {
    "image": modeling_auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    "text": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
}


class Class(NamedTuple):
    """A class of transformers with the type of its configuration."""

    kind: Kind
    model_type: str
    class_name: str


def classes() -> Iterator[Class]:
    """Yield every class of the three kinds; one that several types share, with each of them."""
    for kind, mapping in MAPPINGS.items():
        for model_type, names in mapping.items():
            for name in (names,) if isinstance(names, str) else names:
                yield Class(kind, model_type, name)
