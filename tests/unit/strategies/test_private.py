"""Clipped averaging and noise: what a client can move, how large the noise is, what is refused."""

import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from potara_flwr.client.clipping import clip_update
from potara_flwr.core.errors import SettingsError
from potara_flwr.messages.ledger import Ledger
from potara_flwr.methods import METHODS
from potara_flwr.run_config import from_flat
from potara_flwr.settings.groups import FederationSettings, PrivacySettings
from potara_flwr.strategies.averages import mean_of_clipped
from potara_flwr.strategies.private import ClippedAveraging, PrivateAveraging, global_numpy_seed
from potara_flwr.strategies.rest_of_world import RestOfWorld

CLIENTS = {10: 0, 20: 1, 30: 2, 40: 3}
START = {"a": np.full((3, 2), 5.0, np.float32), "b": np.zeros(4, np.float32)}


@pytest.fixture(autouse=True)
def _identity(monkeypatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def record(arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def change_of(norm: float, seed: int) -> dict[str, np.ndarray]:
    """START after a change of this norm."""
    rng = np.random.default_rng(seed)
    change = {name: rng.normal(size=array.shape) for name, array in START.items()}
    length = math.sqrt(sum(float(np.square(array).sum()) for array in change.values()))
    return {
        name: (array + norm / length * change[name]).astype(np.float32)
        for name, array in START.items()
    }


def private(noise_multiplier=0.0, noise="seeded", seed=0) -> PrivateAveraging:
    federation = FederationSettings(
        min_reply_fraction=0.25, weighting="uniform", transport="float32", max_norm_ratio=0.0
    )
    strategy = ClippedAveraging(federation, Ledger(CLIENTS), seed=0, clipping_norm=1.0)
    privacy = PrivacySettings(clipping_norm=1.0, noise_multiplier=noise_multiplier, noise=noise)
    return PrivateAveraging(strategy, privacy, seed)


def aggregate(strategy, changes, server_round=1):
    """Run a round in which clients answer with arrays, or an error where there are none."""
    messages = strategy.configure_train(server_round, record(START), ConfigRecord(), grid=None)
    replies = []
    for message, arrays in zip(messages, changes, strict=True):
        numbers = {
            "server-round": server_round,
            "num-examples": 10 * message.metadata.dst_node_id,
            "loss": 1.0,
            "seconds": 0.5,
        }
        content = arrays and RecordDict(
            {"arrays": record(arrays), "metrics": MetricRecord(numbers)}
        )
        replies.append(Message(content or Error(1, "broken"), reply_to=message))
    averaged, _ = strategy.aggregate_train(server_round, replies)
    return {name: array.numpy() for name, array in averaged.items()}


def distance(left, right) -> float:
    return math.sqrt(
        sum(float(np.square(left[name] - right[name], dtype=np.float64).sum()) for name in left)
    )


def test_messages_ask_for_the_clipping_norm():
    messages = private().configure_train(3, record(START), ConfigRecord(), grid=None)
    assert [dict(message.content["config"]) for message in messages] == 4 * [
        {"clipping_norm": 1.0, "server-round": 3}
    ]


@given(
    st.lists(st.floats(0, 1e30), min_size=1, max_size=6),
    st.data(),
    st.floats(1e-3, 1e3),
)
def test_no_client_moves_the_average_by_more_than_its_share(norms, data, clipping_norm):
    updates = [change_of(norm, seed) for seed, norm in enumerate(norms)]
    size = data.draw(st.integers(len(norms), 8))
    left_out = data.draw(st.integers(0, len(norms) - 1))
    others = [update for number, update in enumerate(updates) if number != left_out]
    start = {name: array.astype(np.float64) for name, array in START.items()}
    with_all = mean_of_clipped(start, updates, clipping_norm, size)
    without = mean_of_clipped(start, others, clipping_norm, size)
    assert distance(with_all, without) <= clipping_norm / size * (1 + 1e-9)


def test_the_mean_of_what_is_clipped_already_is_the_plain_mean_of_all_that_were_asked():
    changes = [change_of(0.5, seed) for seed in range(4)]
    averaged = aggregate(private(), changes)
    for name in START:
        np.testing.assert_allclose(averaged[name], np.mean([c[name] for c in changes], axis=0),
                                   rtol=1e-6, atol=1e-6)  # fmt: skip


def test_an_error_does_not_skip_the_round_and_counts_as_no_change():
    strategy = private()
    changes = [change_of(0.5, seed) for seed in range(3)]
    averaged = aggregate(strategy, [*changes, None])
    for name in START:
        expected = (sum(change[name] for change in changes) + START[name]) / 4
        np.testing.assert_allclose(averaged[name], expected, rtol=1e-6, atol=1e-6)
    assert [(item.client, item.reason) for item in strategy.strategy.ledger.refused] == [
        (3, "broken")
    ]


def test_an_update_that_was_not_clipped_is_refused_whatever_the_others_are():
    strategy = private()
    changes = [change_of(norm, seed) for seed, norm in enumerate([1.0005, 1.01, 1e-6, 1e-6])]
    averaged = aggregate(strategy, changes)
    (refused,) = strategy.strategy.ledger.refused
    assert refused.client == 1
    assert refused.reason == "its update has the norm 1.01, above 1: it was not clipped"
    assert distance(averaged, START) == pytest.approx(0.25, rel=1e-3)


def test_the_noise_is_as_large_as_the_accountant_takes_it_to_be():
    noisy = [aggregate(private(2.0), 4 * [START], server_round) for server_round in range(1, 300)]
    values = np.concatenate([round_[name].ravel() - START[name].ravel() for round_ in noisy
                             for name in START])  # fmt: skip
    assert values.std() == pytest.approx(2.0 * 1.0 / 4, rel=0.05)  # multiplier · norm / clients
    assert abs(values.mean()) < 0.05


def test_seeded_noise_is_that_of_the_seed_and_round_and_secret_noise_is_new():
    def noise(server_round=1, **kwargs):
        return aggregate(private(1.0, **kwargs), 4 * [START], server_round)["b"].tobytes()

    assert noise() == noise()
    assert len({noise(), noise(server_round=2), noise(seed=1)}) == 3
    assert len({noise(noise="secret") for _ in range(3)}) == 3


def test_the_global_generator_is_where_it_was():
    np.random.seed(7)
    expected = np.random.normal(size=3)
    np.random.seed(7)
    with global_numpy_seed(0, "noise"):
        np.random.normal(size=100)
    np.testing.assert_array_equal(np.random.normal(size=3), expected)


def test_a_client_clips_before_it_sends_and_only_where_it_is_to(monkeypatch):
    class Here:
        def __init__(self, norm):
            self.run_config = {"privacy.clipping-norm": norm}

    norm_of_change = 3.0

    def train(message, context):
        change = change_of(norm_of_change, 0)
        content = RecordDict({"arrays": record(change), "metrics": MetricRecord()})
        return Message(content, reply_to=message)

    def reply(norm, config):
        content = RecordDict({"arrays": record(START), "config": ConfigRecord(config)})
        return clip_update(Message(content, 10, "train"), Here(norm), train)

    def norm_of(message):
        arrays = message.content["arrays"]
        return distance({name: array.numpy() for name, array in arrays.items()}, START)

    assert norm_of(reply(0.0, {"server-round": 1})) == pytest.approx(3.0, rel=1e-5)
    assert norm_of(reply(0.5, {"clipping_norm": 0.5})) == pytest.approx(0.5, rel=1e-5)
    assert norm_of(reply(9.0, {"clipping_norm": 9.0})) == pytest.approx(3.0, rel=1e-5)
    assert reply(0.5, {"server-round": 1}).has_error()
    norm_of_change = 0.0
    assert norm_of(reply(0.5, {"clipping_norm": 0.5})) == 0.0


PRIVATE = {
    "privacy.clipping-norm": 1.0,
    "federation.weighting": "uniform",
    "federation.transport": "float32",
}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"privacy.noise-multiplier": 1.0}, "needs a privacy.clipping-norm above 0"),
        (
            {"privacy.clipping-norm": 1.0},
            "needs federation.weighting=uniform (it is examples: a client's weight would be its "
            "own choice) and federation.transport=float32 (it is float16: ",
        ),
        (PRIVATE | {"federation.transport": "int8"}, "transport=float32 (it is int8"),
        (PRIVATE | {"federation.transport": "bfloat16"}, "transport=float32"),
        (PRIVATE | {"federation.aggregation": "exact"}, "aggregation=factors (it is exact"),
        (PRIVATE | {"method": "fedalt"}, "cannot be used with method=fedalt"),
        ({"privacy.delta": 0.0}, "privacy.delta"),
    ],
)
def test_settings_that_bound_nothing_are_refused_in_one_line(settings, words):
    with pytest.raises(SettingsError) as error:
        from_flat(settings)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_that_averages_all_updates_can_be_private(method):
    if METHODS[method].strategy is RestOfWorld:
        with pytest.raises(SettingsError):
            from_flat(PRIVATE | {"method": method})
    else:
        assert from_flat(PRIVATE | {"method": method}).privacy.clipping_norm == 1.0
