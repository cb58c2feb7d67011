"""Presets: every file in conf/experiment loads, says how to run it, and is found by its name."""

import pytest

from potara_flwr.config import Settings, from_flat
from potara_flwr.errors import SettingsError
from simulations.presets import FOLDER, load_preset, preset_names
from simulations.run import parse_settings


def test_there_are_presets():
    assert {"digits", "paper"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_loads_and_says_how_to_run_it(name):
    assert from_flat(load_preset(name)) == parse_settings([f"experiment={name}"])
    header = (FOLDER / f"{name}.yaml").read_text().split("\n\n")[0]
    assert f"python -m simulations.run experiment={name}" in header
    assert "Reproduces" in header


def test_digits_is_the_default():
    assert from_flat(load_preset("digits")) == Settings()


def test_paper_is_the_paper():
    settings = from_flat(load_preset("paper"))
    assert settings.merge.rule == "variance-trace"
    assert settings.merge.space == "factors"
    assert not settings.merge.fallback
    assert settings.local.start == "cold"
    assert (settings.calibration.samples, settings.calibration.source) == (30, "training")


def test_a_later_word_holds():
    settings = parse_settings(["merge.rule=grid", "experiment=paper", "local.start=warm"])
    assert settings.merge.rule == "variance-trace"
    assert settings.local.start == "warm"


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(SettingsError, match="did you mean paper"):
        load_preset("papr")
