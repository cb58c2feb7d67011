"""What a task is: the base model, one client's data, the loss and the metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BaseImageProcessor, PreTrainedTokenizerBase

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.seeds import derive_seed
from potara_flwr.data.account import HeldRows, SourceRows
from potara_flwr.models.padding import PaddingSide
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.usage import Usage

Samples = dict[str, Tensor]
"""Model inputs and targets by name; the first dimension of every tensor is the sample. Targets are
``labels`` and all whose name begins with it.
"""
Batch = dict[str, Tensor]
"""Samples as the model takes them. The first dimension of a model input is n, or k · n where every
sample has k rows, one after the other; that of ``labels`` is n. An input without dimensions is a
number.
"""


@dataclass(frozen=True)
class ClientData:
    """One client's samples, in three parts that never overlap."""

    client: int
    train: Samples
    calibration: Samples
    test: Samples
    classes: tuple[str, ...] = ()
    """By name, in the order of their numbers; empty where labels are no classes."""
    rows: HeldRows | None = None
    """What has become of the rows that the client holds."""
    source: SourceRows | None = None
    """Of the data source that it holds a share of."""

    @property
    def train_and_calibration(self) -> Samples:
        """All samples but those for testing."""
        return join(self.train, self.calibration)


Prediction = dict[str, Any]
"""What a model says of a row: a text, a number, numbers by class, or a list of numbers, by name."""


@dataclass(frozen=True)
class Inputs:
    """Rows as they come, whose labels are asked, prepared for the model."""

    samples: Samples
    """In the order of the rows; what stands in ``labels`` means nothing."""
    options: Sequence[Sequence[str]] = ()
    """Of every row, those to choose from, for a language model; none where it answers freely."""
    cut: int = 0
    """Rows of which some text is left out."""

    def parts(self, size: int, device: torch.device) -> Iterator[Inputs]:
        """Yield the rows, at most ``size`` at a time, with samples on ``device``."""
        for start in range(0, num_samples(self.samples), size):
            at = slice(start, start + size)
            yield Inputs(take(self.samples, at, device), self.options[at])


class Model(Protocol):
    """A base model with one adapter in it, as a task calls it."""

    def __call__(self, batch: Batch) -> Tensor:
        """Return the logits of a batch."""

    def generate(self, batch: Batch, max_new_tokens: int, stop: Sequence[int]) -> Tensor:
        """Return the most likely token after token, up to one of ``stop``; (n, new tokens).

        What follows it in a row is the first of ``stop``.
        """


class Task(ABC):
    """All that the rest of the app knows of what is learned, with the settings of one run."""

    auto_class: str
    """The transformers class that loads the base model, for the model cards."""
    head_modules: tuple[str, ...] | None
    """Names of the modules trained in full next to the LoRA factors (the task head); None is all
    that stand next to the pretrained part of the base model.
    """

    padding_side: PaddingSide = "left"
    """Where the base model takes the padding that precedes a text in a batch; known with it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes, by name, of the head that all clients start from; empty where there is none."""
        return ()

    @abstractmethod
    def load_base_model(self) -> nn.Module:
        """Load the frozen pretrained model."""

    @abstractmethod
    def processor(self) -> PreTrainedTokenizerBase | BaseImageProcessor | None:
        """Return what prepares raw inputs for the base model, as it did in the run; None where
        transformers has nothing for it.
        """

    @abstractmethod
    def usage(self) -> Usage:
        """Return how a saved model is used without this package, for its model card."""

    @abstractmethod
    def load_client(self, client: int) -> ClientData:
        """Load the samples of client ``client`` (from 0), prepared for the model."""

    @abstractmethod
    def collate(self, samples: Samples) -> Batch:
        """Return a batch as the model takes it, e.g. without columns that are padding only."""

    @abstractmethod
    def losses(self, logits: Tensor, samples: Batch) -> Tensor:
        """Return the loss of each sample of a batch, shape (n,)."""

    @abstractmethod
    def scores(self, model: Model, samples: Samples) -> tuple[Tensor, Tensor]:
        """Return each sample's loss and its score from 0 (wrong) to 1 (right), shape (n,) each.

        The mean score is what is reported as accuracy.
        """

    @abstractmethod
    def load_inputs(self) -> Inputs:
        """Load all rows of ``data.path``, which need no labels, prepared for the model as those of
        a client are.
        """

    @abstractmethod
    def predict(self, model: Model, inputs: Inputs) -> list[Prediction]:
        """Return what the model says of each row: what ``scores`` compares with the labels."""


class LogitsTask(Task):
    """A task whose score is read off the same logits as its loss."""

    @abstractmethod
    def correct(self, logits: Tensor, samples: Batch) -> Tensor:
        """Return 1.0 where the prediction is right and 0.0 elsewhere, shape (n,)."""

    def scores(self, model: Model, samples: Samples) -> tuple[Tensor, Tensor]:
        """Return each sample's loss and whether its prediction is right, shape (n,) each."""
        batch = self.collate(samples)
        logits = model(batch)
        return self.losses(logits, batch), self.correct(logits, batch)


def num_samples(samples: Samples) -> int:
    """Return the number of samples n."""
    return len(samples["labels"])


def take(samples: Samples, indices: Tensor | slice, device: torch.device | None = None) -> Samples:
    """Return the samples at ``indices``, in that order, on ``device`` if one is given."""
    return {name: tensor[indices].to(device or tensor.device) for name, tensor in samples.items()}


def rounded(numbers: Tensor) -> list[float]:
    """Return numbers to seven digits, which is what float32 holds, shape (n,)."""
    return [float(f"{number:.7g}") for number in numbers.tolist()]


def by_length(samples: Samples) -> Samples:
    """Return tokenized samples sorted by length, so that a batch of them has little padding.

    Training shuffles anyway; evaluation takes them as they come.
    """
    return take(samples, samples["attention_mask"].sum(1).argsort(stable=True))


def join(first: Samples, second: Samples) -> Samples:
    """Return the samples of both, one after the other; tokens are padded to the longer ones."""
    joined = {}
    for name, tensor in first.items():
        parts = [tensor, second[name]]
        if tensor.ndim > 1:
            width = max(part.shape[-1] for part in parts)
            parts = [nn.functional.pad(part, (0, width - part.shape[-1])) for part in parts]
        joined[name] = torch.cat(parts)
    return joined


def split_client(
    settings: Settings,
    client: int,
    size: int,
    tested: Tensor | None = None,
    where: str = "",
) -> tuple[dict[str, Tensor], HeldRows]:
    """Split the positions 0 … size − 1 of one client into train, calibration and test; also return
    how many there are, and are left out.

    Test comes first (``data.test-fraction``, or where ``tested`` says so), then calibration, then
    training (at most ``data.train-samples``).

    Parameters
    ----------
    tested : Tensor, optional
        True where the data set itself keeps a sample for testing, shape (size,).
    where : str
        The data set in words, for the error message.

    Raises
    ------
    SettingsError
        The client has no test data, too few calibration samples or no training data.
    """
    who = f"client {client} ({where})" if where else f"client {client}"
    rng = np.random.default_rng(derive_seed(settings.seed, "split", client))
    order = torch.from_numpy(rng.permutation(size))
    if tested is None:
        num_test = int(size * settings.data.test_fraction)
    else:
        order = torch.cat([order[tested[order]], order[~tested[order]]])
        num_test = int(tested.sum())
    num_calibration = settings.calibration.samples
    rest = size - num_test
    larger_shares = "lower data.num-clients"
    if settings.data.partition == "dirichlet":
        larger_shares += " or raise data.alpha"
    if num_test == 0:
        more = "raise data.test-fraction, " if tested is None else ""
        raise SettingsError(
            f"{who} has no test data: of its {size} samples none is for testing; "
            f"{more}{larger_shares}"
        )
    if num_calibration >= rest:
        raise SettingsError(
            f"calibration.samples is {num_calibration}, more than {who} has: of its "
            f"{size} samples {num_test} are for testing, which leaves {rest} "
            f"for calibration and training; lower calibration.samples, {larger_shares}"
        )
    test, calibration, train = order.tensor_split([num_test, num_test + num_calibration])
    num_train = len(train)
    if settings.data.test_samples:
        test = test[: settings.data.test_samples]
    if settings.data.train_samples:
        train = train[: settings.data.train_samples]
    rows = HeldRows(
        found=size,
        train=len(train),
        calibration=len(calibration),
        test=len(test),
        beyond_train_samples=num_train - len(train),
        beyond_test_samples=num_test - len(test),
    )
    return {"train": train, "calibration": calibration, "test": test}, rows
