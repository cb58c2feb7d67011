"""Images: the model's own processor, bytes until they are used, and what cannot be read."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny_models import make_tiny_cifar, make_tiny_vit
from transformers import Siglip2Config, Siglip2ForImageClassification, ViTConfig
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from potara_flwr.client.preflight import preflight
from potara_flwr.core.errors import SettingsError
from potara_flwr.data.sources import load_table
from potara_flwr.models.lora import LoraModel
from potara_flwr.run_config import from_flat
from potara_flwr.tasks.base import num_samples, take
from potara_flwr.tasks.image_classification import (
    ImageClassification,
    UnreadableError,
    read_image,
)
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.gradients import per_sample_gradients
from potara_flwr.training.local_steps import train


@pytest.fixture(scope="module")
def tiny_vit(tmp_path_factory):
    return make_tiny_vit(tmp_path_factory.mktemp("models") / "tiny-vit-rgb")


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    return make_tiny_cifar(tmp_path_factory.mktemp("data") / "cifar100")


@pytest.fixture
def settings_of(tiny_vit, cifar):
    def build(overrides=None):
        return from_flat(
            {
                "task.name": "image-classification",
                "task.model": str(tiny_vit),
                "data.path": str(cifar),
                "data.image-column": "img",
                "data.label-column": "fine_label",
                "data.num-clients": 3,
                "data.alpha": 5.0,
                "calibration.samples": 4,
                **(overrides or {}),
            }
        )

    return build


def test_a_batch_is_what_the_image_processor_gives(settings_of, tiny_vit, cifar):
    settings = settings_of(
        {"data.partition": "iid", "data.num-clients": 1, "data.train-samples": 0}
    )
    task = ImageClassification(settings)
    data = task.load_client(0)
    assert data.train["pixel_values"].dtype == torch.uint8
    table = load_table(str(cifar), "", "train")
    processor = ViTImageProcessorPil.from_pretrained(tiny_vit)
    expected = processor(table["img"][:], return_tensors="pt")["pixel_values"]
    found = torch.cat([task.collate(part)["pixel_values"]
                       for part in (data.train, data.calibration, data.test)])  # fmt: skip
    labels = torch.cat([part["labels"] for part in (data.train, data.calibration, data.test)])
    distance = torch.cdist(
        found.flatten(1), expected.flatten(1), compute_mode="donot_use_mm_for_euclid_dist"
    )
    assert distance.min(1).values.max() < 1e-4
    assert sorted(distance.argmin(1).tolist()) == list(range(len(table)))
    assert torch.equal(labels, torch.tensor(table["fine_label"][:])[distance.argmin(1)])


def test_patches_are_what_the_image_processor_gives(settings_of, cifar, tmp_path):
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 24, "patch_size": 8, "num_patches": 16}  # fmt: skip
    text = {**vision, "vocab_size": 40, "projection_size": 16}
    Siglip2ForImageClassification(
        Siglip2Config(vision_config=vision, text_config=text)
    ).save_pretrained(tmp_path)
    # Of at most 20 patches an image of 32 × 32 pixels has 16: the last four are padding.
    processor = Siglip2ImageProcessorPil(patch_size=8, max_num_patches=20)
    processor.save_pretrained(tmp_path)
    settings = settings_of(
        {"task.model": str(tmp_path), "data.partition": "iid", "data.num-clients": 1,
         "data.train-samples": 0}
    )  # fmt: skip
    task = ImageClassification(settings)
    data = task.load_client(0)
    assert data.train["pixel_values"].dtype == torch.uint8
    expected = processor(load_table(str(cifar), "", "train")["img"][:], return_tensors="pt")
    found = task.collate(data.train)
    assert found.keys() == {*expected.keys(), "labels"}
    distance = torch.cdist(
        found["pixel_values"].flatten(1), expected["pixel_values"].flatten(1),
        compute_mode="donot_use_mm_for_euclid_dist",
    )  # fmt: skip
    assert distance.min(1).values.max() < 1e-4
    assert not found["pixel_values"][:, -4:].any()
    for name in ("pixel_attention_mask", "spatial_shapes"):
        assert torch.equal(found[name], expected[name][distance.argmin(1)])
    model = LoraModel(task.load_base_model(), settings.lora, None, 0)
    few = take(data.train, slice(4))
    together = per_sample_gradients(model, task, model.initial, few)
    assert together.batched
    assert torch.allclose(
        together.losses[1], task.losses(*_alone(model, task, few, 1))[0], atol=1e-5
    )


def _alone(model, task, samples, row):
    batch = task.collate(take(samples, slice(row, row + 1)))
    return model(model.initial, batch), batch


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessorPil(),
        BitImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
        ConvNextImageProcessorPil(),  # resizes by a share that it crops
    ],
    ids=lambda processor: type(processor).__name__,
)
def test_images_are_squares_of_the_side_in_the_settings(settings_of, processor, tmp_path):
    ViTConfig(image_size=32).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    task = ImageClassification(
        settings_of({"task.model": str(tmp_path), "data.image-size": 24, "data.num-clients": 1})
    )
    assert task.load_client(0).train["pixel_values"].shape[1:] == (3, 24, 24)


def test_a_size_that_model_or_processor_does_not_take_is_one_clear_line(settings_of, tmp_path):
    bench = Workbench(settings_of({"data.image-size": 24, "data.num-clients": 1}))
    with pytest.raises(SettingsError, match=r"doesn't match model .*data\.image-size"):
        preflight(bench, bench.client(0))
    Siglip2ImageProcessorPil().save_pretrained(tmp_path)
    ViTConfig().save_pretrained(tmp_path)
    patches = {"task.model": str(tmp_path), "data.image-size": 24}
    with pytest.raises(SettingsError, match="makes no squares of pixels; leave it out"):
        ImageClassification(settings_of(patches)).load_client(0)


def test_a_class_that_only_test_images_have_is_an_error(settings_of, cifar, tmp_path):
    for split in ("train", "test"):
        table = load_table(str(cifar), "", split)
        if split == "train":
            table = table.filter(lambda label: label != 4, input_columns="fine_label")
        table.to_parquet(tmp_path / f"{split}-00000-of-00001.parquet")
    settings = settings_of({"data.path": str(tmp_path), "data.test-split": "test"})
    words = r"row 4 has the label 'class 4', which no training sample has: class 0, .* 3$"
    with pytest.raises(SettingsError, match=words):
        ImageClassification(settings).load_client(0)


def test_images_behind_a_table_of_paths_are_read_again_when_they_change(settings_of, tmp_path):
    files = []
    for index in range(24):
        files.append(tmp_path / f"{index}.png")
        Image.new("RGB", (16, 16), (index, 0, 0)).save(files[-1])
    table = tmp_path / "table.csv"
    lines = [f"{file},{'ab'[index % 2]}" for index, file in enumerate(files)]
    table.write_text("\n".join(["img,fine_label", *lines]))
    settings = settings_of({"data.path": str(table), "data.num-clients": 1})

    def red():
        data = ImageClassification(settings).load_client(0)
        return int(max(data.train["pixel_values"].max(), data.test["pixel_values"].max()))

    assert red() < 30
    for file in files:
        Image.new("RGB", (16, 16), (200, 0, 0)).save(file)
    assert red() == 200
    lacking = tmp_path / "lacking.csv"
    lacking.write_text("\n".join(["img,fine_label", *lines, ",a"]))
    settings = settings_of({"data.path": str(lacking), "data.num-clients": 1})
    with pytest.raises(SettingsError, match=r"of client 0: row 24 has no image"):
        ImageClassification(settings).load_client(0)


@pytest.mark.parametrize("relative", [False, True])
def test_a_folder_per_class_and_a_table_of_paths_give_the_same_images(
    settings_of, tmp_path, relative
):
    rows = []
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(20):
            file = tmp_path / "images" / name / f"{index:02}.png"
            Image.fromarray(np.full((20, 20), 10 * label + index, dtype=np.uint8)).save(file)
            path = file.relative_to(tmp_path) if relative else file
            rows.append({"file": str(path), "animal": name})
    pd.DataFrame(rows).to_csv(tmp_path / "images.csv", index=False)
    one, two = (
        ImageClassification(
            settings_of(
                {
                    "data.path": str(tmp_path / path),
                    "data.image-column": image,
                    "data.label-column": label,
                    "data.num-clients": 1,
                }
            )
        ).load_client(0)
        for path, image, label in (("images", "image", "label"), ("images.csv", "file", "animal"))
    )
    assert num_samples(one.train) == 20
    for name, tensor in one.train.items():
        assert torch.equal(tensor, two.train[name])


def test_the_head_gets_the_classes_of_the_data_and_learns(settings_of):
    bench = Workbench(settings_of({"data.num-clients": 1, "train.learning-rate": 0.02}))
    assert bench.model.initial[list(bench.model.initial)[-1]].shape == (5,)
    data = bench.client(0)
    adapter, first = train(
        bench.model, bench.task, bench.model.initial, data.train, bench.settings.train,
        steps=10, seed=0, who="x",
    )  # fmt: skip
    _, later = train(
        bench.model, bench.task, adapter, data.train, bench.settings.train,
        steps=10, seed=0, who="x",
    )  # fmt: skip
    assert later < 0.8 * first


def test_what_is_no_image_is_one_clear_line(settings_of, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    rows = [
        {"file": str(tmp_path / "broken.png"), "number": 1, "label": at % 2} for at in range(30)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    base = {"data.path": str(tmp_path / "table.csv"), "data.label-column": "label",
            "data.num-clients": 1}  # fmt: skip
    for column, words in (
        (
            "file",
            r"table.csv, column 'file', of client 0: row 0 .broken.png. cannot be read: cannot",
        ),
        ("number", "column 'number' of table.csv holds no images"),
        ("image", "data.image-column is 'image', but table.csv has the columns file"),
    ):
        with pytest.raises(SettingsError, match=words) as error:
            ImageClassification(settings_of({**base, "data.image-column": column})).load_client(0)
        assert "\n" not in str(error.value)


def test_a_model_without_an_image_processor_says_so(settings_of, tiny_model):
    with pytest.raises(SettingsError, match="not a readable image processor") as error:
        ImageClassification(settings_of({"task.model": str(tiny_model)})).load_client(0)
    assert "\n" not in str(error.value)


def test_an_image_that_cannot_be_read_is_named_with_its_row(tmp_path, monkeypatch):
    huge = tmp_path / "huge.png"
    Image.new("1", (64, 64)).save(huge)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    half = tmp_path / "half.png"
    half.write_bytes(huge.read_bytes()[:60])
    for file, reason in ((huge, "exceeds limit"), (half, "cannot be read: ")):
        with pytest.raises(UnreadableError, match=rf"row 7 \({file.name}\) .*{reason}"):
            read_image({"bytes": None, "path": str(file)}, "RGB", 7)


PICTURE = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3)).astype(np.uint8)
EDGES = (PICTURE > 127) * np.uint8(255)
GREY = np.repeat(PICTURE[..., :1], 3, axis=3)
CLEAR = np.where(np.arange(16)[:, None] < 8, 255, 0) * np.ones((16, 16), dtype=np.int64)


def turned(picture):
    """Lying on its side, with the note of a camera that it does."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return Image.fromarray(np.rot90(picture, k=1).copy()), {"exif": exif}


OF_EVERY_KIND = {
    "orientation": (PICTURE, "png", turned),
    "16 bits": (GREY, "png", lambda p: (Image.fromarray(p[..., 0].astype(np.uint16) * 257), {})),
    "16 bits tiff": (
        GREY, "tiff", lambda p: (Image.fromarray(p[..., 0].astype(np.uint16) * 257), {}),
    ),
    "32 bits": (GREY, "tiff", lambda p: (Image.fromarray(p[..., 0].astype(np.int32) * 257), {})),
    "float": (GREY, "tiff", lambda p: (Image.fromarray(p[..., 0].astype(np.float32) / 255), {})),
    "grey": (GREY, "png", lambda p: (Image.fromarray(p[..., 0]), {})),
    "palette": (EDGES, "gif", lambda p: (Image.fromarray(p).quantize(8), {})),
    "CMYK": (PICTURE, "tiff", lambda p: (Image.fromarray(p).convert("CMYK"), {})),
    "1 bit": (
        np.repeat(EDGES[..., :1], 3, axis=3), "png", lambda p: (Image.fromarray(p[..., 0] > 0), {}),
    ),
    "RGBA": (
        np.where(CLEAR[None, ..., None] > 0, PICTURE, 255).astype(np.uint8), "png",
        lambda p: (Image.fromarray(np.dstack([p, CLEAR.astype(np.uint8)])), {}),
    ),
}  # fmt: skip


def folder_of_classes(root, pictures, suffix, kind):
    for number, picture in enumerate(pictures):
        file = root / "ab"[number % 2] / f"{number:02}.{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        image, options = kind(picture)
        image.save(file, **options)
    return root


@pytest.mark.parametrize("kind", list(OF_EVERY_KIND))
def test_an_image_of_any_kind_is_its_upright_8_bit_colour_twin(settings_of, tmp_path, kind):
    pictures, suffix, made = OF_EVERY_KIND[kind]
    base = {"data.image-column": "image", "data.label-column": "label", "data.num-clients": 1}
    twins = folder_of_classes(
        tmp_path / "twins", pictures, "png", lambda p: (Image.fromarray(p), {})
    )
    images = folder_of_classes(tmp_path / "images", pictures, suffix, made)
    assert made(pictures[0])[0].tobytes() != pictures[0].tobytes()
    found, expected = (
        ImageClassification(settings_of({**base, "data.path": str(folder)})).load_client(0)
        for folder in (images, twins)
    )
    for part in ("train", "calibration", "test"):
        one, other = getattr(found, part), getattr(expected, part)
        assert torch.equal(one["labels"], other["labels"])
        assert torch.equal(one["pixel_values"], other["pixel_values"])
    assert len({tuple(image.flatten().tolist()) for image in expected.train["pixel_values"]}) > 10


def test_an_image_beyond_the_range_of_its_kind_is_named_with_row_and_file(settings_of, tmp_path):
    def bright(picture):
        return Image.fromarray(picture[..., 0].astype(np.float32)), {}

    folder = folder_of_classes(tmp_path / "scans", PICTURE, "tiff", bright)
    base = {"data.image-column": "image", "data.label-column": "label", "data.num-clients": 1}
    words = (
        r"scans, column 'image', of client 0: row \d+ \(\d\d.tiff\) cannot be read: it has .* 1;"
    )
    with pytest.raises(SettingsError, match=words):
        ImageClassification(settings_of({**base, "data.path": str(folder)})).load_client(0)
