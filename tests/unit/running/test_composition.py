"""Hydra's files and words: every preset loads, every value is checked, every error is one line."""

import tomllib
from pathlib import Path

import pytest
import yaml
from run_words import words_of

from potara_flwr.core.errors import SettingsError
from potara_flwr.run_config import from_flat
from potara_flwr.running.composition import (
    CONF,
    INSTALLED,
    compose_settings,
    compose_sweep,
    preset_names,
)
from potara_flwr.settings.schema import Settings

ROOT = Path(__file__).parents[3]


def header_of(file):
    return file.read_text().split("\n\n")[0]


def test_every_file_in_conf_is_a_config_or_a_preset():
    files = {str(file.relative_to(CONF)) for file in CONF.rglob("*.yaml")}
    presets = {f"experiment/{name}.yaml" for name in preset_names()}
    assert files == {"config.yaml", "sweep.yaml", *presets}
    assert {"digits", "paper"} <= set(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_valid_and_says_how_to_run_it(name):
    file = CONF / "experiment" / f"{name}.yaml"
    settings = compose_settings([f"experiment={name}"])
    content = yaml.safe_load(file.read_text())
    for group, values in content.items():
        if group != "defaults":
            assert settings.model_dump(by_alias=True)[group].items() >= values.items()
    assert f"potara run experiment={name}" in header_of(file)
    assert "Reproduces" in header_of(file)


def test_a_wheel_holds_the_files_where_they_are_looked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included["conf"] == str(INSTALLED.relative_to(ROOT))
    assert CONF == ROOT / "conf"


@pytest.mark.parametrize("name", ["config", "sweep"])
def test_a_config_says_how_it_is_used(name):
    assert "potara " in header_of(CONF / f"{name}.yaml")


def test_nothing_given_is_the_schema():
    assert compose_settings([]) == Settings()


def test_digits_is_the_default():
    assert compose_settings(["experiment=digits"]) == Settings()


def test_paper_is_the_paper():
    settings = compose_settings(["experiment=paper"])
    assert settings.merge.rule == "variance-trace"
    assert settings.merge.space == "factors"
    assert not settings.merge.fallback
    assert settings.local.start == "cold"
    assert (settings.calibration.samples, settings.calibration.source) == (30, "training")


def test_what_is_given_holds_over_a_preset_wherever_it_stands():
    settings = compose_settings(["merge.rule=grid", "experiment=paper", "local.start=warm"])
    assert settings.merge.rule == "grid"
    assert settings.local.start == "warm"
    assert settings.calibration.source == "training"


def test_values_are_read_by_hydras_grammar():
    settings = compose_settings(
        ["seed=3", "data.alpha=1", "merge.svd=true", "merge.rule=segment", "data.shift='shared'",
         "lora.target-modules='q_proj,k_proj'", "task.model='some/folder=x (y)'",
         "train.learning-rate=1e-4"]
    )  # fmt: skip
    assert settings.seed == 3
    assert settings.data.alpha == 1.0
    assert settings.merge.svd is True
    assert settings.merge.rule == "segment"
    assert settings.data.shift == "shared"
    assert settings.lora.target_modules == "q_proj,k_proj"
    assert settings.task.model == "some/folder=x (y)"
    assert settings.train.learning_rate == 1e-4


def test_every_setting_can_be_given(tiny):
    settings = tiny({"merge.svd": True, "seed": 5})
    assert compose_settings(words_of(settings)) == settings


ERRORS = [
    ("lora.rank", "write name=value"),
    ("task.model=a b(", "with quotes"),
    ("lora.rnk=2", "unknown setting 'lora.rnk'; did you mean lora.rank?"),
    ("lora.use-dora=true", "lora.use-dora is no setting: DoRA scales every output"),
    ("+lora.foo=2", "unknown setting 'lora.foo'"),
    ("lora.rank-pattern='q_proj'", "must be modules with a rank from 1 each, e.g. q_proj=16"),
    ("lora=2", "unknown setting 'lora'"),
    ("lora/rank=2", "unknown setting 'lora/rank'"),
    ("lora.rank=two", "lora.rank is 'two', but must be an integer ≥ 1"),
    ("lora.rank=0", "lora.rank is 0, but must be an integer ≥ 1"),
    ("lora.rank=[1,2]", "lora.rank is [1, 2], but must be an integer ≥ 1"),
    ("lora.rank=null", "lora.rank is None"),
    ("experiment=papr", "there is no experiment=papr; did you mean "),
    ("experiment=zzz", "there are cifar10-dinov2, "),
    ("task.model=${foo}", "foo"),
]


@pytest.mark.parametrize(("word", "part"), ERRORS)
@pytest.mark.parametrize("compose", [compose_settings, compose_sweep])
def test_a_wrong_word_is_one_line(compose, word, part):
    with pytest.raises(SettingsError) as error:
        compose([word])
    assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("word", "part"),
    [("seed=1,2", "potara sweep"), ("hydra/launcher=basic", "is for sweeps")],
)
def test_what_belongs_to_a_sweep_is_no_single_run(word, part):
    with pytest.raises(SettingsError, match=part):
        compose_settings([word])


def test_a_sweep_has_a_run_for_each_combination_in_order():
    _, runs = compose_sweep(["experiment=digits,paper", "lora.rank=2,4", "seed=range(1,3)"])
    assert [words for words, _ in runs] == [
        [f"experiment={name}", f"lora.rank={rank}", f"seed={seed}"]
        for name in ("digits", "paper") for rank in (2, 4) for seed in (1, 2)
    ]  # fmt: skip
    paper = compose_settings(["experiment=paper", "lora.rank=4", "seed=1"])
    assert runs[6][1] == paper
    assert runs[0][1] == from_flat({"lora.rank": 2, "seed": 1})


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("hydra/launcher=rya", "there is no hydra/launcher=rya"),
        ("hydra.foo=1", "hydra.foo"),
        ("hydra.sweep.dir=/x", "--results"),
        ("lora.rank=interval(2,4)", "INTERVAL"),
        ("lora.rank=2,0", "lora.rank is 0"),
    ],
)
def test_a_wrong_word_of_a_sweep_is_one_line(word, part):
    with pytest.raises(SettingsError) as error:
        compose_sweep([word])
    assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_a_launcher_that_lacks_names_what_to_install(monkeypatch):
    from hydra.core.config_store import ConfigStore

    compose_sweep(["hydra/launcher=ray"])
    store = ConfigStore.instance()
    monkeypatch.delitem(store.repo["hydra"]["launcher"], "ray.yaml")
    with pytest.raises(SettingsError, match=r"potara-flwr\[ray-sweeps\]"):
        compose_sweep(["hydra/launcher=ray"])


def test_a_file_of_ones_own_is_a_preset(tmp_path):
    own = tmp_path / "digits.yaml"  # a name that a preset has
    own.write_text("defaults: [digits-tiny]\nlora: {rank: 3}\n")
    tiny = compose_settings(["experiment=digits-tiny"])
    settings = compose_settings([f"experiment={own}", "seed=7"])
    assert settings.lora.rank == 3
    assert settings.seed == 7
    assert settings.train == tiny.train
    _, runs = compose_sweep([f"experiment={own},digits", "seed=1,2"])
    assert [(run.lora.rank, run.seed) for _, run in runs] == [(3, 1), (3, 2), (4, 1), (4, 2)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no such file"),
        ("[1, 2]", "holds no settings; potara presets digits prints a file that does"),
        ("a: [", "cannot be read: while parsing a flow node"),
        ("lora: {rang: 3}", "unknown setting 'lora.rang'; did you mean lora.rank?"),
    ],
)
def test_a_file_that_is_no_preset_is_one_line(tmp_path, content, reason):
    own = tmp_path / "mine.yaml"
    if content is not None:
        own.write_text(content)
    with pytest.raises(SettingsError) as error:
        compose_settings([f"experiment={own}"])
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
