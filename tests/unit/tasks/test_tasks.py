"""Digits: whose images are whose, how they are turned, and what cannot be split."""

import hashlib

import pytest
import torch

from potara_flwr.core.errors import SettingsError
from potara_flwr.models.base_models import load_image_classifier
from potara_flwr.models.pretrained import find_model
from potara_flwr.run_config import from_flat
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import num_samples, split_client
from potara_flwr.tasks.digits import Digits, load_images, split_images


def images_of(samples):
    return {image.numpy().tobytes() for image in samples["pixel_values"]}


def test_pretraining_and_client_images_never_overlap():
    pretraining, clients = split_images()
    assert len(pretraining) == 2000
    assert len(clients) == 3000
    assert sorted(torch.cat([pretraining, clients]).tolist()) == list(range(5000))


@pytest.mark.parametrize("seed", [0, 1])
def test_no_image_is_in_two_places(seed):
    settings = from_flat({"seed": seed, "data.shift": "shared"})
    parts = []
    for client in range(8):
        data = Digits(settings).load_client(client)
        assert num_samples(data.calibration) == 30
        assert 0 < num_samples(data.train) <= 100
        parts += [images_of(data.train), images_of(data.calibration), images_of(data.test)]
    assert sum(map(len, parts)) == len(set().union(*parts))


def test_pretraining_images_are_no_clients_images():
    # Turned by no angle and by every angle: a rotation must not hide an overlap.
    images, _ = load_images()
    pretraining, _ = split_images()
    seen = {image.numpy().tobytes() for image in images[pretraining]}
    settings = from_flat({})
    for client in range(8):
        data = Digits(settings).load_client(client)
        for part in (data.train, data.calibration, data.test):
            upright = torch.rot90(part["pixel_values"], -client % 4, dims=(-2, -1))
            assert not images_of({"pixel_values": upright.contiguous()}) & seen


def test_conflicting_clients_see_four_rotations_and_shared_ones_one():
    upright = {image.numpy().tobytes() for image in load_images()[0]}
    for shift, turns in (("conflicting", [0, 1, 2, 3, 0]), ("shared", [1] * 5)):
        settings = from_flat({"data.shift": shift})
        for client, turn in enumerate(turns):
            images = Digits(settings).load_client(client).test["pixel_values"]
            back = torch.rot90(images, -turn, dims=(-2, -1)).contiguous()
            assert images_of({"pixel_values": back}) <= upright


@pytest.mark.parametrize(
    ("overrides", "sizes", "digest"),
    [
        ({}, [381, 381, 306, 422, 395, 525, 185, 405], "2b71fcecf9109676"),
        ({"seed": 1}, [397, 346, 477, 422, 428, 285, 223, 422], "14b46b6c5931e712"),
    ],
)
def test_the_partition_behind_the_published_numbers_stays(overrides, sizes, digest):
    settings = from_flat({**overrides, "data.shift": "shared", "data.train-samples": 0})
    total = hashlib.sha256()
    found = []
    for client in range(8):
        data = Digits(settings).load_client(client)
        parts = (data.train, data.calibration, data.test)
        found.append(sum(map(num_samples, parts)))
        for part in parts:
            total.update((part["pixel_values"] > 0).numpy().tobytes())
            total.update(part["labels"].numpy().tobytes())
    assert found == sizes
    assert total.hexdigest()[:16] == digest


def test_label_skew_follows_alpha():
    def largest_share(alpha):
        data = Digits(from_flat({"data.alpha": alpha, "calibration.samples": 5})).load_client(0)
        counts = torch.bincount(torch.cat([data.train["labels"], data.test["labels"]]))
        return (counts.max() / counts.sum()).item()

    assert largest_share(0.1) > 0.3 > largest_share(100.0)


@pytest.mark.parametrize("source", ["training", "held-out"])
def test_the_parts_of_a_client_are_apart_whatever_calibrates(source):
    data = Digits(from_flat({"calibration.source": source})).load_client(0)
    parts = [images_of(data.train), images_of(data.calibration), images_of(data.test)]
    assert len(set.union(*parts)) == sum(map(len, parts))


def split_error(size: int, tested: torch.Tensor | None = None, **overrides) -> str:
    with pytest.raises(SettingsError) as error:
        split_client(from_flat(overrides), 5, size, tested)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_cannot_be_split_names_client_and_numbers():
    assert "client 5 has no test data" in split_error(2)
    message = split_error(40)
    assert "calibration.samples is 30, more than client 5 has" in message
    assert "its 40 samples" in message


def test_the_remedy_for_no_test_data_is_one_that_helps():
    assert "raise data.test-fraction, lower data.num-clients or raise data.alpha" in split_error(2)
    given = split_error(40, torch.zeros(40, dtype=torch.bool), **{"data.partition": "iid"})
    assert given.endswith("none is for testing; lower data.num-clients")


def test_held_out_calibration_leaves_at_least_one_training_sample():
    settings = from_flat({"calibration.samples": 5, "data.test-fraction": 0.4})
    parts, _ = split_client(settings, 0, 10)
    assert {name: len(part) for name, part in parts.items()} == {
        "test": 4, "calibration": 5, "train": 1,
    }  # fmt: skip


def test_too_skewed_for_so_many_clients_is_one_clear_line():
    with pytest.raises(SettingsError, match=r"raise data\.alpha"):
        Digits(from_flat({"data.alpha": 1e-3, "data.num-clients": 500})).load_client(0)


def test_the_embedded_model_is_small_and_good():
    model = Digits(Settings()).load_base_model()
    folder = find_model("digits-vit")
    assert sum(file.stat().st_size for file in __import__("pathlib").Path(folder).iterdir()) <= 2e6
    images, labels = load_images()
    _, clients = split_images()
    with torch.no_grad():
        logits = model(pixel_values=images[clients[:500]]).logits
    assert (logits.argmax(-1) == labels[clients[:500]]).float().mean() > 0.9


def test_an_unreadable_model_folder_is_one_clear_line(tmp_path, tiny_model):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text((tiny_model / "config.json").read_text())
    (broken / "model.safetensors").write_bytes(b"not a model")
    for name in (tmp_path, tmp_path / "nothing", broken, "no/such-model"):
        with pytest.raises(SettingsError, match=r"task\.model") as error:
            load_image_classifier(from_flat({"task.model": str(name)}), num_classes=10)
        assert "\n" not in str(error.value)


def test_the_embedded_model_is_found_from_a_copy_without_weights(monkeypatch, tmp_path):
    from potara_flwr.models import pretrained

    monkeypatch.setattr(pretrained, "__file__", str(tmp_path / "potara_flwr" / "pretrained.py"))
    folder = __import__("pathlib").Path(find_model("digits-vit"))
    assert (folder / "model.safetensors").is_file()
    assert tmp_path not in folder.parents


def test_an_embedded_model_that_is_not_installed_says_so(monkeypatch, tmp_path):
    from potara_flwr.models import pretrained

    monkeypatch.setattr(pretrained, "__file__", str(tmp_path / "pretrained.py"))
    monkeypatch.setattr(pretrained, "_installed_packages", list)
    with pytest.raises(SettingsError, match="install the package"):
        find_model("digits-vit")
