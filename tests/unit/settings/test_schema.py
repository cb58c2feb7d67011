"""Settings: typed, ranged, with the nearest name, and the same in the project file and the docs."""

import tomllib
from pathlib import Path

import pytest
from flwr.common.config import flatten_dict

from potara_flwr.core.errors import SettingsError
from potara_flwr.run_config import from_flat
from potara_flwr.settings.schema import Settings, schema, settings_table

ROOT = Path(__file__).parents[3]


def error_of(values: dict) -> str:
    with pytest.raises(SettingsError) as error:
        from_flat(values)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_defaults_go_there_and_back():
    assert from_flat(Settings().to_flat()) == Settings()
    assert list(Settings().to_flat()) == [name for name, _ in schema()]


def test_flower_run_config_has_every_setting_with_its_default():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    config = flatten_dict(project["tool"]["flwr"]["app"]["config"])
    assert config == Settings().to_flat()
    assert {name: type(value) for name, value in config.items()} == {
        name: type(value) for name, value in Settings().to_flat().items()
    }


def test_the_settings_page_has_the_generated_table():
    assert settings_table() in (ROOT / "docs" / "reference" / "settings.md").read_text()


def test_every_setting_is_described():
    assert all(field.description for _, field in schema())


def test_an_integer_is_taken_for_a_number():
    assert from_flat({"data.alpha": 1}).data.alpha == 1.0


def test_a_number_is_taken_for_a_text():
    settings = from_flat({"data.classes": 3, "data.name": 1.5})
    assert (settings.data.classes, settings.data.name) == ("3", "1.5")


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"lora.rnk": 2}, ["unknown setting 'lora.rnk'", "did you mean lora.rank?"]),
        ({"lora.use_dora": True}, ["lora.use_dora is no setting: DoRA", "lora.rslora"]),
        ({"lora.dora": True}, ["lora.dora is no setting: DoRA"]),
        ({"lora.bias": "all"}, ["lora.bias is no setting", "those of the base model"]),
        ({"lora.init-lora-weights": "pissa"}, ["is no setting", "PiSSA"]),
        ({"lora.rank": "two"}, ["lora.rank", "'two'", "an integer ≥ 1"]),
        ({"lora.rank": 2.5}, ["lora.rank", "an integer ≥ 1"]),
        ({"lora.rank": True}, ["lora.rank", "an integer ≥ 1"]),
        ({"lora.rank": 0}, ["lora.rank", "0", "an integer ≥ 1"]),
        ({"data.alpha": 0.0}, ["data.alpha", "a number > 0"]),
        ({"data.alpha": -1}, ["data.alpha", "a number > 0"]),
        ({"data.alpha": float("nan")}, ["data.alpha", "a number > 0"]),
        ({"data.num-clients": 0}, ["data.num-clients", "an integer ≥ 1"]),
        ({"data.test-fraction": 1.0}, ["data.test-fraction", "a number > 0 and < 1"]),
        ({"data.partition": "random"}, ["data.partition", "one of dirichlet, pathological"]),
        ({"model.dtype": "float16"}, ["model.dtype", "one of float32, bfloat16"]),
        ({"merge.svd": "yes"}, ["merge.svd", "true or false"]),
        ({"merge.space": "sum"}, ["merge.space", "one of factors, delta"]),
        ({"merge.rule": "variance"}, ["merge.rule", "did you mean variance-trace?"]),
        ({"task.name": "digit"}, ["task.name", "did you mean digits?"]),
        ({"method": "fedit-ft"}, ["method", "did you mean fedit_ft?"]),
        (
            {"method": "fedsa_lora", "federation.aggregation": "exact"},
            ["federation.aggregation=exact", "fedsa_lora sends no B"],
        ),
        ({"lora.ranks": "2,0,4"}, ["lora.ranks is '2,0,4'", "ranks from 1", "e.g. 2,4,8"]),
        ({"lora.ranks": "2,,4"}, ["lora.ranks is '2,,4'", "e.g. 2,4,8"]),
        ({"lora.ranks": "2,-4"}, ["lora.ranks is '2,-4'", "e.g. 2,4,8"]),
        ({"lora.ranks": "2,half"}, ["lora.ranks is '2,half'", "e.g. 2,4,8"]),
        ({"lora.ranks": "2,8"}, ["largest of lora.ranks is 8", "lora.rank, ", "is 4"]),
        ({"lora.ranks": "1,2"}, ["largest of lora.ranks is 2", "is 4; make them equal"]),
        (
            {"lora.ranks": "2,4,4", "data.num-clients": 2},
            ["lora.ranks has 3 ranks", "data.num-clients is 2"],
        ),
        ({"lora.ranks": "2,4", "lora.rank-pattern": "q=2"}, ["lora.rank-pattern", "empty one"]),
        (
            {"lora.ranks": "2,4", "method": "ffa_lora", "federation.aggregation": "exact"},
            ["method=ffa_lora sends no A; use factors"],
        ),
        (
            {
                "lora.ranks": "2,4",
                "privacy.clipping-norm": 1.0,
                "federation.weighting": "uniform",
                "federation.transport": "float32",
            },
            ["privacy.clipping-norm", "empty lora.ranks"],
        ),
        ({"federation.rounds": -1}, ["federation.rounds", "an integer ≥ 0"]),
        ({"task.model": True}, ["task.model", "a text"]),
    ],
)
def test_a_wrong_setting_says_what_is_wrong_and_what_is_allowed(values, parts):
    message = error_of(values)
    for part in parts:
        assert part in message


def test_the_results_folder_decides_no_number():
    assert "run" not in from_flat({"run.results": "/somewhere"}).computed()


def test_a_run_goes_on_in_one_folder():
    both = error_of({"run.resume": "/a", "run.personalize-only": "/a"})
    assert "run.resume and run.personalize-only are both given" in both
    assert "leave out run.results" in error_of({"run.resume": "/a", "run.results": "/b"})
    assert from_flat({"run.resume": "/a", "run.results": "/a"}).run.earlier == ("run.resume", "/a")
    only = from_flat({"run.personalize-only": "/a"})
    assert only.run.earlier == ("run.personalize-only", "/a")
    assert from_flat({}).run.earlier == ("", "")
    assert only.computed() == from_flat({}).computed()


def test_clients_have_the_ranks_in_turn():
    settings = from_flat({"lora.ranks": "2, 4,8", "lora.rank": 8, "data.num-clients": 5})
    ranks = [settings.rank_of(client) for client in range(6)]
    assert ranks == [2, 4, 8, 2, 4, None]  # the run has no client 5
    assert from_flat({"lora.ranks": 4}).rank_of(1) == 4
    assert from_flat({}).rank_of(0) is None
