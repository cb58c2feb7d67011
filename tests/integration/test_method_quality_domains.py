"""CIFAR-10 in four domains: every image once, each through the corruption that its row names."""

import datasets
import numpy as np
import pytest
from PIL import Image

from simulations.method_quality.domains import DOMAINS, write_domains

pytestmark = pytest.mark.integration


@pytest.fixture
def images():
    """Forty noisy images of 32 pixels."""
    draw = np.random.default_rng(0)
    return [
        Image.fromarray(draw.integers(256, size=(32, 32, 3), dtype=np.uint8)) for _ in range(40)
    ]


@pytest.fixture
def seen(tmp_path, images):
    """They as they are in their domains."""
    source, target = tmp_path / "images.parquet", tmp_path / "domains.parquet"
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    rows = {"image": images, "label": list(range(len(images)))}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(source)
    write_domains(source, target)
    return datasets.load_dataset(
        "parquet", data_files=str(target), split="train", cache_dir=str(tmp_path / "cache")
    )


def test_every_image_is_in_one_domain(seen, images):
    assert seen["label"] == list(range(len(images)))
    assert set(seen["domain"]) == set(DOMAINS)


def test_a_domain_shows_its_images_as_its_name_says(seen, images):
    pixels = [np.asarray(image, dtype=float) for image in seen["image"]]
    before = [np.asarray(image, dtype=float) for image in images]
    for was, now, domain in zip(before, pixels, seen["domain"], strict=True):
        assert now.shape == was.shape
        contrast = now.std() / was.std()
        colour = np.ptp(now, axis=2).mean()
        if domain == "grey":
            assert colour == 0
        elif domain == "low contrast":
            assert contrast == pytest.approx(0.3, abs=0.02)
        elif domain == "blur":
            assert contrast < 0.5
            assert colour > 0
        else:
            assert not np.array_equal(was, now)
