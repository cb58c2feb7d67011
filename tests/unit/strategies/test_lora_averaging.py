"""LoraAveraging: seeded sampling, replies checked before they are averaged, a fixed order."""

import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from potara_flwr.core.errors import RunError
from potara_flwr.messages.ledger import Ledger
from potara_flwr.messages.transport import decode, record_of, values_of
from potara_flwr.settings.groups import FederationSettings
from potara_flwr.strategies.averages import weighted_average
from potara_flwr.strategies.lora_averaging import LoraAveraging

CLIENTS = {501: 2, 77: 0, 3: 1, 940: 3}


@pytest.fixture(autouse=True)
def _identity(monkeypatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def strategy_of(
    fraction=1.0, seed=0, clients=None, num_examples=None, **federation
) -> LoraAveraging:
    federation = {"transport": "float32", "fraction_evaluate": fraction} | federation
    return LoraAveraging(
        FederationSettings(fraction_train=fraction, **federation),
        Ledger(clients or CLIENTS),
        seed=seed,
        num_examples=num_examples,
    )


def sent_arrays() -> ArrayRecord:
    return ArrayRecord(
        {"a": Array(np.zeros((2, 3), np.float32)), "b": Array(np.zeros(4, np.float32))}
    )


def update_of(value, num_examples=10, loss=1.0, server_round=1) -> RecordDict:
    arrays = {"a": np.full((2, 3), value, np.float32), "b": np.full(4, -value, np.float32)}
    return RecordDict(
        {
            "arrays": ArrayRecord({name: Array(array) for name, array in arrays.items()}),
            "metrics": MetricRecord(
                {
                    "server-round": server_round,
                    "num-examples": num_examples,
                    "loss": loss,
                    "seconds": 0.5,
                }
            ),
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


def test_the_last_messages_belong_to_no_round_and_carry_the_adapter_once():
    strategy = strategy_of()
    nodes = list(CLIENTS)[1:3]
    messages = strategy.configure_personalize(7, sent_arrays(), ConfigRecord(), nodes)
    assert [message.metadata.dst_node_id for message in messages] == nodes
    for message in messages:
        assert message.content is messages[0].content
        assert set(message.content) == {"arrays", "config"}
        assert dict(message.content["config"]) == {"server-round": 7}
        assert message.metadata.message_type == "query.personalize"
        assert message.metadata.group_id == ""


def test_sampling_is_seeded_by_client_and_not_by_node_id():
    def rounds(seed, clients):
        strategy = strategy_of(0.5, seed, clients)
        return [[clients[node] for node in strategy.sample(r, 0.5, "train")] for r in range(1, 20)]

    renamed = {node + 10_000: client for node, client in reversed(CLIENTS.items())}
    assert rounds(0, CLIENTS) == rounds(0, renamed)
    assert rounds(0, CLIENTS) != rounds(1, CLIENTS)
    assert all(len(clients) == 2 for clients in rounds(0, CLIENTS))
    assert {client for clients in rounds(0, CLIENTS) for client in clients} == {0, 1, 2, 3}


def test_a_small_fraction_still_samples_one_client():
    assert len(strategy_of(fraction=0.01).sample(1, 0.01, "train")) == 1


def test_no_evaluation_sends_no_message():
    strategy = strategy_of(fraction_evaluate=0.0)
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
        metrics = MetricRecord(
            {"server-round": 1, "num-examples": 7 + client, "loss": 1 / 3, "seconds": 0.5}
        )
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
        "too many examples": (update_of(1.0, 10**30), "more than 20 digits"),
        "other round": (update_of(1.0, server_round=2), "answers round 2, not 1"),
        "far away": (update_of(1e6), "its update has the norm"),
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
    replies = []
    for message, (n, accuracy) in zip(messages, scores, strict=True):
        numbers = {"server-round": 1, "num-examples": n, "loss": 1.0, "accuracy": accuracy}
        replies.append(Message(RecordDict({"metrics": MetricRecord(numbers)}), reply_to=message))
    metrics = strategy.aggregate_evaluate(1, replies)
    assert metrics["accuracy"] == pytest.approx((0.5 + 0.9) / 2)
    assert [item.client for item in strategy.ledger.refused] == [2, 3]


def test_uniform_weights_take_no_account_of_examples():
    strategy = strategy_of(weighting="uniform")
    contents = {client: update_of(client + 1.0, 10 ** (client + 1)) for client in range(4)}
    arrays, _ = strategy.aggregate_train(1, replies_to(strategy, contents))
    np.testing.assert_allclose(arrays["a"].numpy(), 2.5)


def test_a_client_stays_with_the_number_of_samples_that_it_has_told_of():
    told = {"train": dict.fromkeys(range(4), 10), "evaluate": dict.fromkeys(range(4), 5)}
    strategy = strategy_of(num_examples=told)
    contents = {client: update_of(1.0, 10 if client else 10**9) for client in range(4)}
    strategy.aggregate_train(1, replies_to(strategy, contents))
    (refused,) = strategy.ledger.refused
    assert refused.client == 0
    assert refused.reason == "num-examples is 1000000000, but the client has told of 10 samples"


def test_replies_of_strangers_of_the_unasked_and_second_ones_are_refused():
    strategy = strategy_of(fraction=0.75)
    replies = replies_to(strategy, {client: update_of(1.0) for client in range(4)})
    (left_out,) = set(range(4)) - {CLIENTS[reply.metadata.src_node_id] for reply in replies}
    node = {client: node for node, client in CLIENTS.items()}[left_out]
    again, stranger, unasked = (
        Message(update_of(9.0), reply_to=Message(RecordDict(), source, "train", group_id="1"))
        for source in (replies[0].metadata.src_node_id, 12345, node)
    )
    arrays, metrics = strategy.aggregate_train(1, [*replies, again, stranger, unasked])
    assert metrics["clients"] == sorted(set(range(4)) - {left_out})
    np.testing.assert_allclose(arrays["a"].numpy(), 1.0)
    first = CLIENTS[replies[0].metadata.src_node_id]
    assert [(item.client, item.reason) for item in strategy.ledger.refused] == [
        (first, "has replied twice"),
        (None, "node 12345 was not asked"),
        (left_out, f"node {node} was not asked"),
    ]


def test_a_norm_is_that_of_the_change_and_not_of_the_adapter():
    strategy = strategy_of()
    far = ArrayRecord({name: Array(at.numpy() + 1e4) for name, at in sent_arrays().items()})
    contents = {client: update_of(1e4) for client in range(4)}
    for client, content in contents.items():
        step = 30.0 if client == 3 else 1.0
        content["arrays"] = ArrayRecord(
            {name: Array(at.numpy() + np.float32(step)) for name, at in far.items()}
        )
    _, metrics = strategy.aggregate_train(1, replies_to(strategy, contents, far))
    (refused,) = strategy.ledger.refused
    assert refused.client == 3
    assert "the norm 94.9, above 31.6: 10 times the median" in refused.reason
    assert metrics["norm-ratio"] == pytest.approx(30, rel=1e-3)


def test_int8_updates_that_overflow_are_refused():
    sent = ArrayRecord({"a": Array(np.ones((2, 3), np.float32))})
    strategy = strategy_of(transport="int8")
    contents = {}
    for client in range(4):
        scales = np.array([3e38 if client == 1 else 0.01], np.float32)
        arrays = {"a": Array(np.full((2, 3), 100, np.int8)), "scales": Array(scales)}
        metrics = MetricRecord({"server-round": 1, "num-examples": 10, "loss": 1.0, "seconds": 0.5})
        contents[client] = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
    averaged, _ = strategy.aggregate_train(1, replies_to(strategy, contents, sent))
    np.testing.assert_allclose(averaged["a"].numpy(), 2.0, rtol=1e-2)
    (refused,) = strategy.ledger.refused
    assert (refused.client, refused.reason) == (1, "its update is not finite once it is decoded")


@pytest.mark.parametrize("transport", ["float32", "float16", "bfloat16", "int8"])
def test_a_client_is_sent_the_first_components_of_what_others_are_sent(transport):
    rng = np.random.default_rng(0)
    names = {"q.lora_A.weight": (4, 3), "q.lora_B.weight": (5, 4), "classifier.bias": (2,)}
    values = {name: rng.normal(size=shape).astype(np.float32) for name, shape in names.items()}
    strategy = strategy_of(transport=transport)
    strategy.ranks = {0: 1, 1: 2, 2: 4, 3: 2}
    arrays = record_of(values)
    messages = strategy.configure_train(1, arrays, ConfigRecord(), grid=None)
    sent = {CLIENTS[message.metadata.dst_node_id]: message.content for message in messages}
    assert sent[1] is sent[3]
    whole = strategy.encoded(arrays).values
    for client, rank in strategy.ranks.items():
        part = decode(values_of(sent[client]["arrays"]), transport)
        np.testing.assert_array_equal(part["q.lora_A.weight"], whole["q.lora_A.weight"][:rank])
        np.testing.assert_array_equal(part["q.lora_B.weight"], whole["q.lora_B.weight"][:, :rank])
        np.testing.assert_array_equal(part["classifier.bias"], whole["classifier.bias"])
        bits = {name: at.tobytes() for name, at in strategy.sent_to(client, arrays).values.items()}
        assert bits == {name: at.tobytes() for name, at in part.items()}


def test_a_reply_of_another_rank_is_refused():
    strategy = strategy_of(min_reply_fraction=0.25, transport="float32")
    strategy.ranks = {0: 1, 1: 2, 2: 2, 3: 2}
    values = {"q.lora_A.weight": np.ones((2, 3), np.float32),
              "q.lora_B.weight": np.zeros((5, 2), np.float32)}  # fmt: skip
    good = record_of({name: array + 1 for name, array in values.items()})
    contents = {
        client: RecordDict({"arrays": good, "metrics": update_of(0)["metrics"]})
        for client in range(4)
    }
    averaged, _ = strategy.aggregate_train(1, replies_to(strategy, contents, record_of(values)))
    (refused,) = strategy.ledger.refused
    assert refused.client == 0
    assert "is float32 (2, 3), not float32 (1, 3)" in refused.reason
    np.testing.assert_array_equal(averaged["q.lora_B.weight"].numpy(), 1)
