"""Base models, embedded or from a local folder or the Hugging Face hub, and where they compute."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.seeds import derive_seed
from potara_flwr.models.architecture import find_head
from potara_flwr.models.pretrained import (
    OWN_CODE,
    find_model,
    load_config,
    load_tokenizer,
    readable,
)
from potara_flwr.settings.groups import ModelSettings
from potara_flwr.settings.schema import Settings

logger = logging.getLogger(__name__)

HEAD_SEED = "task head"
"""Names the seed by which what a checkpoint lacks is made anew."""
FOUR_BITS: dict[str, Any] = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
}
"""QLoRA's base model (arXiv 2305.14314): NF4, doubly quantized."""


def load_image_classifier(settings: Settings, num_classes: int) -> PreTrainedModel:
    """Load an image classifier through transformers, in eval mode.

    A head that the pretrained model lacks, or that has another number of classes, is made from
    the seed.

    Raises
    ------
    SettingsError
        The folder or hub id cannot be read.
    """
    return _load_classifier(
        AutoModelForImageClassification, "image-classification model", settings, num_classes
    )


def load_text_classifier(settings: Settings, num_classes: int) -> PreTrainedModel:
    """Load a text classifier, as :func:`load_image_classifier` does; it pads as its tokenizer."""
    model = _load_classifier(
        AutoModelForSequenceClassification, "text-classification model", settings, num_classes
    )
    # A decoder classifies at the last token that is no padding; one of several modalities reads
    # the token off the part of its configuration that is for text.
    pad = load_tokenizer(settings.task.model).pad_token_id
    for config in (model.config, model.config.get_text_config(decoder=True)):
        config.pad_token_id = pad
    return model


def load_causal_lm(settings: Settings) -> PreTrainedModel:
    """Load a causal language model, without its own settings for writing (such as penalties).

    Raises
    ------
    SettingsError
        The folder or hub id cannot be read, or the model is an encoder.
    """
    config = load_config(settings.task.model)
    is_decoder = getattr(config, "is_decoder", False) or config.is_encoder_decoder
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not is_decoder:
        raise SettingsError(
            f"task.model is {settings.task.model!r}, an encoder ({config.model_type}), in which a "
            "token sees those after it; choose a causal language model"
        )
    model = load_pretrained(AutoModelForCausalLM, "causal language model", settings)
    # What is asked for is the most likely token after token, whatever its authors prefer.
    model.generation_config = GenerationConfig()
    # What is kept for the next token is of no use in scoring; RWKV's could not be differentiated.
    model.config.get_text_config(decoder=True).use_cache = False
    return model


def _load_classifier(
    auto_class: Any, what: str, settings: Settings, num_classes: int
) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(settings.seed, HEAD_SEED))
        return load_pretrained(
            auto_class, what, settings, num_labels=num_classes, ignore_mismatched_sizes=True
        )


def load_pretrained(
    auto_class: Any, what: str, settings: Settings, **options: object
) -> PreTrainedModel:
    """Load ``task.model`` through one of transformers' auto classes, in eval mode, with weights as
    the ``model`` settings say.

    Parameters
    ----------
    auto_class : class
        E.g. ``AutoModelForCausalLM``.
    what : str
        What it loads, for the error message.

    Raises
    ------
    SettingsError
        The folder or hub id cannot be read, it lacks weights of its pretrained part, or
        quantization is not possible here.
    """
    name = settings.task.model
    if settings.model.quantize == "4bit":
        options["quantization_config"] = _four_bits(settings.model)
        # It is quantized where it will compute; transformers would take the first GPU.
        options["device_map"] = {"": str(find_device(settings.model))}
    if settings.model.device_map:
        options["device_map"] = settings.model.device_map
    if settings.model.attention != "auto":
        options["attn_implementation"] = settings.model.attention
    model: PreTrainedModel
    with readable(name, what):
        model, report = auto_class.from_pretrained(
            find_model(name),
            dtype=settings.model.dtype,
            output_loading_info=True,
            **OWN_CODE,
            **options,
        )
    made_anew = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    _check_pretrained(
        name, _in_pretrained(model, made_anew) if "num_labels" in options else made_anew
    )
    return model


def _in_pretrained(model: PreTrainedModel, keys: Sequence[str]) -> list[str]:
    """Return the names of those weights that are of the pretrained part of a classifier."""
    prefix = model.base_model_prefix
    inside = f"{prefix}." if hasattr(model, prefix) else ""
    head = tuple(f"{name}." for name in find_head(model))
    return [key for key in keys if key.startswith(inside) and not key.startswith(head)]


def _check_pretrained(name: str, made_anew: Sequence[str]) -> None:
    """Check that no weight of the pretrained part is made anew: it will be frozen."""
    frozen = sorted(made_anew)
    # Language models with a head for masked tokens are saved without the pooler before the head.
    pooler = [key for key in frozen if ".pooler." in key]
    if lacking := [key for key in frozen if key not in pooler]:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise SettingsError(
            f"task.model is {name!r}, which lacks weights of its pretrained part, or has them in "
            f"another shape: {', '.join(lacking[:3])}{more}; is its file damaged?"
        )
    if pooler:
        logger.warning("task.model %s has no pooler: it is made anew, and stays frozen", name)


def _four_bits(settings: ModelSettings) -> BitsAndBytesConfig:
    """Return how a base model is quantized."""
    if not torch.cuda.is_available():
        raise SettingsError("model.quantize=4bit needs a CUDA GPU, and there is none here")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise SettingsError(
            "model.quantize=4bit needs bitsandbytes: pip install 'potara-flwr[quantized]'"
        )
    return BitsAndBytesConfig(**FOUR_BITS, bnb_4bit_compute_dtype=settings.dtype)


def find_device(settings: ModelSettings) -> torch.device:
    """Return the device that ``model.device`` names.

    Raises
    ------
    SettingsError
        There is no such device on this machine.
    """
    name = settings.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SettingsError(
            f"model.device is {name!r}, which this machine cannot compute on: {reason}"
        ) from None
    return device
