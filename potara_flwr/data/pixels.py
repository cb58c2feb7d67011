"""Images of any kind as 8-bit images, as a viewer would show them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of grey images with 16 bits."""


def eight_bits(image: Image.Image, mode: str) -> Image.Image:
    """Return an image of any kind with 8 bits a channel.

    16-bit images are scaled from 0 … 65,535; 32-bit ones from there too where no value is beyond,
    else from 0 … 2³¹ − 1; float ones from 0 … 1, 0 … 255 or 0 … 65,535, the first that holds all
    values. What is transparent is composed over white, and the orientation of a camera
    is honoured.

    Parameters
    ----------
    mode : str
        ``RGB`` or ``L`` (grey).

    Raises
    ------
    ValueError
        A value is negative, no number, or beyond all these ranges.
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
    low, high = values.min(), values.max()
    if not (np.isfinite(values).all() and low >= 0):
        raise ValueError(f"it has the value {low:g}: values must be numbers from 0")
    ranges = [65535.0]
    if image.mode == "I" and image.format != "PNG":  # Pillow has 16-bit PNG as I or I;16
        ranges = [65535.0, 2.0**31 - 1]
    elif image.mode == "F":
        ranges = [1.0, 255.0, 65535.0]
    for full in ranges:
        if high <= full:
            return np.round(values * (255 / full)).astype(np.uint8)
    raise ValueError(f"it has the value {high:g}; scale its values to 0 … 1")
