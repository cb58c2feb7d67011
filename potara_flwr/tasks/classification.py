"""What the tasks with one class a sample share: the head, the loss and the metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from potara_flwr.data.clients import ClientRows, shared_classes
from potara_flwr.settings.schema import Settings
from potara_flwr.tasks.base import (
    ClientData,
    Inputs,
    LogitsTask,
    Model,
    Prediction,
    Samples,
    rounded,
    split_client,
)

if TYPE_CHECKING:
    import datasets


class Classification(LogitsTask):
    """Cross-entropy and accuracy of a head that is trained in full next to the LoRA factors."""

    head_modules: tuple[str, ...] | None = None
    content: str
    """``image`` or ``text``: which column setting names what is classified."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the head that all clients start from."""
        return shared_classes(self.settings, self.content)

    def collate(self, samples: Samples) -> Samples:
        """Return the samples as they are."""
        return samples

    def losses(self, logits: Tensor, samples: Samples) -> Tensor:
        """Return the cross-entropy of each sample in nats, shape (n,)."""
        return nn.functional.cross_entropy(logits, samples["labels"], reduction="none")

    def correct(self, logits: Tensor, samples: Samples) -> Tensor:
        """Return 1.0 for each sample whose most likely class is its label, shape (n,)."""
        return (logits.argmax(-1) == samples["labels"]).float()

    def predict(self, model: Model, inputs: Inputs) -> list[Prediction]:
        """Return the most likely class of each row, and the probabilities of all, by name."""
        logits = model(self.collate(inputs.samples))
        return [
            {
                "label": self.classes[number],
                "probabilities": dict(zip(self.classes, rounded(of_row), strict=True)),
            }
            for number, of_row in zip(
                logits.argmax(-1).tolist(), logits.double().softmax(-1), strict=True
            )
        ]


def client_data(
    settings: Settings,
    client: int,
    held: ClientRows,
    prepare: Callable[[datasets.Dataset, Tensor, Tensor], tuple[Samples, int]],
) -> ClientData:
    """Split a client's rows and prepare each part of them.

    Parameters
    ----------
    prepare : function
        From rows, their positions in the source and their labels to the samples, and of how many
        some text is left out.
    """
    split, rows = split_client(settings, client, len(held.rows), held.tested, held.source.where)
    parts, cut = {}, 0
    for part, at in split.items():
        parts[part], lost = prepare(
            held.rows.select(at.numpy()), held.positions[at], held.labels[at]
        )
        cut += lost
    return ClientData(
        client,
        **parts,
        classes=held.classes,
        rows=rows.model_copy(update={"cut": cut}),
        source=held.shared,
    )
