"""The updates of a round: in memory while they are few, on disk where they are many."""

import numpy as np
import pytest

from potara_flwr.strategies import updates as module
from potara_flwr.strategies.averages import weighted_average
from potara_flwr.strategies.updates import RoundUpdates


def update_of(seed):
    rng = np.random.default_rng(seed)
    return {
        "a": rng.normal(size=(3, 4)).astype(np.float32),
        "bias": rng.normal(size=()).astype(np.float64),
        "turned": rng.normal(size=(5, 2)).astype(np.float32).T,
        "none": np.zeros((0, 4), np.float32),
    }


@pytest.mark.parametrize("in_memory", [1, 2**20], ids=["disk", "memory"])
def test_updates_come_back_bit_by_bit_sorted_by_client(monkeypatch, in_memory):
    monkeypatch.setattr(module, "IN_MEMORY", in_memory)
    with RoundUpdates() as updates:
        for client in (7, 0, 3):
            updates.add(client, update_of(client), float(client))
        assert updates._file._rolled == (in_memory == 1)
        assert list(updates) == [0, 3, 7]
        assert updates.norms == {0: 0.0, 3: 3.0, 7: 7.0}
        for client in (3, 7, 0):
            stored, given = updates[client], update_of(client)
            assert list(stored) == list(given)
            for name, array in given.items():
                assert stored[name].dtype == array.dtype
                assert stored[name].shape == array.shape
                assert stored[name].tobytes() == array.tobytes()


def test_one_that_is_dropped_is_not_averaged():
    with RoundUpdates() as updates:
        for client in range(4):
            updates.add(client, update_of(client), 1.0)
        updates.drop(2)
        assert list(updates) == list(updates.norms) == [0, 1, 3]
        averaged = weighted_average(list(updates.values()), [1, 2, 3])
    expected = weighted_average([update_of(client) for client in (0, 1, 3)], [1, 2, 3])
    for name, array in expected.items():
        assert averaged[name].tobytes() == array.tobytes()
