"""Images of every kind against the 8-bit twin of the same picture."""

import io

import numpy as np
import pytest
from PIL import Image

from potara_flwr.data.pixels import eight_bits

GREY = np.random.default_rng(0).integers(0, 256, (6, 8)).astype(np.uint8)
GREY[0, 0], GREY[0, 1] = 0, 255
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 8, 3)).astype(np.uint8)


def stored(array, form, mode=None, **options):
    """An image as it is read from a file of some form."""
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, form, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


@pytest.mark.parametrize(
    ("array", "form"),
    [
        (GREY, "PNG"),
        (GREY.astype(np.uint16) * 257, "PNG"),
        (GREY.astype(np.uint16) * 257, "TIFF"),
        (GREY.astype(np.int32) * 257, "TIFF"),
        ((GREY / 255).astype(np.float32), "TIFF"),
    ],
    ids=["8", "16 png", "16 tiff", "32 tiff", "float"],
)
def test_grey_images_are_scaled_not_clipped(array, form):
    assert np.array_equal(np.asarray(eight_bits(stored(array, form), "L")), GREY)
    assert np.array_equal(np.asarray(eight_bits(stored(array, form), "RGB"))[..., 1], GREY)


def test_a_dark_image_of_16_bits_stays_dark():
    dark = np.full((4, 4), 200, dtype=np.uint16)
    assert np.asarray(eight_bits(stored(dark, "PNG"), "L")).max() == 1


def test_a_dark_image_of_floats_stays_dark():
    dark = np.full((4, 4), 2 / 255, dtype=np.float32)
    assert np.asarray(eight_bits(stored(dark, "TIFF"), "L")).max() == 2


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (-1.0, np.float32),
        (float("nan"), np.float32),
        (float("inf"), np.float32),
        (1.5, np.float32),
        (255.0, np.float32),
        (-1, np.int32),
        (65536, np.int32),
    ],
)
def test_values_beyond_the_one_range_of_a_kind_are_refused(value, kind):
    array = (GREY / 255).astype(np.float32) if kind is np.float32 else GREY.astype(kind)
    array[2, 2] = value
    with pytest.raises(ValueError, match=r"it has the value .* read as 0 … (1|65535); scale them"):
        eight_bits(stored(array, "TIFF"), "L")


@pytest.mark.parametrize("kind", ["RGBA", "LA", "palette"])
def test_what_is_transparent_is_composed_over_white(kind):
    alpha = np.where(np.arange(8) < 4, 255, 0).astype(np.uint8) * np.ones((6, 1), dtype=np.uint8)
    grey = np.zeros((6, 8), dtype=np.uint8)
    if kind == "RGBA":
        image = stored(np.dstack([grey, grey, grey, alpha]), "PNG")
    elif kind == "LA":
        image = stored(Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]), "PNG")
    else:
        palette = Image.fromarray((alpha == 0).astype(np.uint8), "P")
        palette.putpalette([0, 0, 0, 0, 0, 0])
        image = stored(palette, "PNG", transparency=1)
    expected = 255 - alpha
    assert np.array_equal(np.asarray(eight_bits(image, "RGB"))[..., 0], expected)


def test_half_transparent_is_half_white():
    image = stored(np.full((2, 2, 4), (100, 100, 100, 128), dtype=np.uint8), "PNG")
    # 100 · 128/255 + 255 · 127/255 = 177.2
    assert np.asarray(eight_bits(image, "RGB"))[0, 0].tolist() == pytest.approx([177] * 3, abs=1)


def test_the_orientation_of_a_camera_is_honoured():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise
    turned = eight_bits(stored(COLOUR, "PNG", exif=exif), "RGB")
    assert np.array_equal(np.asarray(turned), np.rot90(COLOUR, k=-1))


def test_palettes_cmyk_and_one_bit_are_right():
    few = (COLOUR // 128) * 255
    palette = stored(Image.fromarray(few).quantize(8), "PNG")
    assert palette.mode == "P"
    assert np.array_equal(np.asarray(eight_bits(palette, "RGB")), few)
    cmyk = stored(few, "TIFF", "CMYK")
    assert cmyk.mode == "CMYK"
    assert np.array_equal(np.asarray(eight_bits(cmyk, "RGB")), few)
    black = GREY > 127
    one = stored(Image.fromarray(black), "PNG")
    assert one.mode == "1"
    assert np.array_equal(np.asarray(eight_bits(one, "L")), black * np.uint8(255))
