"""Settings from the command line: Hydra composes them, the one schema checks them.

``conf/config.yaml`` takes every setting at its default from the schema, a preset's from
``conf/experiment``, then those of the command line. A sweep's words have several values
(``lora.rank=2,4``) and stand for a run each. What Hydra has to say comes out in one line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from potara_flwr.core.errors import SettingsError, nearest
from potara_flwr.run_config import from_flat
from potara_flwr.settings.schema import Settings, flat, schema, unknown

INSTALLED = Path(__file__).parents[1] / "conf"
CONF = INSTALLED if INSTALLED.is_dir() else Path(__file__).parents[2] / "conf"
"""Hydra's files: a wheel holds them in the package, a clone at its top."""

VERSION_BASE = "1.3"
FILES = (".yaml", ".yml")
GROUPS = ("experiment",)
"""What the command line may name besides settings: a file in a folder of ``conf``."""


ConfigStore.instance().store(
    name="schema", node=OmegaConf.create(Settings().model_dump(by_alias=True))
)


def preset_names() -> list[str]:
    """Return the names of all presets."""
    return sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))


def preset_file(name: str) -> Path:
    """Return the file of a preset.

    Raises
    ------
    SettingsError
        There is no such preset.
    """
    if name not in preset_names():
        raise SettingsError(f"there is no preset {name!r}{nearest(name, preset_names())}")
    return CONF / "experiment" / f"{name}.yaml"


def summary_of(name: str) -> str:
    """Return the first sentence at the head of a preset's file."""
    lines = preset_file(name).read_text().splitlines()[1:]
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    text = " ".join(line.removeprefix("#").strip() for line in comment)
    return text.partition(". ")[0].rstrip(".")


def compose_settings(words: Sequence[str]) -> Settings:
    """Return the settings of one run from its words, e.g. ``experiment=paper seed=3``.

    Raises
    ------
    SettingsError
        A word is no ``name=value`` or has several values, there is no such preset, or a setting
        is unknown, ill-typed or out of range.
    """
    with hydra():
        words = taking_up_files(words)
        _check_single(parse_words(words))
        return settings_of(compose("config", list(words)))


def values_of(words: Sequence[str]) -> dict[str, Any]:
    """Return the values of settings that words give, by name, yet unchecked.

    Raises
    ------
    SettingsError
        A word is no ``name=value`` or has several values, or there is no such setting.
    """
    known = dict(schema())
    with hydra():
        overrides = parse_words(words)
        _check_single(overrides)
        for override in overrides:
            if override.key_or_group not in known:
                raise SettingsError(
                    f"{override.input_line!r} is a preset, which is for runs; name single settings"
                )
        return {override.key_or_group: override.value() for override in overrides}


def _check_single(overrides: Sequence[Override]) -> None:
    """Check that words stand for one run."""
    for override in overrides:
        if override.is_hydra_override():
            raise SettingsError(f"{override.input_line!r} is for sweeps: potara sweep")
        if override.is_sweep_override():
            raise SettingsError(
                f"{override.input_line!r} has several values: write a text with commas as "
                f"{override.key_or_group}=\"'…'\", or sweep with potara sweep"
            )


def compose_sweep(words: Sequence[str]) -> tuple[DictConfig, list[tuple[list[str], Settings]]]:
    """Return Hydra's own settings of a sweep, and the words and settings of each of its runs.

    Raises
    ------
    SettingsError
        As for one run.
    """
    with hydra():
        words = taking_up_files(words)
        for override in parse_words(words):
            if override.key_or_group.startswith("hydra.sweep."):
                raise SettingsError(
                    f"{override.key_or_group}: name the sweep's folder by --results"
                )
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("sweep", list(words), RunMode.MULTIRUN)
        given = OmegaConf.to_container(config.hydra.overrides.task)
        overrides = OverridesParser.create(loader).parse_overrides(given)  # type: ignore[arg-type]
        (runs,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
        return config, [(run, settings_of(compose("config", run))) for run in runs]


def taking_up_files(words: Sequence[str]) -> list[str]:
    """Make each file that is named as a preset, such as ``experiment=./mine.yaml``, a preset of its
    own; return the words with its name.

    Raises
    ------
    SettingsError
        A file is not there, cannot be read, or holds no settings.
    """
    taken = []
    for word in words:
        name, sign, text = word.partition("=")
        if sign and name in GROUPS:
            values = [_taken_up(v) if v.endswith(FILES) else v for v in text.split(",")]
            word = f"{name}={','.join(values)}"
        taken.append(word)
    return taken


def _taken_up(text: str) -> str:
    """Store a preset file for Hydra; return the name that it has there."""
    file = Path(text).expanduser()
    if not file.is_file():
        raise SettingsError(f"experiment={text}: there is no such file")
    try:
        content = OmegaConf.load(file)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(f"experiment={text} cannot be read: {reason}") from None
    if not isinstance(content, DictConfig):
        raise SettingsError(
            f"experiment={text} holds no settings; potara presets digits prints a file that does"
        )
    name = f"own-{re.sub(r'[^0-9A-Za-z_-]', '-', file.stem)}"
    ConfigStore.instance().store(group="experiment", name=name, node=content, package="_global_")
    return name


def settings_of(config: DictConfig) -> Settings:
    """Return what Hydra has composed as settings.

    Raises
    ------
    SettingsError
        A setting is unknown, ill-typed or out of range.
    """
    nested: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return from_flat(flat(nested))


def parse_words(words: Sequence[str]) -> list[Override]:
    """Parse the words of a command line with Hydra's grammar.

    Raises
    ------
    SettingsError
        A word is no ``name=value``, or its name is unknown.
    """
    known = dict(schema())
    overrides = OverridesParser.create().parse_overrides(list(words))
    for override in overrides:
        name = override.key_or_group
        if override.is_hydra_override() or name in GROUPS or name in known:
            continue
        raise SettingsError(unknown(name))
    return overrides


@contextmanager
def hydra() -> Iterator[None]:
    """Make Hydra ready to compose; what it raises becomes one line.

    Raises
    ------
    SettingsError
        Hydra cannot read or compose what it is given.
    """
    try:
        with initialize_config_dir(str(CONF), version_base=VERSION_BASE):
            yield
    except OverrideParseException as error:
        raise SettingsError(
            f"{error.override!r} is no setting: write name=value, e.g. lora.rank=8, with quotes "
            "around a text that has spaces, commas or signs: name=\"'a, b'\""
        ) from None
    except MissingConfigException as error:
        raise SettingsError(_missing(error)) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise SettingsError(str(error).partition("\n")[0]) from None


def _missing(error: MissingConfigException) -> str:
    """Say in one line which file there is not, and which one is nearest."""
    group, _, name = (error.missing_cfg_file or "").rpartition("/")
    if f"{group}={name}" == "hydra/launcher=ray":
        return f"{group}={name} needs a package: pip install 'potara-flwr[ray-sweeps]'"
    return f"there is no {group}={name}{nearest(name, error.options or (), 'there are')}"
