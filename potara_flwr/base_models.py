"""Where base models come from: embedded, a local folder, or the Hugging Face hub."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import inspect
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BaseImageProcessor,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from potara_flwr.config import Settings
from potara_flwr.errors import SettingsError
from potara_flwr.lazy import lazy
from potara_flwr.seeds import derive_seed
from potara_flwr.setting_groups import ModelSettings

if TYPE_CHECKING:
    import datasets
else:
    datasets = lazy("datasets")

EMBEDDED = ("digits-vit",)
PADDING_HAS_A_POSITION = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text")
"""Models whose positions begin behind that of the padding token."""

logger = logging.getLogger(__name__)


def find_model(name: str) -> str:
    """Return the folder of an embedded model, or the name itself (a folder or a hub id).

    Flower packs only text files into an app and runs the unpacked copy, which therefore lacks the
    weights; the installed package has them.

    Raises
    ------
    SettingsError
        The model is embedded and the package is not installed.
    """
    if name not in EMBEDDED:
        return name
    for package in (Path(__file__).parent, *_installed_packages()):
        folder = package / "models" / name
        if (folder / "model.safetensors").is_file():
            return str(folder)
    raise SettingsError(
        f"task.model: the weights of the embedded model {name!r} are not on this machine: install "
        "the package in the environment that runs the app (pip install . in the project folder)"
    )


def _installed_packages() -> list[Path]:
    """Return the folders where the installed distribution may have this package."""
    try:
        distribution = importlib.metadata.distribution("potara-flwr")
    except importlib.metadata.PackageNotFoundError:
        return []
    packages = [Path(str(distribution.locate_file("potara_flwr")))]
    # An editable install leaves only a pointer to the project folder (PEP 610).
    if origin := distribution.read_text("direct_url.json"):
        packages.append(
            Path(url2pathname(urlparse(json.loads(origin)["url"]).path)) / "potara_flwr"
        )
    return packages


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
    # A decoder classifies at the last token that is no padding.
    model.config.pad_token_id = load_tokenizer(settings.task.model).pad_token_id
    return model


def load_causal_lm(settings: Settings) -> PreTrainedModel:
    """Load a causal language model.

    Raises
    ------
    SettingsError
        The folder or hub id cannot be read, the model is an encoder, or it cannot leave logits out
        or take positions, which the prompts, aligned at their end, need.
    """
    config = load_config(settings.task.model)
    is_decoder = getattr(config, "is_decoder", False) or config.is_encoder_decoder
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not is_decoder:
        raise SettingsError(
            f"task.model is {settings.task.model!r}, an encoder ({config.model_type}), in which a "
            "token sees those after it; choose a causal language model"
        )
    model = load_pretrained(AutoModelForCausalLM, "causal language model", settings)
    taken = inspect.signature(model.forward).parameters
    if missing := [need for need in ("position_ids", "logits_to_keep") if need not in taken]:
        raise SettingsError(
            f"task.model is {settings.task.model!r}, a {type(model).__name__}, which takes no "
            f"{' and no '.join(missing)}; choose another architecture"
        )
    return model


def _load_classifier(
    auto_class: Any, what: str, settings: Settings, num_classes: int
) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(settings.seed, "task head"))
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
    if settings.model.device_map:
        options["device_map"] = settings.model.device_map
    model: PreTrainedModel
    with _readable(name, what):
        model, report = auto_class.from_pretrained(
            find_model(name), dtype=settings.model.dtype, output_loading_info=True, **options
        )
    made_anew = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    pretrained = f"{model.base_model_prefix}." if "num_labels" in options else ""
    _check_pretrained(name, [key for key in made_anew if key.startswith(pretrained)])
    return model


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
    """Return the settings of QLoRA's base model (arXiv 2305.14314): NF4, doubly quantized."""
    if not torch.cuda.is_available():
        raise SettingsError("model.quantize=4bit needs a CUDA GPU, and there is none here")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise SettingsError(
            "model.quantize=4bit needs bitsandbytes: pip install 'potara-flwr[quantized]'"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=settings.dtype,
    )


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


@functools.lru_cache(maxsize=8)
def load_config(name: str) -> PretrainedConfig:
    """Load the configuration of a model.

    Raises
    ------
    SettingsError
        The folder or hub id has none that can be read.
    """
    with _readable(name, "model"):
        config: PretrainedConfig = AutoConfig.from_pretrained(find_model(name))
    return config


def check_length(name: str, num_tokens: int, who: str) -> None:
    """Check that a model takes texts as long as a client's longest.

    Raises
    ------
    SettingsError
        It has positions for fewer tokens.
    """
    config = load_config(name)
    limit = getattr(config, "max_position_embeddings", None)
    if limit and config.model_type in PADDING_HAS_A_POSITION:
        limit -= config.pad_token_id + 1
    if limit and num_tokens > limit:
        raise SettingsError(
            f"{who} has a text of {num_tokens} tokens, but task.model {name!r} takes {limit}; "
            "lower data.max-tokens"
        )


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer that belongs to a model. It pads on the right, with the end-of-text token
    where it has no token for padding.

    Raises
    ------
    SettingsError
        The folder or hub id has none that can be read, or that can pad.
    """
    with _readable(name, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(find_model(name))
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise SettingsError(
                f"task.model is {name!r}, whose tokenizer has no token for padding and none for "
                "the end of a text"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@functools.lru_cache(maxsize=4)
def tokenizer_of(model: str) -> tuple[PreTrainedTokenizerBase, str]:
    """Return the tokenizer of a model and a hash of all that decides its tokens."""
    tokenizer = load_tokenizer(model)
    # Before its first use, which leaves traces in it.
    version = datasets.fingerprint.Hasher.hash(
        [type(tokenizer).__name__, tokenizer.get_vocab(), repr(tokenizer), _rules_of(tokenizer)]
    )
    return tokenizer, version


def _rules_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return how a fast tokenizer normalizes, splits and merges, as text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend.to_str() if backend is not None else ""


@functools.lru_cache(maxsize=8)
def load_image_processor(name: str) -> BaseImageProcessor:
    """Load the image processor that belongs to a model, the one that needs no torchvision.

    Raises
    ------
    SettingsError
        The folder or hub id has none that can be read.
    """
    with _readable(name, "image processor"):
        processor: BaseImageProcessor = AutoImageProcessor.from_pretrained(
            find_model(name), backend="pil"
        )
    return processor


@contextmanager
def _readable(name: str, what: str) -> Iterator[None]:
    """Say in one line that a model cannot be read, and keep transformers quiet."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, SafetensorError, ImportError) as error:
        if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not Path(name).is_dir():
            raise SettingsError(f"task.model: there is no folder {name!r}") from None
        lines = str(error).strip().splitlines()
        reason = " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])
        raise SettingsError(
            f"task.model is {name!r}, which is not a readable {what} folder or hub id: {reason}"
        ) from None
    finally:
        transformers_logging.set_verbosity(verbosity)
