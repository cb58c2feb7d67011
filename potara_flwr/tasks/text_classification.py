"""Classes of short texts, from a data file with a column of texts and one of labels.

Clients are shares of the data's own domains, where a column names them, or a Dirichlet label skew.
"""

from __future__ import annotations

import functools
from pathlib import Path

import datasets
import numpy as np
import torch
from flwr_datasets.partitioner import DirichletPartitioner, IidPartitioner, NaturalIdPartitioner
from torch import Tensor, nn

from potara_flwr.base_models import load_text_classifier, load_tokenizer
from potara_flwr.config import DataSettings, Settings
from potara_flwr.errors import SettingsError
from potara_flwr.seeds import derive_seed
from potara_flwr.tasks.base import ClientData, Samples, split_client, take

FORMATS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json"}


@functools.lru_cache(maxsize=1)
def load_table(data: DataSettings) -> datasets.Dataset:
    """Load the data file, with the columns that the settings name.

    Raises
    ------
    SettingsError
        The file cannot be read, or a column is missing or of the wrong kind; names both.
    """
    path = Path(data.path).expanduser()
    if path.suffix not in FORMATS:
        raise SettingsError(
            f"data.path is {data.path!r}; task.name=text-classification needs a file that ends in "
            f"{', '.join(FORMATS)}"
        )
    if not path.is_file():
        raise SettingsError(f"data.path: there is no file {path}")
    datasets.disable_progress_bars()
    try:
        table = datasets.load_dataset(FORMATS[path.suffix], data_files=str(path), split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SettingsError(f"data.path: {path} cannot be read: {reason}") from None
    columns = {
        "data.text-column": data.text_column,
        "data.label-column": data.label_column,
        "data.split-column": data.split_column,
        "data.domain-column": data.domain_column,
    }
    for setting, column in columns.items():
        if column and column not in table.column_names:
            raise SettingsError(
                f"{setting} is {column!r}, but {path.name} has the columns "
                f"{', '.join(table.column_names)}"
            )
    labels = np.asarray(table[data.label_column])
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise SettingsError(
            f"data.label-column: the labels of {path.name} must be whole numbers from 0"
        )
    return table


@functools.lru_cache(maxsize=1)
def _partition(data: DataSettings, seed: int) -> list[datasets.Dataset]:
    """Return each client's rows."""
    table = load_table(data).shuffle(seed=derive_seed(seed, "partition") % 2**32)
    if not data.domain_column:
        dirichlet = DirichletPartitioner(
            num_partitions=data.num_clients,
            partition_by=data.label_column,
            alpha=data.alpha,
            min_partition_size=1,
            seed=derive_seed(seed, "partition") % 2**32,
        )
        dirichlet.dataset = table
        return [dirichlet.load_partition(client) for client in range(data.num_clients)]
    by_domain = NaturalIdPartitioner(partition_by=data.domain_column)
    by_domain.dataset = table
    domains = list(range(by_domain.num_partitions))  # reads the data, so that names are known
    domains.sort(key=by_domain.partition_id_to_natural_id.__getitem__)
    clients: list[datasets.Dataset] = []
    for client in range(data.num_clients):
        domain = client % len(domains)
        holders = len(range(domain, data.num_clients, len(domains)))
        shares = IidPartitioner(num_partitions=holders)
        shares.dataset = by_domain.load_partition(domains[domain])
        clients.append(shares.load_partition(client // len(domains)))
    return clients


class TextClassification:
    """Classification of texts by an encoder with a task head."""

    auto_class = "AutoModelForSequenceClassification"
    head_modules: tuple[str, ...] = ("classifier",)

    def load_base_model(self, settings: Settings) -> nn.Module:
        """Load the encoder, with a head of as many classes as the data has."""
        num_labels = int(max(load_table(settings.data)[settings.data.label_column])) + 1
        return load_text_classifier(settings.task.model, num_labels, settings.seed)

    def load_client(self, settings: Settings, client: int) -> ClientData:
        """Load and tokenize the texts of one client: token ids and attention mask, (n, tokens)."""
        data = settings.data
        rows = _partition(data, settings.seed)[client]
        tested = None
        if data.split_column:
            tested = torch.tensor([word == "test" for word in rows[data.split_column]])
        split = split_client(settings, client, len(rows), tested)
        texts = np.asarray(rows[data.text_column], dtype=object)
        labels = torch.tensor(rows[data.label_column])
        return ClientData(
            client,
            **{
                part: self._samples(settings, texts[at.numpy()].tolist(), labels[at])
                for part, at in split.items()
            },
            held_out=settings.calibration.source == "held-out",
        )

    def collate(self, samples: Samples) -> Samples:
        """Cut the columns that are padding for every text of the batch."""
        longest = int(samples["attention_mask"].sum(1).max())
        return {
            name: tensor if tensor.ndim == 1 else tensor[:, :longest]
            for name, tensor in samples.items()
        }

    def losses(self, logits: Tensor, samples: Samples) -> Tensor:
        """Return the cross-entropy of each text in nats, shape (n,)."""
        return nn.functional.cross_entropy(logits, samples["labels"], reduction="none")

    def correct(self, logits: Tensor, samples: Samples) -> Tensor:
        """Return 1.0 for each text whose most likely class is its label, shape (n,)."""
        return (logits.argmax(-1) == samples["labels"]).float()

    def _samples(self, settings: Settings, texts: list[str], labels: Tensor) -> Samples:
        tokenizer = load_tokenizer(settings.task.model)
        tokenizer.padding_side = "right"
        encoded = tokenizer(
            texts,
            truncation=True,
            max_length=settings.data.max_tokens,
            padding=True,
            return_tensors="pt",
            return_token_type_ids=False,
        )
        # By length, so that a batch of them has little padding; training shuffles anyway.
        order = encoded["attention_mask"].sum(1).argsort(stable=True)
        return take({**encoded, "labels": labels}, order)
