"""Images whose class is the colour that is strongest in them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def write_coloured_images(folder: Path, classes: Sequence[str], number: int) -> Path:
    """Write images of 24 × 20 pixels to a folder a class, of three; return the folder above."""
    draws = np.random.default_rng(0)
    for at in range(number):
        pixels = draws.integers(0, 90, (20, 24, 3), dtype=np.uint8)
        pixels[..., at % 3] += 60
        place = folder / classes[at % 3] / f"{at}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place)
    return folder
