"""Trackers: TensorBoard's files are read back; the other calls are those of the documentation."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from potara_flwr.core.errors import RunError, SettingsError
from potara_flwr.results.tracking import TRACKERS, final_metrics, round_metrics, tracking
from potara_flwr.run_config import from_flat

ROUND = {"round": 1, "loss": 2.0, "accuracy": None, "bytes_up": 10, "clients": [0, 1]}
RESULTS = {
    "summary": {"mean": {"accuracy": {"personalized": 0.75, "variance-trace": 0.5}}},
    "communication": {"bytes_down": 30, "bytes_up": 20, "messages": []},
}


KEY = "00000000000000000007"


def follow_a_run(name, folder, error=None):
    """Have a tracker follow a run of two rounds."""
    settings = from_flat({"run.tracker": name, "run.results": str(folder), "lora.rank": 7})
    with tracking(settings, folder) as tracker:
        tracker.start(KEY)
        tracker.log(round_metrics(ROUND), 1)
        tracker.log(round_metrics(ROUND | {"loss": 1.5}), 2)
        if error:
            raise error
        tracker.summarize(final_metrics(RESULTS))
    return settings


FINAL = {
    "final/accuracy/personalized": 0.75,
    "final/accuracy/variance-trace": 0.5,
    "final/bytes_down": 30.0,
    "final/bytes_up": 20.0,
}


def test_metrics_are_single_numbers_with_a_name():
    assert round_metrics(ROUND) == {"round/loss": 2.0, "round/bytes_up": 10.0}
    assert final_metrics(RESULTS) == FINAL


def test_none_keeps_nothing(tmp_path):
    follow_a_run("none", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_files_hold_every_round_and_the_end(tmp_path):
    follow_a_run("tensorboard", tmp_path)
    (folder,) = tmp_path.iterdir()
    assert folder.name == "tensorboard"
    events = EventAccumulator(str(folder)).Reload()
    assert set(events.Tags()["scalars"]) == {"round/loss", "round/bytes_up", *FINAL}
    assert [(e.step, e.value) for e in events.Scalars("round/loss")] == [(1, 2.0), (2, 1.5)]
    for name, value in FINAL.items():
        assert [(e.step, e.value) for e in events.Scalars(name)] == [(2, value)]
    (text,) = events.Tensors("settings/text_summary")
    assert "| lora.rank | 7 |" in text.tensor_proto.string_val[0].decode()


class FakeWandB(ModuleType):
    """https://docs.wandb.ai/ref/python: ``init`` returns the run that everything else is told."""

    def __init__(self):
        super().__init__("wandb")
        self.calls = []

    def init(self, *, project=None, name=None, id=None, resume=None, dir=None, config=None):  # noqa: A002
        self.calls.append(("init", project, name, id, resume, dir, config))
        return SimpleNamespace(log=self._log, summary=self.Summary(self), finish=self._finish)

    class Summary:
        def __init__(self, fake):
            self.fake = fake

        def update(self, d):
            self.fake.calls.append(("summary.update", d))

    def _log(self, data, step=None, commit=None):
        self.calls.append(("log", data, step))

    def _finish(self, exit_code=None, quiet=None):
        self.calls.append(("finish", exit_code))


class FakeMLflow(ModuleType):
    """https://mlflow.org/docs/latest/api_reference/python_api/mlflow.html: one run at a time."""

    def __init__(self):
        super().__init__("mlflow")
        self.calls = []
        self.tags = {}

    def set_tracking_uri(self, uri):
        self.calls.append(("set_tracking_uri", uri))

    def set_experiment(self, experiment_name=None, experiment_id=None):
        self.calls.append(("set_experiment", experiment_name))

    def search_runs(self, *, filter_string="", max_results=100000, output_format="pandas"):
        assert output_format == "list"
        found = [run_id for run_id, tags in self.tags.items() if filter_string in tags]
        return [SimpleNamespace(info=SimpleNamespace(run_id=run_id)) for run_id in found]

    def start_run(self, run_id=None, experiment_id=None, run_name=None, tags=None):
        run_id = run_id or f"run {len(self.tags)}"
        self.tags[run_id] = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
        self.calls.append(("start_run", run_id, run_name))
        return object()

    def log_params(self, params, synchronous=None, run_id=None):
        self.calls.append(("log_params", params))

    def log_metrics(self, metrics, step=None, synchronous=None, run_id=None):
        self.calls.append(("log_metrics", metrics, step))

    def end_run(self, status="FINISHED"):
        self.calls.append(("end_run", status))


@pytest.fixture
def fake(monkeypatch):
    """Put a fake module in the place of a tracker's package."""
    for name in ("WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")

    def put(module):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return module

    return put


def without_run(settings):
    return {k: v for k, v in settings.to_flat().items() if not k.startswith("run.")}


def test_weights_and_biases_is_told_everything(fake, tmp_path):
    wandb = fake(FakeWandB())
    settings = follow_a_run("wandb", tmp_path / "my-run")
    assert wandb.calls == [
        ("init", "potara", "my-run", KEY, "allow", str(tmp_path / "my-run"), without_run(settings)),
        ("log", {"round/loss": 2.0, "round/bytes_up": 10.0}, 1),
        ("log", {"round/loss": 1.5, "round/bytes_up": 10.0}, 2),
        ("summary.update", FINAL),
        ("finish", 0),
    ]


def test_mlflow_is_told_everything(fake, tmp_path):
    mlflow = fake(FakeMLflow())
    settings = follow_a_run("mlflow", tmp_path / "my-run")
    assert mlflow.calls == [
        ("set_tracking_uri", (tmp_path / "my-run" / "mlruns").as_uri()),
        ("set_experiment", "potara"),
        ("start_run", "run 0", "my-run"),
        ("log_params", without_run(settings)),
        ("log_metrics", {"round/loss": 2.0, "round/bytes_up": 10.0}, 1),
        ("log_metrics", {"round/loss": 1.5, "round/bytes_up": 10.0}, 2),
        ("log_metrics", FINAL, None),
        ("end_run", "FINISHED"),
    ]


def test_a_run_that_goes_on_is_the_same_run_in_mlflow(fake, tmp_path):
    mlflow = fake(FakeMLflow())
    with pytest.raises(RunError):
        follow_a_run("mlflow", tmp_path / "my-run", error=RunError("too few"))
    follow_a_run("mlflow", tmp_path / "my-run")
    begun = [call for call in mlflow.calls if call[0] == "start_run"]
    assert begun == [("start_run", "run 0", "my-run")] * 2


def test_the_users_own_server_and_names_hold(fake, tmp_path, monkeypatch):
    mlflow, wandb = fake(FakeMLflow()), fake(FakeWandB())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    follow_a_run("mlflow", tmp_path)
    follow_a_run("wandb", tmp_path)
    assert mlflow.calls[0][0] == "start_run"
    assert wandb.calls[0][:2] == ("init", "mine")


@pytest.mark.parametrize(
    ("name", "module", "end"),
    [("wandb", FakeWandB, ("finish", 1)), ("mlflow", FakeMLflow, ("end_run", "FAILED"))],
)
def test_a_failed_run_is_marked_so(name, module, end, fake, tmp_path):
    recorder = fake(module())
    with pytest.raises(RunError):
        follow_a_run(name, tmp_path, error=RunError("too few"))
    assert recorder.calls[-1] == end


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_run_that_never_began_leaves_no_trace(name, fake, tmp_path):
    fakes = [fake(FakeWandB()), fake(FakeMLflow())]
    with pytest.raises(SettingsError), tracking(from_flat({"run.tracker": name}), tmp_path):
        raise SettingsError("a client refused the settings")
    assert all(recorder.calls == [] for recorder in fakes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name in TRACKERS if name != "none"])
def test_a_package_that_lacks_names_what_to_install(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, TRACKERS[name].package, None)
    settings = from_flat({"run.tracker": name})
    with (
        pytest.raises(SettingsError, match=rf"pip install 'potara-flwr\[{name}\]'$"),
        tracking(settings, tmp_path),
    ):
        raise AssertionError("the run went on")


def test_every_choice_of_the_setting_is_a_tracker_and_decides_no_number():
    for name in TRACKERS:
        assert from_flat({"run.tracker": name}).computed() == from_flat({}).computed()
