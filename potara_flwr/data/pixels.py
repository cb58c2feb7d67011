"""Images of any kind as 8-bit images, as a viewer would show them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of grey images with 16 bits."""


def eight_bits(image: Image.Image, mode: str) -> Image.Image:
    """Return an image of any kind with 8 bits a channel.

    Every kind has one range, whatever a single image holds, so that equal values look equal in all
    images: integers of 16 or 32 bits are scaled from 0 … 65,535, floats from 0 … 1. What is
    transparent is composed over white, and the orientation of a camera is honoured.

    Parameters
    ----------
    mode : str
        ``RGB`` or ``L`` (grey).

    Raises
    ------
    ValueError
        A value is no number, or beyond the range of its kind.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode in (*SIXTEEN_BITS, "I", "F"):
        image = Image.fromarray(_scaled(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(mode)


def _scaled(image: Image.Image) -> np.ndarray:
    """Return a grey image of more than 8 bits as bytes."""
    values = np.asarray(image).astype(np.float64)
    full, words = (1.0, "0 … 1") if image.mode == "F" else (65535.0, "0 … 65535")
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= full):
        beyond = high if high > full else low
        kind = "floats" if image.mode == "F" else f"integers (mode {image.mode})"
        raise ValueError(
            f"it has the value {beyond:g}, but images of {kind} are read as {words}; scale them"
        )
    return np.round(values * (255 / full)).astype(np.uint8)
