"""What keeps a frozen model as it is: normalization that counts no statistics in training."""

from __future__ import annotations

import functools

from torch import nn


def keep_statistics(model: nn.Module) -> None:
    """Keep normalization with running statistics in evaluation mode, whatever mode ``model`` is
    put in: it normalizes with the statistics that the model came with, and changes none.

    Batch norm, for one, would otherwise normalize by the batch in training and count its mean and
    variance, which no adapter holds: they would be lost with the process, and until then be those
    of the client that trained last. A head's normalization is kept so too, its weights are trained.
    """
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.eval()
            module.train = functools.partial(_stay, module)  # type: ignore[method-assign]


def _stay(module: nn.Module, mode: bool = True) -> nn.Module:
    """Take the place of ``nn.Module.train``."""
    return module
