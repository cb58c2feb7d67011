"""Folders of images: all of them are used, or what is left out is said, or refused."""

import logging

import pytest
from PIL import Image

from potara_flwr.core.errors import SettingsError
from potara_flwr.data.sources import load_table


def folder_of(root, *names):
    """Write an image for each name; its colour is its place in the list."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(root / name)
    return str(root)


def classes_in(table):
    names = table.features["label"].names
    return sorted(names[label] for label in table["label"])


def error_of(path, split="train"):
    with pytest.raises(SettingsError) as error:
        load_table(path, "", split)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("classes", "files"),
    [
        (("cat", "dog"), ("IMG_0.png", "train_1.png", "test-2.bmp", "val 3.png", "eval.png")),
        (("bus", "car", "train"), ("0.png", "1.png")),
        (("dev", "test", "none"), ("0.png", "1.PNG")),
        (("train set", "cat"), ("0.png",)),
        (("a[1]", "b?", "c*"), ("x[2].png", "{y}.png")),
        (("cat",), ("0.png", "1.png")),
    ],
)
@pytest.mark.parametrize("below", ["photos", "photos[1]", "train", "photos/images", "test/all"])
def test_every_image_is_used_whatever_files_and_classes_are_called(tmp_path, classes, files, below):
    names = [
        f"{below.partition('/')[2] or '.'}/{name}/{file}" for name in classes for file in files
    ]
    path = folder_of(tmp_path / below.partition("/")[0], *names)
    table = load_table(path, "", "train")
    assert classes_in(table) == sorted(classes * len(files))
    assert sorted(image.getpixel((0, 0))[0] for image in table["image"]) == list(range(len(table)))


@pytest.mark.parametrize("around", ["", "data/"])
@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "eval_set")])
def test_folders_of_splits_that_hold_folders_of_classes_are_splits(tmp_path, around, train, test):
    names = [f"{train}/{name}/test_{n}.png" for name in ("cat", "train") for n in range(2)]
    path = folder_of(tmp_path / "photos", *(around + n for n in [*names, f"{test}/cat/train.png"]))
    assert classes_in(load_table(path, "", "train")) == ["cat", "cat", "train", "train"]
    assert classes_in(load_table(path, "", "test")) == ["cat"]
    assert len(load_table(path, "", "train[:1]")) == 1


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a.png", "b.png"], "2 of its 2 images are not in CLASS/"),
        (["cat/1.png", "dog/1.png", "stray.png"], "1 of its 3 images are not in CLASS/"),
        (["cat/1.png", "dog/old/1.png"], "e.g. dog/old/1.png"),
        (["cat/patient1/1.png", "dog/patient2/1.png"], "2 of its 2 images are not in CLASS/"),
        (["train/cat/1.png", "train/dog/1.png", "extra/dog/1.png"], "not in CLASS/"),
        (["train/cat/1.png", "test/dog/1.png", "test/dog/old/1.png"], "1 of its 3 images are not"),
        (["train/1.png", "test/1.png"], "test, train, which may be splits or classes"),
    ],
)
def test_images_whose_class_cannot_be_told_are_refused(tmp_path, names, words):
    line = error_of(folder_of(tmp_path / "photos", *names))
    assert line.startswith("data.path: photos")
    assert words in line


def test_files_that_are_no_images_are_said_with_their_number(tmp_path, caplog):
    names = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(10)]
    path = folder_of(tmp_path / "photos", *names)
    for name in ("notes.txt", "cat/.DS_Store", "dog/Thumbs.db", "dog/3.xml"):
        (tmp_path / "photos" / name).write_text("x")
    (tmp_path / "photos" / "fish").mkdir()
    with caplog.at_level(logging.WARNING):
        assert len(load_table(path, "", "train")) == 20
    assert (
        "3 of its 23 files are no images and are not used: dog/3.xml, dog/Thumbs.db" in caplog.text
    )
    assert "its folder fish holds no images" in caplog.text


def test_many_files_that_are_no_images_are_refused(tmp_path):
    path = folder_of(tmp_path / "photos", "cat/1.png", "dog/2.png", "dog/3.png")
    for number in range(4, 9):
        (tmp_path / "photos" / "dog" / f"{number}.heic").write_text("x")
    assert "5 files in its folders of images are no images that can be read, next to 3" in error_of(
        path
    )


def test_metadata_says_what_the_images_of_a_folder_are(tmp_path):
    names = [f"train_{number}.png" for number in range(3)] + ["test_3.png", "IMG_4.png"]
    path = folder_of(tmp_path / "photos", *names)
    lines = [f"{name},{number % 2}" for number, name in enumerate(names)]
    (tmp_path / "photos" / "metadata.csv").write_text("\n".join(["file_name,kind", *lines]))
    assert load_table(path, "", "train")["kind"][:] == [0, 1, 0, 1, 0]


def test_images_that_metadata_leaves_out_are_said_or_refused(tmp_path, caplog):
    names = [f"{number}.png" for number in range(12)]
    for left_out, folder in ((1, "few"), (3, "many")):
        path = folder_of(tmp_path / folder, *names)
        lines = [f'{{"file_name": "{name}", "label": "x"}}' for name in names[left_out:]]
        (tmp_path / folder / "metadata.jsonl").write_text("\n".join(lines))
        if folder == "few":
            with caplog.at_level(logging.WARNING):
                assert len(load_table(path, "", "train")) == 11
            assert "1 of its 12 images are in no line of the metadata" in caplog.text
        else:
            assert "3 of its 12 images are in no line of the metadata" in error_of(path)


def test_splits_with_metadata_of_their_own_are_splits(tmp_path):
    path = folder_of(tmp_path / "photos", "train/a.png", "train/b.png", "test/c.png")
    for split, names in (("train", "ab"), ("test", "c")):
        lines = ["file_name,label", *(f"{name}.png,{name}" for name in names)]
        (tmp_path / "photos" / split / "metadata.csv").write_text("\n".join(lines))
    assert load_table(path, "", "train")["label"][:] == ["a", "b"]
    assert load_table(path, "", "test")["label"][:] == ["c"]


@pytest.mark.parametrize("suffix", ["txt", "json"])
def test_a_file_next_to_each_image_is_no_table(tmp_path, suffix):
    names = [f"{name}/{number}.png" for name in ("cat", "dog") for number in range(3)]
    path = folder_of(tmp_path / "photos", *names)
    for name in names:
        (tmp_path / "photos" / name).with_suffix(f".{suffix}").write_text("{}")
    assert len(load_table(path, "", "train")) == 6


def test_a_link_to_nothing_is_refused_by_name_unless_it_is_hidden(tmp_path):
    path = folder_of(tmp_path / "photos", "cat/0.png", "dog/1.png")
    (tmp_path / "photos" / "cat" / ".#0.png").symlink_to("nobody@here")
    assert len(load_table(path, "", "train")) == 2
    path = folder_of(tmp_path / "more", "cat/0.png", "dog/1.png")
    (tmp_path / "more" / "dog" / "2.png").symlink_to(tmp_path / "gone.png")
    said = error_of(path)
    assert said.startswith("data.path: more: dog/2.png is a link to ")
    assert said.endswith("gone.png, which is not there; mend it or remove it")
