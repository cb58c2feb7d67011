"""What belongs to a pretrained model, whatever is computed with it: where it is, its configuration,
its tokenizer, its image processor.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse
from urllib.request import url2pathname

from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    BaseImageProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.lazy import lazy

if TYPE_CHECKING:
    import datasets
else:
    datasets = lazy("datasets")

OWN_CODE = {"trust_remote_code": False}
"""Option of all of transformers' auto classes: code in a model's folder is neither run nor asked
about on standard input."""
EMBEDDED = ("digits-vit",)
PADDING_HAS_A_POSITION = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text")
"""Models whose positions begin behind that of the padding token."""


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
    for package in (Path(__file__).parents[1], *_installed_packages()):
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


@functools.lru_cache(maxsize=8)
def load_config(name: str) -> PretrainedConfig:
    """Load the configuration of a model.

    Raises
    ------
    SettingsError
        The folder or hub id has none that can be read.
    """
    with readable(name, "model"):
        config: PretrainedConfig = AutoConfig.from_pretrained(find_model(name), **OWN_CODE)
    return config


def check_length(name: str, num_tokens: int, who: str) -> None:
    """Check that a model takes texts as long as a client's longest.

    Raises
    ------
    SettingsError
        It has positions for fewer tokens.
    """
    config = load_config(name).get_text_config(decoder=True)
    limit = getattr(config, "max_position_embeddings", None) or 0
    if limit > 0 and config.model_type in PADDING_HAS_A_POSITION:
        limit -= config.pad_token_id + 1
    if 0 < limit < num_tokens:
        raise SettingsError(
            f"{who} has a text of {num_tokens} tokens, but task.model {name!r} takes {limit}; "
            "lower data.max-tokens"
        )


def check_tokens(name: str, ids: Tensor, who: str) -> None:
    """Check that a model has an embedding for each token of a client's texts, padding too.

    Parameters
    ----------
    ids : Tensor
        Of tokens, any shape.

    Raises
    ------
    SettingsError
        It has none for a token; names it.
    """
    size = getattr(load_config(name).get_text_config(), "vocab_size", None)
    beyond = int(ids.max())
    if size is None or beyond < size:
        return
    token = tokenizer_of(name)[0].convert_ids_to_tokens(beyond)
    raise SettingsError(
        f"{who} has the token {token!r} (number {beyond}), but task.model {name!r} has embeddings "
        f"of {size} tokens: its tokenizer has more; call "
        "model.resize_token_embeddings(len(tokenizer)) and save both to the folder"
    )


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer that belongs to a model. It pads with the end-of-text token where it has
    no token for padding; on the right, or on the left where the model reads a text off its last
    column (``summary_type`` of its configuration, as XLNet).

    Raises
    ------
    SettingsError
        The folder or hub id has none that can be read, or that can pad.
    """
    with readable(name, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            find_model(name), **OWN_CODE
        )
    if len(tokenizer.get_vocab()) <= len(set(tokenizer.all_special_tokens)):
        # transformers makes one of special tokens alone where a folder has no files of one.
        raise SettingsError(
            f"task.model is {name!r}, whose tokenizer has no vocabulary; save the tokenizer that "
            "it was trained with to the folder (tokenizer.save_pretrained)"
        )
    reads_last = getattr(load_config(name), "summary_type", None) == "last"
    tokenizer.padding_side = "left" if reads_last else "right"
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise SettingsError(
                f"task.model is {name!r}, whose tokenizer has no token for padding and none for "
                "the end of a text; set tokenizer.pad_token to one of its tokens and save it"
            )
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise SettingsError(
            f"task.model is {name!r}, whose tokenizer pads with {tokenizer.pad_token!r}, which is "
            "no token of its vocabulary; set tokenizer.pad_token to one that is, and save it"
        )
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
def load_image_processor(name: str, side: int = 0) -> BaseImageProcessor:
    """Load the image processor that belongs to a model, the one that needs no torchvision.

    Parameters
    ----------
    side : int
        Side in pixels of the squares that it is to make; 0 leaves it as it is.

    Raises
    ------
    SettingsError
        The folder or hub id has none that can be read, or one that makes no squares of pixels.
    """
    with readable(name, "image processor"):
        processor = _image_processor(name)
        if not side:
            return processor
        sizes = squares(processor.to_dict(), side)
        if not sizes:
            raise SettingsError(
                f"data.image-size is {side}, but the image processor of {name!r} makes no squares "
                "of pixels; leave it out"
            )
        return _image_processor(name, **sizes)


def _image_processor(name: str, **sizes: dict[str, int]) -> BaseImageProcessor:
    processor: BaseImageProcessor = AutoImageProcessor.from_pretrained(
        find_model(name), backend="pil", **sizes, **OWN_CODE
    )
    return processor


def squares(told: Mapping[str, Any], side: int) -> dict[str, dict[str, int]]:
    """Return the sizes with which an image processor makes squares of ``side`` pixels, by the
    settings of its file: the image is resized to just what is cropped of it. Empty where it makes
    no squares.
    """
    size, square = told.get("size") or {}, {"height": side, "width": side}
    if not told.get("do_resize") or not {"shortest_edge", "height"} & size.keys():
        return {}
    crops = {"crop_size": square} if told.get("do_center_crop") else {}
    shortest = "shortest_edge" in size and (crops or "crop_pct" in told)
    return {"size": {"shortest_edge": side} if shortest else square, **crops}


@contextmanager
def readable(name: str, what: str) -> Iterator[None]:
    """Say in one line that a model cannot be read, and keep transformers quiet."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, SafetensorError, ImportError) as error:
        if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not Path(name).is_dir():
            raise SettingsError(f"task.model: there is no folder {name!r}") from None
        if "trust_remote_code" in str(error):
            raise SettingsError(
                f"task.model is {name!r}, whose {what} has code of its own (auto_map), which is "
                "not run; choose one of an architecture that transformers has"
            ) from None
        lines = str(error).strip().splitlines()
        reason = " ".join(lines[:2] if lines[0].endswith(":") else lines[:1])
        if "attn_implementation" in reason or "FlashAttention" in reason:
            raise SettingsError(
                f"model.attention does not fit {name!r} or this machine: {reason}"
            ) from None
        raise SettingsError(
            f"task.model is {name!r}, which is not a readable {what} folder or hub id: {reason}"
        ) from None
    finally:
        transformers_logging.set_verbosity(verbosity)
