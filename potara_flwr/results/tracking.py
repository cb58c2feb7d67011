"""Experiment trackers: every round and the end of a run, to where a user looks at many runs.

``run.tracker`` names one. Each is an optional extra and is imported only when it is asked for. What
they are told is in ``results.json`` too; a tracker changes no number.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from potara_flwr.core.errors import SettingsError
from potara_flwr.settings.groups import Value
from potara_flwr.settings.schema import Settings

PROJECT = "potara"
"""Project of Weights & Biases, experiment of MLflow."""

MLFLOW_TAG = "potara.run"
"""Tag of an MLflow run by which a run that goes on finds it."""

Metrics = Mapping[str, float]


class Tracker:
    """Takes a run's settings, the metrics of each round and of the end. This one keeps nothing.

    Parameters
    ----------
    settings : Settings
        Of the run.
    folder : Path
        Results folder of the run; what a tracker writes to disk goes there.

    Raises
    ------
    SettingsError
        The tracker's package is not installed; names the extra to install.
    """

    package: ClassVar[str] = ""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.folder = folder
        self.values: dict[str, Value] = {
            name: value for name, value in settings.to_flat().items() if not name.startswith("run.")
        }
        if self.package:
            self.module = _import(self.package, settings.run.tracker)

    def start(self, run_key: str) -> None:
        """Begin the run, or go on with it: the first round, or the next one, is about to start.

        Parameters
        ----------
        run_key : str
            Tells the run from all others; one that goes on has that of its first attempt.
        """

    def log(self, metrics: Metrics, step: int) -> None:
        """Take the metrics of a round."""

    def summarize(self, metrics: Metrics) -> None:
        """Take the metrics of the end."""

    def finish(self, *, failed: bool) -> None:
        """End the run, also one that never began."""


class TensorBoard(Tracker):
    """Event files in ``tensorboard/`` of the results folder.

    https://pytorch.org/docs/stable/tensorboard.html
    """

    package = "torch.utils.tensorboard"
    step = 0
    writer: Any = None

    def start(self, run_key: str) -> None:
        """Open an event file, next to that of an earlier attempt, and write the settings as a
        table.
        """
        self.writer = self.module.SummaryWriter(str(self.folder / "tensorboard"))
        rows = [f"| {name} | {value} |" for name, value in self.values.items()]
        self.writer.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *rows]))

    def log(self, metrics: Metrics, step: int) -> None:
        """Write one point of each curve."""
        self.step = step
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def summarize(self, metrics: Metrics) -> None:
        """Write the end at the last round."""
        self.log(metrics, self.step)

    def finish(self, *, failed: bool) -> None:
        """Close the event file."""
        if self.writer:
            self.writer.close()


class WandB(Tracker):
    """A run of Weights & Biases; ``WANDB_MODE=offline`` keeps it in the results folder.

    https://docs.wandb.ai/ref/python
    """

    package = "wandb"
    run: Any = None

    def start(self, run_key: str) -> None:
        """Begin a run that is named after the results folder, or go on with it."""
        self.run = self.module.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=self.folder.name,
            id=run_key,
            resume="allow",
            dir=str(self.folder),
            config=self.values,
        )

    def log(self, metrics: Metrics, step: int) -> None:
        """Log one point of each curve."""
        self.run.log(dict(metrics), step=step)

    def summarize(self, metrics: Metrics) -> None:
        """Write the run's summary."""
        self.run.summary.update(dict(metrics))

    def finish(self, *, failed: bool) -> None:
        """Mark the run as finished or failed."""
        if self.run:
            self.run.finish(exit_code=int(failed))


class MLflow(Tracker):
    """A run of MLflow, at ``MLFLOW_TRACKING_URI``; else in ``mlruns/`` of the results folder.

    https://mlflow.org/docs/latest/ml/tracking
    """

    package = "mlflow"
    run: Any = None

    def start(self, run_key: str) -> None:
        """Begin a run that is named after the results folder, or go on with it."""
        if "MLFLOW_TRACKING_URI" not in os.environ:
            # Files are all that mlflow-skinny can write; from 3.13 on MLflow wants to be asked.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            self.module.set_tracking_uri((self.folder / "mlruns").as_uri())
        if "MLFLOW_EXPERIMENT_NAME" not in os.environ:
            self.module.set_experiment(PROJECT)
        same = self.module.search_runs(
            filter_string=f"tags.`{MLFLOW_TAG}` = '{run_key}'", max_results=1, output_format="list"
        )
        self.run = self.module.start_run(
            run_id=same[0].info.run_id if same else None,
            run_name=self.folder.name,
            tags={MLFLOW_TAG: run_key},
        )
        self.module.log_params(self.values)

    def log(self, metrics: Metrics, step: int) -> None:
        """Log one point of each curve."""
        self.module.log_metrics(dict(metrics), step=step)

    def summarize(self, metrics: Metrics) -> None:
        """Log the end, which has no step."""
        self.module.log_metrics(dict(metrics))

    def finish(self, *, failed: bool) -> None:
        """Mark the run as finished or failed."""
        if self.run:
            self.module.end_run(status="FAILED" if failed else "FINISHED")


TRACKERS: dict[str, type[Tracker]] = {
    "none": Tracker,
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}
"""What ``run.tracker`` may be; the names are those of the extras too."""


@contextmanager
def tracking(settings: Settings, folder: Path) -> Iterator[Tracker]:
    """Yield the run's tracker, and tell it whether the run has failed.

    Raises
    ------
    SettingsError
        The tracker's package is not installed; names the extra to install.
    """
    tracker = TRACKERS[settings.run.tracker](settings, folder)
    failed = True
    try:
        yield tracker
        failed = False
    finally:
        tracker.finish(failed=failed)


def round_metrics(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the single numbers of a round's record, by their names under ``round/``."""
    return {
        f"round/{name}": float(value)
        for name, value in record.items()
        if isinstance(value, int | float) and name != "round"
    }


def final_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the mean scores of every adapter and all bytes, by their names under ``final/``."""
    scores = {
        f"final/{metric}/{name}": float(value)
        for metric, values in results["summary"]["mean"].items()
        for name, value in values.items()
    }
    sent = results["communication"]
    return scores | {f"final/{name}": float(sent[name]) for name in ("bytes_down", "bytes_up")}


def _import(package: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError:
        raise SettingsError(
            f"run.tracker={extra} needs a package: pip install 'potara-flwr[{extra}]'"
        ) from None
