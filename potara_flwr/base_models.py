"""Where base models come from: embedded, a local folder, or the Hugging Face hub."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from safetensors import SafetensorError
from transformers import AutoModelForImageClassification, PreTrainedModel
from transformers.utils import logging as transformers_logging

from potara_flwr.errors import SettingsError

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
    """Load an image classifier through transformers, in eval mode, float32.

    Raises
    ------
    SettingsError
        The folder or hub id cannot be read, or its head has another number of classes.
    """
    folder = find_model(name)
    transformers_logging.disable_progress_bar()
    try:
        model: PreTrainedModel = AutoModelForImageClassification.from_pretrained(
            folder, dtype="float32"
        )
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SettingsError(
            f"task.model is {name!r}, which is not a readable image-classification model folder "
            f"or hub id: {reason}"
        ) from None
    if model.config.num_labels != num_labels:
        raise SettingsError(
            f"task.model is {name!r}, whose head has {model.config.num_labels} classes; the task "
            f"has {num_labels}"
        )
    return model
