"""Images of four domains from those of one: each image is seen through one of four corruptions."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from potara_flwr.core.storage import write_whole

SEED = 0
"""Of which image gets which corruption; one for all runs, as the domains are part of the data."""


def blurred(image: Image.Image) -> Image.Image:
    """Blur with a Gaussian of radius 1 pixel, of 32."""
    return image.filter(ImageFilter.GaussianBlur(1))


def low_in_contrast(image: Image.Image) -> Image.Image:
    """Keep three tenths of the contrast."""
    return ImageEnhance.Contrast(image).enhance(0.3)


def grey(image: Image.Image) -> Image.Image:
    """Take the colours away."""
    return image.convert("L").convert("RGB")


def compressed(image: Image.Image) -> Image.Image:
    """Store as JPEG of quality 10, and read it again."""
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=10)
    return Image.open(stored).convert("RGB")


DOMAINS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blur": blurred,
    "low contrast": low_in_contrast,
    "grey": grey,
    "JPEG": compressed,
}


def write_domains(source: Path, target: Path) -> None:
    """Write a table of images (columns ``image``, ``label``) once more, each seen through one
    corruption by chance, which the column ``domain`` names; the file is written whole or not at
    all.
    """
    table = datasets.load_dataset("parquet", data_files=str(source), split="train")
    names = list(DOMAINS)
    chosen = np.random.default_rng(SEED).integers(len(names), size=len(table))

    def seen(row: dict[str, object], at: int) -> dict[str, object]:
        name, image = names[chosen[at]], row["image"]
        assert isinstance(image, Image.Image)
        return {"image": DOMAINS[name](image.convert("RGB")), "domain": name}

    stored = io.BytesIO()
    table.map(seen, with_indices=True, keep_in_memory=True).to_parquet(stored)
    write_whole(target, stored.getvalue())
