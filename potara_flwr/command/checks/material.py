"""What the settings name: the base model, the data, and the hub they may come from."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from potara_flwr.client.preflight import preflight
from potara_flwr.command.checks.check import Check, fail, ok
from potara_flwr.core.errors import PotaraError, SettingsError
from potara_flwr.data.benchmarks import BENCHMARKS
from potara_flwr.data.sources import FORMATS, listed
from potara_flwr.models.pretrained import EMBEDDED, find_model, load_config
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks import TASKS
from potara_flwr.tasks.base import num_samples
from potara_flwr.tasks.workbench import Workbench

SECONDS = 10
"""To wait for the hub."""
OFFLINE = "unset HF_HUB_OFFLINE to download it once, or name a folder"


class Hub:
    """The Hugging Face hub, and the part of it that is in this machine's cache."""

    @property
    def offline(self) -> bool:
        """Whether the environment says that nothing may be downloaded."""
        from huggingface_hub.constants import is_offline_mode

        return is_offline_mode()

    def cached(self, kind: str, name: str) -> Path | None:
        """Return the folder of a ``model`` or ``dataset`` in the cache, if it is there."""
        from huggingface_hub.constants import HF_HUB_CACHE

        repository = Path(HF_HUB_CACHE) / "--".join([f"{kind}s", *name.split("/")])
        newest = repository / "refs" / "main"
        if newest.is_file():
            return repository / "snapshots" / newest.read_text().strip()
        return None

    def ask(self, kind: str, name: str) -> str:
        """Ask the hub for a model or data set; return why it is not to be had, or nothing."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

        api = HfApi()
        look_up: Callable[..., object] = api.model_info if kind == "model" else api.dataset_info
        try:
            look_up(name, timeout=SECONDS)
        except HFValidationError:
            return "it is no name that the hub could have"
        except RepositoryNotFoundError:
            return "the hub does not have it, or not for you: hf auth login"
        except OSError as error:
            return f"the hub cannot be reached ({type(error).__name__})"
        return ""


def check_model(settings: Settings, hub: Hub) -> Check:
    """Check that the base model is whole, here or on the hub; its weights are not read."""
    name = settings.task.model
    try:
        place = Path(find_model(name))
    except SettingsError as error:
        return fail("model", str(error), "pip install --editable . in the project folder")
    if place.is_dir():
        problem = folder_problem(place)
        if problem:
            return fail("model", f"{name}: {problem}", "set task.model to a whole model folder")
        return ok("model", f"{name}: {place}, {weight_bytes(place) / 1e6:.1f} MB of weights")
    if not may_be_on_hub(name):
        return fail("model", f"{name}: there is no such folder", "mend task.model")
    folder = hub.cached("model", name)
    problem = folder_problem(folder) if folder else "it is not in the cache"
    if not problem:
        return ok("model", f"{name}: in the cache")
    return _from_hub("model", name, problem, hub)


def folder_problem(folder: Path) -> str:
    """Say what a model folder lacks; nothing if its configuration and weights are whole."""
    try:
        load_config(str(folder))
    except SettingsError as error:
        return str(error)
    weights = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(json.loads(index.read_text())["weight_map"].values())
        if missing := names - {file.name for file in weights}:
            return f"{', '.join(sorted(missing))} of its weights are missing"
    for file in weights:
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError as error:
            return f"{file.name} is damaged: {error}"
    if not weights and not list(folder.glob("*.bin")):
        return "it has no weights"
    return ""


def weight_bytes(folder: Path) -> int:
    """Return the size of a model's weights."""
    files = [*folder.glob("*.safetensors")] or [*folder.glob("*.bin")]
    return sum(file.stat().st_size for file in files)


def check_data(settings: Settings, hub: Hub) -> Check:
    """Check that client 0 gets its samples; what would be downloaded is only asked for."""
    for name in hub_names(settings):
        if not hub.cached("dataset", name):
            return _from_hub("data", name, "it is not in the cache", hub)
    try:
        client = TASKS[settings.task.name](settings).load_client(0)
    except SettingsError as error:
        return fail(
            "data", str(error), "change that setting, or the data (docs/guides/own-data.md)"
        )
    return ok(
        "data",
        f"client 0 of {settings.data.num_clients} has {num_samples(client.train)} samples for "
        f"training, {num_samples(client.calibration)} for calibration, {num_samples(client.test)} "
        "for testing",
    )


def check_preflight(settings: Settings) -> Check:
    """Have client 0 do once, on a sample or two, what it will do in a run."""
    began = time.perf_counter()
    try:
        bench = Workbench(settings)
        preflight(bench, bench.client(0))
    except PotaraError as error:
        return fail("preflight", str(error), "see docs/guides/own-data.md, 'Preflight'")
    seconds = time.perf_counter() - began
    found = "one optimizer step, a gradient, a score, and an adapter written and read back"
    return ok("preflight", f"client 0: {found}, in {seconds:.1f} s")


def is_here(settings: Settings, hub: Hub) -> bool:
    """Say whether model and data are on this machine."""
    name = settings.task.model
    model = name in EMBEDDED or Path(name).is_dir() or hub.cached("model", name)
    return bool(model) and all(hub.cached("dataset", name) for name in hub_names(settings))


def hub_names(settings: Settings) -> list[str]:
    """Return the data sets of the settings that come from the hub."""
    data = settings.data
    if data.root:
        return []
    wanted = [name for name in listed(data.datasets or data.path) if name]
    if data.datasets:
        return [BENCHMARKS[name].path for name in wanted if name in BENCHMARKS]
    return [name for name in wanted if may_be_on_hub(name) and not Path(name).exists()]


def may_be_on_hub(name: str) -> bool:
    """Say whether this looks like a name on the hub, and not like a file or folder."""
    return bool(re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name)) and Path(name).suffix not in FORMATS


def _from_hub(what: str, name: str, problem: str, hub: Hub) -> Check:
    if hub.offline:
        return fail(what, f"{name}: {problem}, and HF_HUB_OFFLINE is set", OFFLINE)
    kind = "model" if what == "model" else "dataset"
    if reason := hub.ask(kind, name):
        return fail(what, f"{name}: {problem}, and {reason}", "name a folder, or mend that")
    return ok(what, f"{name}: {problem}; the hub has it, the first run downloads it")
