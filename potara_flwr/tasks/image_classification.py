"""Classes of images, from any data set with a column of images and one of labels.

Images are resized and cropped once by the model's own image processor and kept as bytes, a quarter
of the memory of what the model takes; a batch is scaled and normalized when it is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn
from transformers import BaseImageProcessor

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.lazy import lazy
from potara_flwr.data import pixels
from potara_flwr.data.clients import Source, client_rows, content_rows, source_of
from potara_flwr.data.pixels import eight_bits
from potara_flwr.data.prepared import POSITION, Columns, prepare_rows
from potara_flwr.models.base_models import load_image_classifier
from potara_flwr.models.pretrained import find_model, load_config, load_image_processor, squares
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import ClientData, Inputs, Samples
from potara_flwr.tasks.classification import Classification, client_data
from potara_flwr.tasks.usage import Usage

if TYPE_CHECKING:
    import datasets
else:
    datasets = lazy("datasets")


TOLD = (
    "image_processor_type", "do_resize", "size", "resample", "do_center_crop", "crop_size",
    "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std",
)  # fmt: skip
"""Settings of an image processor that are told on a model card."""

AS_NAMED = "path as the table names it"
"""Column that takes the place of the paths of images."""

PATCHES = "pixel_attention_mask"
"""Model input that says which patches of an image are none of the padding."""
BESIDES = (PATCHES, "spatial_shapes")
"""What an image processor gives next to pixels, for a model that takes patches."""


class ImageClassification(Classification):
    """Classification of images by any model with a head for it."""

    auto_class = "AutoModelForImageClassification"
    content = "image"

    def load_base_model(self) -> nn.Module:
        """Load the model, with a head of as many classes as the data has."""
        return load_image_classifier(self.settings, len(self.classes))

    def processor(self) -> BaseImageProcessor:
        """Return the model's image processor."""
        return load_image_processor(self.settings.task.model, self.settings.data.image_size)

    def usage(self) -> Usage:
        """Return how images are classified."""
        name = self.settings.task.model
        side = self.settings.data.image_size
        told = load_image_processor(name, side).to_dict()
        sizes = "".join(f", {what}={size}" for what, size in squares(told, side).items() if side)
        shown = ", ".join(f"{key} {told[key]}" for key in TOLD if told.get(key) is not None)
        return Usage(
            imports=("AutoImageProcessor",),
            loads=f"""processor = AutoImageProcessor.from_pretrained(
    {find_model(name)!r}, backend="pil"{sizes}
)""",
            inputs=f"`images`: a list of PIL images. The processor: {shown}.",
            runs=f"""inputs = processor(
    [image.convert({image_mode(name)!r}) for image in images], return_tensors="pt"
).to(base.dtype)
with torch.no_grad():
    logits = model(**inputs)[0]
predicted = [model.config.id2label[at] for at in logits.argmax(-1).tolist()]""",
        )

    def load_client(self, client: int) -> ClientData:
        """Load the images of one client: bytes (n, channels, height, width), and their scale."""
        held = client_rows(self.settings, client, self.content)

        def prepare(
            rows: datasets.Dataset, positions: Tensor, labels: Tensor
        ) -> tuple[Samples, int]:
            who = f"client {client}"
            images = image_samples(rows, positions, held.source, self.settings, who)
            return {**images, "labels": labels}, 0

        return client_data(self.settings, client, held, prepare)

    def load_inputs(self) -> Inputs:
        """Load all images of ``data.path``, as :meth:`load_client` does those of a client."""
        source = source_of(self.settings.data, 0, self.content)
        rows = content_rows(source)
        positions = torch.arange(len(rows))
        samples = image_samples(rows, positions, source, self.settings)
        return Inputs({**samples, "labels": torch.zeros_like(positions)})

    def collate(self, samples: Samples) -> Samples:
        """Scale and normalize the images: pixel · gain − offset, 0 in what pads patches."""
        pixels = samples["pixel_values"] * samples["gain"] - samples["offset"]
        if PATCHES in samples:
            pixels = pixels * samples[PATCHES][..., None]
        others = {name: at for name, at in samples.items() if name not in ("gain", "offset")}
        return {**others, "pixel_values": pixels}


def image_mode(model: str) -> str:
    """Return which images a model takes, as PIL calls it."""
    return "L" if getattr(load_config(model), "num_channels", 3) == 1 else "RGB"


def stored_images(
    rows: datasets.Dataset, source: Source
) -> tuple[datasets.Dataset, list[tuple[int, int] | None]]:
    """Return images as they are stored, undecoded; of those that are files named by a table, also
    their states.

    Raises
    ------
    SettingsError
        The column holds no images; names source and column.
    """
    ((setting, column),) = source.contents
    states: list[tuple[int, int] | None] = []
    if getattr(rows.features[column], "dtype", "") in ("string", "large_string"):
        paths = [source.beside(name) for name in rows[column]]
        states = [_state(name) for name in paths]
        if paths != rows[column][:]:
            rows = rows.rename_column(column, AS_NAMED).add_column(column, paths)
        rows = rows.cast_column(column, datasets.Image())  # paths of files, e.g. in a csv
    if not isinstance(rows.features[column], datasets.Image):
        raise SettingsError(f"{setting}: column {column!r} of {source.where} holds no images")
    return rows.cast_column(column, datasets.Image(decode=False)), states


def image_samples(
    rows: datasets.Dataset, positions: Tensor, source: Source, settings: Settings, who: str = ""
) -> Samples:
    """Bring images to the size of the model.

    Parameters
    ----------
    who : str
        Whose they are, for error messages: a client, or, by default, whoever has the source.

    Returns
    -------
    dict
        ``pixel_values`` (n, channels, height, width), uint8; ``gain`` and ``offset`` (n, channels,
        1, 1), with which pixel · gain − offset is what the image processor gives. Of a model that
        takes patches (SigLIP 2): (n, patches, numbers of a patch) and (n, 1, numbers of a patch),
        ``pixel_attention_mask`` (n, patches) and ``spatial_shapes`` (n, 2).

    Raises
    ------
    SettingsError
        The column holds no images, or one cannot be read; names source, column and client.
    """
    ((setting, column),) = source.contents
    model = settings.task.model
    processor = load_image_processor(model, settings.data.image_size)
    mode = image_mode(model)
    version = inspect.getsource(pixels)
    rows, states = stored_images(rows, source)

    def resized(columns: Columns) -> Columns:
        images = [
            read_image(stored, mode, position)
            for stored, position in zip(columns[column], columns[POSITION], strict=True)
        ]
        with _usable(model):
            made = processor(images, do_rescale=False, do_normalize=False, return_tensors="np")
            arrays = [array.astype(np.uint8) for array in made["pixel_values"]]
        others = {name: [*map(np.ndarray.tolist, made[name])] for name in BESIDES if name in made}
        return {
            "pixels": [array.tobytes() for array in arrays],
            "shape": [array.shape for array in arrays],
            **others,
        }

    try:
        prepared = prepare_rows(
            rows,
            resized,
            column,
            mode,
            processor.to_json_string(),
            states,
            version,
            positions=positions.tolist(),
        )
    except UnreadableError as error:
        of_whom = f", of {who}" if who else ""
        raise SettingsError(
            f"{setting}: {source.where}, column {column!r}{of_whom}: {error}"
        ) from None
    shapes = {tuple(shape) for shape in prepared["shape"][:]}
    if len(shapes) > 1:
        found = " and ".join(map(str, sorted(shapes)[:2]))
        raise unusable(model, f"it gives images of different shapes, {found}")
    arrays = [
        np.frombuffer(stored, dtype=np.uint8).reshape(shape)
        for stored, shape in zip(prepared["pixels"][:], prepared["shape"][:], strict=True)
    ]
    others = {
        name: torch.tensor(prepared[name][:]) for name in BESIDES if name in prepared.column_names
    }
    with _usable(model):
        gain, offset = scale_of(processor, arrays[0].shape, channels=len(mode))
        first = read_image(rows[0][column], mode, int(positions[0]))
        whole = torch.from_numpy(processor([first], return_tensors="np")["pixel_values"][0])
        ours = torch.from_numpy(arrays[0].copy()) * gain - offset
        if PATCHES in others:
            ours = ours * others[PATCHES][0][:, None]
        if ours.shape != whole.shape or ((ours - whole).abs() > 1.01 * gain.abs()).any():
            raise ValueError("it does more to pixels than to scale and normalize them")
    n = len(arrays)
    return {
        "pixel_values": torch.from_numpy(np.stack(arrays)),
        "gain": gain.expand(n, *gain.shape),
        "offset": offset.expand(n, *offset.shape),
        **others,
    }


def unusable(model: str, reason: str) -> SettingsError:
    """Return the error of an image processor that cannot prepare images for the model."""
    return SettingsError(
        f"task.model is {model!r}, whose image processor cannot be used: {reason}; mend its "
        "preprocessor_config.json (size, rescale_factor, image_mean, image_std)"
    )


@contextmanager
def _usable(model: str) -> Iterator[None]:
    """Say in one line that an image processor cannot prepare images."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise unusable(model, f"{type(error).__name__}: {reason[:300]}") from error


class UnreadableError(Exception):
    """An image that cannot be read; says which and why."""


def read_image(stored: dict[str, Any] | None, mode: str, position: int) -> PIL.Image.Image:
    """Return an image as `datasets` stores it, its bytes or its file, with 8 bits a channel.

    Raises
    ------
    UnreadableError
        There is none, or it cannot be read; names row and file.
    """
    if stored is None:
        raise UnreadableError(f"row {position} has no image")
    name = Path(stored["path"] or "").name
    try:
        image = datasets.Image().decode_example(stored)
        return eight_bits(image, mode)
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        reason = str(error).strip().splitlines()[0]
        file = f" ({name})" if name else ""
        raise UnreadableError(f"row {position}{file} cannot be read: {reason}") from None


def _state(name: str | None) -> tuple[int, int] | None:
    """Return size and time of change of an image file, by which one that has changed is known."""
    file = Path(name or "")
    return (file.stat().st_size, file.stat().st_mtime_ns) if file.is_file() else None


def scale_of(processor: Any, shape: tuple[int, ...], channels: int) -> tuple[Tensor, Tensor]:
    """Return gain and offset of an image processor for images of a shape, (channels, 1, 1) each; of
    patches (patches, numbers), whose last numbers are the channels of a pixel, (1, numbers).

    It scales bytes by ``rescale_factor`` and then subtracts ``image_mean`` and divides by
    ``image_std`` (https://huggingface.co/docs/transformers/main_classes/image_processor).
    """
    gain, offset = torch.ones(channels), torch.zeros(channels)
    if processor.do_rescale:
        gain = gain * processor.rescale_factor
    if processor.do_normalize:
        std = torch.tensor(processor.image_std)
        gain, offset = gain / std, torch.tensor(processor.image_mean) / std
    if len(shape) == 2:
        times = shape[1] // channels
        return gain.repeat(times)[None], offset.repeat(times)[None]
    return gain.reshape(-1, 1, 1), offset.reshape(-1, 1, 1)
