"""Whose samples are whose: the partitioners of flwr-datasets behind one setting.

They only see an index and a key for each sample (its label, or its domain), never the sample
itself: partitioning a data set of images opens no image.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.lazy import lazy
from potara_flwr.core.seeds import derive_seed
from potara_flwr.settings.groups import DataSettings

if TYPE_CHECKING:
    import flwr_datasets

    from potara_flwr.data.key_table import KeyTable
else:
    flwr_datasets = lazy("flwr_datasets")

SKEWING_KEYS = ("dirichlet", "pathological")
"""The kinds that give clients unlike shares of the keys."""


def partition(
    data: DataSettings,
    seed: int,
    keys: np.ndarray,
    num_clients: int | None = None,
    *,
    in_random_order: bool = False,
) -> list[Tensor]:
    """Return the positions of each client's samples, by ``data.partition``.

    Parameters
    ----------
    keys : ndarray
        What the samples are partitioned by, whole numbers, shape (n,).
    num_clients : int, optional
        Clients that share the samples; by default all.
    in_random_order : bool
        The samples of every key stand in random order, so that those kinds that skew keys may take
        them as they come.

    Raises
    ------
    SettingsError
        There are too few samples, or no such partition gives every client one.
    """
    from potara_flwr.data.key_table import KeyTable

    clients = num_clients or data.num_clients
    if data.partition == "whole":
        return [torch.arange(len(keys))] * clients
    if len(keys) < clients:
        raise SettingsError(f"{clients} clients share {len(keys)} samples; lower data.num-clients")
    seed = derive_seed(seed, "partition") % 2**32
    index = np.arange(len(keys))
    if not (in_random_order and data.partition in SKEWING_KEYS):
        # The partitioners cut the samples, or those of a key, as they come: where a table has its
        # test samples last, one client would get them all.
        index = np.random.default_rng(seed).permutation(len(keys))
    table = KeyTable(index, keys[index])
    if data.partition == "natural":
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            return _natural(table, clients)
    partitioner: flwr_datasets.partitioner.Partitioner
    if data.partition == "dirichlet":
        partitioner = flwr_datasets.partitioner.DirichletPartitioner(
            num_partitions=clients,
            partition_by="key",
            alpha=data.alpha,
            min_partition_size=1,
            self_balancing=True,
            seed=seed,
        )
        remedy = f"with data.alpha={data.alpha}: raise data.alpha or lower data.num-clients"
    elif data.partition == "pathological":
        partitioner = flwr_datasets.partitioner.PathologicalPartitioner(
            num_partitions=clients,
            partition_by="key",
            num_classes_per_partition=data.classes_per_client,
            class_assignment_mode="first-deterministic",
            seed=seed,
        )
        remedy = (
            f"with data.classes-per-client={data.classes_per_client}: lower it or data.num-clients"
        )
    else:
        kind = (
            flwr_datasets.partitioner.IidPartitioner
            if data.partition == "iid"
            else flwr_datasets.partitioner.LinearPartitioner
        )
        partitioner, remedy = kind(num_partitions=clients), "lower data.num-clients"
    partitioner.dataset = table
    try:
        with warnings.catch_warnings():
            # Of every attempt that does not fit; where none does, it raises.
            warnings.simplefilter("ignore", UserWarning)
            return _positions(partitioner, clients)
    except ValueError as error:
        raise SettingsError(
            f"no {data.partition} partition gives each of {clients} clients a sample {remedy} "
            f"({error})"
        ) from None


def _natural(table: KeyTable, clients: int) -> list[Tensor]:
    """Give client k a share of the k-th key, in turn; those who share one share it IID. Where there
    are more keys than clients, client k holds every key whose turn is its own.
    """
    by_key = flwr_datasets.partitioner.NaturalIdPartitioner(partition_by="key")
    by_key.dataset = table
    keys = list(range(by_key.num_partitions))  # reads the data, so that the keys are known
    keys.sort(key=by_key.partition_id_to_natural_id.__getitem__)
    if clients < len(keys):
        held = [by_key.load_partition(key)["index"] for key in keys]
        return [
            torch.from_numpy(np.concatenate(held[client::clients])) for client in range(clients)
        ]
    positions: dict[int, Tensor] = {}
    for place, key in enumerate(keys):
        holders = range(place, clients, len(keys))
        all_of_it = by_key.load_partition(key)
        if len(all_of_it) < len(holders):
            raise SettingsError(
                f"{len(holders)} clients share the {len(all_of_it)} samples of one value of "
                "data.partition-column; lower data.num-clients"
            )
        shares = flwr_datasets.partitioner.IidPartitioner(num_partitions=len(holders))
        shares.dataset = all_of_it
        positions |= dict(zip(holders, _positions(shares, len(holders)), strict=True))
    return [positions[client] for client in range(clients)]


def _positions(partitioner: flwr_datasets.partitioner.Partitioner, clients: int) -> list[Tensor]:
    return [torch.tensor(partitioner.load_partition(client)["index"]) for client in range(clients)]
