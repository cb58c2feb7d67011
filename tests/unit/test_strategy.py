"""LoraAveraging: seeded sampling, replies checked before they are averaged, a fixed order."""

import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from potara_flwr.aggregation import weighted_average
from potara_flwr.communication import Ledger
from potara_flwr.errors import RunError
from potara_flwr.strategies.checking import find_fault
from potara_flwr.strategies.lora_averaging import LoraAveraging

CLIENTS = {501: 2, 77: 0, 3: 1, 940: 3}


@pytest.fixture(autouse=True)
def _identity(monkeypatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def strategy_of(fraction=1.0, seed=0, min_reply_fraction=0.5) -> LoraAveraging:
    return LoraAveraging(
        CLIENTS, seed=seed, fraction_train=fraction, fraction_evaluate=fraction,
        min_reply_fraction=min_reply_fraction, ledger=Ledger(),
    )  # fmt: skip


def sent_arrays() -> ArrayRecord:
    return ArrayRecord(
        {"a": Array(np.zeros((2, 3), np.float32)), "b": Array(np.zeros(4, np.float32))}
    )


def update_of(value, num_examples=10, loss=1.0) -> RecordDict:
    arrays = {"a": np.full((2, 3), value, np.float32), "b": np.full(4, -value, np.float32)}
    return RecordDict(
        {
            "arrays": ArrayRecord({name: Array(array) for name, array in arrays.items()}),
            "metrics": MetricRecord({"num-examples": num_examples, "loss": loss}),
        }
    )


def replies_to(strategy, contents: dict, arrays=None):
    """Send round 1 and answer: client → content, or a text for an error reply."""
    messages = strategy.configure_train(1, arrays or sent_arrays(), ConfigRecord(), grid=None)
    replies = []
    for message in messages:
        content = contents.get(CLIENTS[message.metadata.dst_node_id])
        if isinstance(content, str):
            replies.append(Message(Error(400, content), reply_to=message))
        elif content is not None:
            replies.append(Message(content, reply_to=message))
    return replies


def test_messages_carry_the_adapter_and_the_round_and_nothing_else():
    strategy = strategy_of()
    messages = strategy.configure_train(7, sent_arrays(), ConfigRecord(), grid=None)
    assert [CLIENTS[message.metadata.dst_node_id] for message in messages] == [0, 1, 2, 3]
    for message in messages:
        assert set(message.content) == {"arrays", "config"}
        assert dict(message.content["config"]) == {"server-round": 7}
        assert message.metadata.group_id == "7"


def test_sampling_is_seeded_by_client_and_not_by_node_id():
    def rounds(seed, clients):
        strategy = LoraAveraging(
            clients, seed=seed, fraction_train=0.5, fraction_evaluate=0.5,
            min_reply_fraction=0.5, ledger=Ledger(),
        )  # fmt: skip
        return [[clients[node] for node in strategy.sample(r, 0.5, "train")] for r in range(1, 20)]

    renamed = {node + 10_000: client for node, client in reversed(CLIENTS.items())}
    assert rounds(0, CLIENTS) == rounds(0, renamed)
    assert rounds(0, CLIENTS) != rounds(1, CLIENTS)
    assert all(len(clients) == 2 for clients in rounds(0, CLIENTS))
    assert {client for clients in rounds(0, CLIENTS) for client in clients} == {0, 1, 2, 3}


def test_a_small_fraction_still_samples_one_client():
    assert len(strategy_of(fraction=0.01).sample(1, 0.01, "train")) == 1


def test_no_evaluation_sends_no_message():
    strategy = LoraAveraging(
        CLIENTS, seed=0, fraction_train=1.0, fraction_evaluate=0.0, min_reply_fraction=0.5,
        ledger=Ledger(),
    )  # fmt: skip
    assert list(strategy.configure_evaluate(1, sent_arrays(), ConfigRecord(), grid=None)) == []
    assert strategy.aggregate_evaluate(1, []) is None


def test_the_average_is_weighted_by_examples_against_numpy():
    strategy = strategy_of()
    contents = {client: update_of(client + 1.0, 10 * (client + 1)) for client in range(4)}
    arrays, metrics = strategy.aggregate_train(1, replies_to(strategy, contents))
    expected = np.average([1, 2, 3, 4], weights=[10, 20, 30, 40])
    np.testing.assert_allclose(arrays["a"].numpy(), np.full((2, 3), expected))
    np.testing.assert_allclose(arrays["b"].numpy(), np.full(4, -expected))
    assert arrays["a"].dtype == "float32"
    assert metrics["loss"] == 1.0


def test_the_order_of_replies_changes_no_bit():
    rng = np.random.default_rng(0)
    contents = {}
    for client in range(4):
        record = ArrayRecord(
            {"a": Array(rng.normal(size=(2, 3)).astype(np.float32)),
             "b": Array(rng.normal(size=4).astype(np.float32))}
        )  # fmt: skip
        metrics = MetricRecord({"num-examples": 7 + client, "loss": 1 / 3})
        contents[client] = RecordDict({"arrays": record, "metrics": metrics})
    strategy = strategy_of()
    replies = replies_to(strategy, contents)
    first, _ = strategy.aggregate_train(1, replies)
    again, _ = strategy.aggregate_train(1, list(reversed(replies)))
    assert all(first[name].data == again[name].data for name in first)


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(1, 1000)), min_size=1, max_size=6))
def test_weighted_average_equals_numpy(pairs):
    values, weights = zip(*pairs, strict=True)
    updates = [{"x": np.array([value, 2 * value], np.float32)} for value in values]
    expected = np.average([u["x"].astype(np.float64) for u in updates], axis=0, weights=weights)
    got = weighted_average(updates, weights)["x"]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected.astype(np.float32), rtol=1e-6, atol=1e-6)


def test_the_average_is_taken_in_float64():
    updates = [{"x": np.array([1e8], np.float32)}, {"x": np.array([1.0], np.float32)},
               {"x": np.array([-1e8], np.float32)}]  # fmt: skip
    assert weighted_average(updates, [1, 1, 1])["x"][0] == pytest.approx(1 / 3, rel=1e-6)


def bad_updates():
    def with_arrays(**arrays):
        content = update_of(1.0)
        content["arrays"] = ArrayRecord({name: Array(array) for name, array in arrays.items()})
        return content

    a, b = np.zeros((2, 3), np.float32), np.zeros(4, np.float32)
    holes = np.array([[0, np.nan, 0], [0, 0, 0]], np.float32)
    lying = update_of(1.0)
    lying["arrays"]["a"] = Array("float32", (2, 3), "numpy.ndarray", b"not an array")
    extra = update_of(1.0)
    extra["more"] = MetricRecord({"x": 1.0})
    return {
        "missing key": (with_arrays(a=a), "['b']"),
        "extra key": (with_arrays(a=a, b=b, c=b), "['c']"),
        "wrong shape": (with_arrays(a=a.T, b=b), "(3, 2)"),
        "broadcastable shape": (with_arrays(a=a[:1], b=b), "(1, 3)"),
        "wrong dtype": (with_arrays(a=a.astype(np.float64), b=b), "float64"),
        "nan": (with_arrays(a=holes, b=b), "not finite"),
        "inf": (with_arrays(a=a, b=b + np.inf), "not finite"),
        "unreadable": (lying, "cannot be read"),
        "extra record": (extra, "['arrays', 'metrics', 'more']"),
        "no arrays": (RecordDict({"metrics": MetricRecord({"num-examples": 3})}), "['metrics']"),
        "zero examples": (update_of(1.0, 0), "num-examples is 0"),
        "negative examples": (update_of(1.0, -3), "num-examples is -3"),
        "fractional examples": (update_of(1.0, 2.5), "num-examples is 2.5"),
        "loss is nan": (update_of(1.0, loss=math.nan), "'loss' is nan"),
        "error": ("client 3, round 1: the loss is nan at step 2", "the loss is nan at step 2"),
    }


@pytest.mark.parametrize("case", bad_updates())
def test_a_bad_reply_is_refused_by_name_and_the_round_goes_on(case):
    content, words = bad_updates()[case]
    strategy = strategy_of()
    contents = {0: update_of(1.0), 1: update_of(3.0), 2: content, 3: update_of(2.0)}
    arrays, _ = strategy.aggregate_train(1, replies_to(strategy, contents))
    np.testing.assert_allclose(arrays["a"].numpy(), 2.0)
    (refused,) = strategy.ledger.refused
    assert (refused.client, refused.round, refused.kind) == (2, 1, "train")
    assert words in refused.reason


def test_too_few_good_replies_fail_with_the_reasons():
    strategy = strategy_of(min_reply_fraction=0.75)
    contents = {0: update_of(1.0), 1: update_of(math.inf), 2: "out of memory", 3: update_of(2.0)}
    with pytest.raises(RunError) as error:
        strategy.aggregate_train(1, replies_to(strategy, contents))
    message = str(error.value)
    assert "round 1: 2 of 4 clients sent a usable update, 3 are needed" in message
    assert "client 2: out of memory" in message
    assert "client 1: the array 'a'" in message


def test_no_reply_at_all_fails():
    strategy = strategy_of()
    with pytest.raises(RunError, match="0 of 4"):
        strategy.aggregate_train(1, replies_to(strategy, {}))


def test_scores_are_checked_as_well():
    strategy = strategy_of()
    messages = strategy.configure_evaluate(1, sent_arrays(), ConfigRecord(), grid=None)
    scores = [(1, 0.5), (3, 0.9), (0, 0.9), (2, math.nan)]
    replies = [
        Message(
            RecordDict({"metrics": MetricRecord({"num-examples": n, "accuracy": accuracy})}),
            reply_to=message,
        )
        for message, (n, accuracy) in zip(messages, scores, strict=True)
    ]
    metrics = strategy.aggregate_evaluate(1, replies)
    assert metrics["accuracy"] == pytest.approx((0.5 + 0.9) / 2)
    assert [item.client for item in strategy.ledger.refused] == [2, 3]


values = st.one_of(st.integers(-5, 5), st.floats(), st.lists(st.floats(), max_size=3))


@given(
    st.dictionaries(st.sampled_from(["num-examples", "loss", "x"]), values),
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.tuples(st.sampled_from([(2, 3), (4,), (0,), ()]), st.sampled_from(["float32", "int64"])),
    ),
)
def test_what_passes_the_check_can_be_averaged(metrics, arrays):
    content = RecordDict(
        {
            "metrics": MetricRecord(metrics),
            "arrays": ArrayRecord({n: Array(np.ones(s, d)) for n, (s, d) in arrays.items()}),
        }
    )
    good = (
        arrays == {"a": ((2, 3), "float32"), "b": ((4,), "float32")}
        and isinstance(metrics.get("num-examples"), int)
        and metrics["num-examples"] >= 1
        and all(not isinstance(v, list) and math.isfinite(v) for v in metrics.values())
    )
    assert (find_fault(content, sent_arrays()) is None) == good
