"""Where base models come from: embedded, a local folder, or the Hugging Face hub."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

import torch
from safetensors import SafetensorError
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from potara_flwr.errors import SettingsError
from potara_flwr.seeds import derive_seed

EMBEDDED = ("digits-vit",)


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


def load_image_classifier(name: str, num_labels: int) -> PreTrainedModel:
    """Load an image classifier with its head through transformers, in eval mode, float32.

    Raises
    ------
    SettingsError
        The folder or hub id cannot be read, or its head has another number of classes.
    """
    with _readable(name, "image-classification model"):
        model: PreTrainedModel = AutoModelForImageClassification.from_pretrained(
            find_model(name), dtype="float32"
        )
    if model.config.num_labels != num_labels:
        raise SettingsError(
            f"task.model is {name!r}, whose head has {model.config.num_labels} classes; the task "
            f"has {num_labels}"
        )
    return model


def load_text_classifier(name: str, num_labels: int, seed: int) -> PreTrainedModel:
    """Load a text encoder through transformers, in eval mode, float32.

    A head that the pretrained model lacks, or that has another number of classes, is made from
    ``seed``.

    Raises
    ------
    SettingsError
        The folder or hub id cannot be read.
    """
    with _readable(name, "text-classification model"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "task head"))
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            find_model(name),
            dtype="float32",
            num_labels=num_labels,
            ignore_mismatched_sizes=True,
        )
    return model


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer that belongs to a model.

    Raises
    ------
    SettingsError
        The folder or hub id has none that can be read.
    """
    with _readable(name, "tokenizer"):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(find_model(name))
    return tokenizer


@contextmanager
def _readable(name: str, what: str) -> Iterator[None]:
    """Say in one line that a model cannot be read, and keep transformers quiet."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SettingsError(
            f"task.model is {name!r}, which is not a readable {what} folder or hub id: {reason}"
        ) from None
    finally:
        transformers_logging.set_verbosity(verbosity)
