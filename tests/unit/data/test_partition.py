"""Partitions: what each kind promises, the same for a seed, and what cannot be partitioned."""

import datasets
import numpy as np
import pytest
from flwr_datasets import partitioner as partitioners

from potara_flwr.core.errors import SettingsError
from potara_flwr.core.seeds import derive_seed
from potara_flwr.data.partition import partition
from potara_flwr.run_config import from_flat

LABELS = np.arange(600) % 6
KINDS = ("dirichlet", "pathological", "size-skewed", "natural", "iid")


def parts(keys=LABELS, seed=0, **overrides):
    named = {f"data.{name.replace('_', '-')}": value for name, value in overrides.items()}
    settings = from_flat({"data.num-clients": 4, **named})
    return [part.numpy() for part in partition(settings.data, seed, keys)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_partition_gives_no_sample_twice_and_depends_on_the_seed_alone(kind):
    first, again, other = (parts(partition=kind, seed=seed) for seed in (0, 0, 1))
    drawn = np.concatenate(first)
    assert len(set(drawn.tolist())) == len(drawn)
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(first, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_every_client_has_its_share_of_what_stands_last(kind):
    # As test samples do that follow the training samples.
    last = len(LABELS) * 4 // 5
    for part in parts(partition=kind, alpha=1.0):
        assert 0.05 < np.mean(part >= last) < 0.4


def test_dirichlet_skews_labels_by_alpha():
    def spread(alpha):
        shares = [np.bincount(LABELS[part], minlength=6) / len(part)
                  for part in parts(partition="dirichlet", alpha=alpha)]  # fmt: skip
        return np.std(shares, axis=0).mean()

    assert spread(0.1) > 2 * spread(10.0)
    assert len(np.concatenate(parts(partition="dirichlet"))) == 600


def test_pathological_clients_have_so_many_classes():
    for number in (1, 3):
        found = parts(partition="pathological", classes_per_client=number)
        assert all(len(set(LABELS[part])) == number for part in found)


def test_size_skewed_clients_grow_evenly_and_see_every_class():
    found = parts(partition="size-skewed")
    assert [len(part) for part in found] == [60, 120, 180, 240]
    assert all(len(set(LABELS[part])) == 6 for part in found)


def test_iid_clients_have_equal_shares_in_random_order():
    found = parts(partition="iid")
    assert [len(part) for part in found] == [150] * 4
    assert not np.array_equal(found[0], np.sort(found[0]))


def test_natural_clients_hold_shares_of_the_keys_in_turn():
    keys = np.repeat([0, 1, 2], [300, 200, 100])
    found = parts(keys, partition="natural")
    assert [set(keys[part]) for part in found] == [{0}, {1}, {2}, {0}]
    assert [len(part) for part in found] == [150, 200, 100, 150]


def test_with_more_keys_than_clients_a_client_holds_several():
    keys = np.arange(600) % 10
    found = parts(keys, partition="natural")
    assert [set(keys[part]) for part in found] == [{0, 4, 8}, {1, 5, 9}, {2, 6}, {3, 7}]
    assert len(np.concatenate(found)) == 600


@pytest.mark.filterwarnings("error")
def test_a_partition_prints_nothing(capfd):
    for kind in KINDS:
        parts(partition=kind)
    with pytest.raises(SettingsError):
        parts(alpha=1e-3, num_clients=300)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"num_clients": 700}, "700 clients share 600 samples"),
        ({"alpha": 1e-3, "num_clients": 300}, r"raise data\.alpha"),
        ({"partition": "pathological", "classes_per_client": 7}, r"data\.classes-per-client=7"),
        ({"partition": "natural", "num_clients": 8, "keys": np.array([0] * 9 + [1])},
         "4 clients share the 1 samples of one value"),
    ],
)  # fmt: skip
def test_what_cannot_be_partitioned_is_one_clear_line(overrides, words):
    with pytest.raises(SettingsError, match=words) as error:
        parts(**overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_clients", [4, 9])
def test_a_partition_is_that_of_the_partitioner_on_a_data_set(kind, num_clients):
    """On keys alone the partitioners give what they do on a table of ``datasets``."""
    seed = derive_seed(0, "partition") % 2**32
    table = datasets.Dataset.from_dict({"index": range(600), "key": LABELS}).shuffle(seed=seed)
    of_the_kind = {
        "dirichlet": lambda: partitioners.DirichletPartitioner(
            num_clients, "key", 0.5, min_partition_size=1, self_balancing=True, seed=seed
        ),
        "pathological": lambda: partitioners.PathologicalPartitioner(
            num_clients, "key", 2, class_assignment_mode="first-deterministic", seed=seed
        ),
        "size-skewed": lambda: partitioners.LinearPartitioner(num_clients),
        "natural": lambda: partitioners.NaturalIdPartitioner("key"),
        "iid": lambda: partitioners.IidPartitioner(num_clients),
    }
    partitioner = of_the_kind[kind]()
    partitioner.dataset = table
    found = parts(partition=kind, num_clients=num_clients)
    if kind != "natural":
        wanted = [partitioner.load_partition(client)["index"][:] for client in range(num_clients)]
    else:  # client k has the k-th key, in turn; those of one key share it as it stands
        held = [partitioner.load_partition(key)["index"][:] for key in range(6)]
        if num_clients < 6:
            wanted = [
                np.concatenate(held[client::num_clients]).tolist() for client in range(num_clients)
            ]
        else:
            shares = [np.array_split(one, len(range(key, 9, 6))) for key, one in enumerate(held)]
            wanted = [shares[client % 6][client // 6].tolist() for client in range(num_clients)]
    assert [part.tolist() for part in found] == wanted
