"""Runs with the same settings are known as such, and settings that differ are named."""

import pytest

from potara_flwr.core.errors import SettingsError
from potara_flwr.run_config import from_flat
from potara_flwr.settings.fingerprint import check_same, differences, fingerprint


def test_equal_settings_have_equal_fingerprints():
    config = from_flat({"run.results": "/a"}).computed()
    backwards = dict(reversed(from_flat({"run.results": "/b"}).computed().items()))
    assert fingerprint(config) == fingerprint(backwards)
    assert fingerprint(config) != fingerprint(from_flat({"seed": 1}).computed())


def test_differences_are_told_with_both_values():
    config = from_flat({}).computed()
    assert differences(config, config) == {}
    other = from_flat({"lora.rank": 2}).computed()
    del other["lora"]["dropout"]
    assert differences(config, other) == {"lora.rank": (4, 2), "lora.dropout": (0.0, None)}


def test_settings_that_differ_are_named():
    settings = from_flat({"lora.rank": 2, "task.head": "local"})
    check_same(settings, settings.computed(), "run.resume", "/a")
    with pytest.raises(SettingsError) as error:
        check_same(settings, from_flat({"lora.alpha": 3.0}).computed(), "run.resume", "/a")
    assert "run.resume: the run in /a had other settings" in str(error.value)
    for words in (
        'task.head is "local", there "shared"', "lora.rank is 2, there 4",
        "lora.alpha is 8.0, there 3.0",
    ):  # fmt: skip
        assert words in str(error.value)
    older = from_flat({}).computed()
    del older["lora"]["dropout"]
    with pytest.raises(SettingsError, match=r"lora\.dropout is 0\.0, there null"):
        check_same(from_flat({}), older, "run.resume", "/a")
