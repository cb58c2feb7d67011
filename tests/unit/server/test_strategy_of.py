"""The strategy of a run: whose weight decides, and what a client may say of its samples."""

import pytest

from potara_flwr.messages.ledger import Ledger
from potara_flwr.messages.reports import Description
from potara_flwr.run_config import from_flat
from potara_flwr.server.strategy import (
    needs_held_out,
    outweighs,
    privacy_entry,
    strategy_of,
    with_noise,
)
from potara_flwr.strategies.lora_averaging import LoraAveraging
from potara_flwr.strategies.private import ClippedAveraging, PrivateAveraging
from potara_flwr.strategies.rest_of_world import RestOfWorld

PRIVATE = {
    "privacy.clipping-norm": 1.0,
    "federation.weighting": "uniform",
    "federation.transport": "float32",
}


@pytest.mark.parametrize(
    ("counts", "who"),
    [
        ({0: 10, 1: 10, 2: 21}, "client 2 says that it has 21 of all 41"),
        ({0: 10**15, 1: 10, 2: 20}, "client 0 says"),
        ({0: 10, 1: 10, 2: 20}, ""),
        ({0: 1, 1: 100}, ""),
        ({}, ""),
    ],
)
def test_a_client_that_outweighs_all_others_is_named(counts, who):
    warning = outweighs(counts)
    assert who in warning
    assert bool(warning) == bool(who)


def strategy(settings):
    told = {
        client: Description(client=client, num_partitions=2, num_train=10, num_calibration=3,
                            num_test=5)
        for client in range(2)
    }  # fmt: skip
    return strategy_of(Ledger(clients={7: 0, 8: 1}), from_flat(settings), told)


@pytest.mark.parametrize(
    ("method", "source", "samples"),
    [("potara", "held-out", 10), ("potara", "training", 13), ("fedit", "held-out", 13)],
)
def test_a_client_trains_on_the_samples_that_it_has_told_of(method, source, samples):
    expected = {"train": {0: samples, 1: samples}, "evaluate": {0: 5, 1: 5}}
    made = strategy({"method": method, "calibration.source": source})
    assert made.num_examples == expected


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [
        ({"merge.rule": "grid"}, True),
        ({"merge.rule": "segment", "calibration.source": "held-out"}, False),
        ({"merge.rule": "grid", "method": "fedit"}, False),
        ({}, False),
    ],
)
def test_rules_that_need_samples_held_out_say_so(overrides, warned):
    warning = needs_held_out(from_flat(overrides))
    assert ("set calibration.source=held-out" in warning) == bool(warning) == warned


def test_settings_decide_how_is_averaged():
    assert type(strategy({})) is LoraAveraging
    assert type(strategy({"method": "fedalt"})) is RestOfWorld
    clipped = strategy(PRIVATE)
    assert type(clipped) is ClippedAveraging
    assert type(with_noise(clipped, from_flat(PRIVATE))) is PrivateAveraging
    plain = strategy({})
    assert with_noise(plain, from_flat({})) is plain
    assert privacy_entry(from_flat({}), [], 0) == {}
