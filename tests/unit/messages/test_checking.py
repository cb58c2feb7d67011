"""Any change to a good reply is refused in one line, or does no harm to the average."""

import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.error import Error
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from potara_flwr.messages.checking import ReplySpec, find_fault, some
from potara_flwr.messages.ledger import Ledger
from potara_flwr.messages.transport import encode, record_of, values_of
from potara_flwr.settings.groups import FederationSettings
from potara_flwr.strategies.averages import norm_limit
from potara_flwr.strategies.lora_averaging import LoraAveraging

CLIENTS = {10: 0, 20: 1, 30: 2, 40: 3}
SHAPES = {"a": (2, 3), "b": (4,)}


@pytest.fixture(autouse=True)
def _identity(monkeypatch):
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def arrays_of(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def record(arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def good_reply(seed: int, transport: str = "float32") -> RecordDict:
    metrics = MetricRecord({"server-round": 1, "num-examples": 10, "loss": 1.0, "seconds": 0.5})
    return RecordDict({"arrays": record(encode(arrays_of(seed), transport)[0]), "metrics": metrics})


numbers = st.one_of(
    st.integers(), st.integers(-(10**400), 10**400), st.floats(), st.lists(st.floats(), max_size=3)
)
names = st.one_of(st.sampled_from(["num-examples", "server-round", "loss", "accuracy"]), st.text())
shapes = st.lists(st.integers(-(2**70), 2**70), max_size=40).map(tuple)


def set_number(draw, content):
    content.metric_records["metrics"][draw(names)] = draw(numbers)


def drop_number(draw, content):
    content.metric_records["metrics"].pop(draw(names), None)


def drop_record(draw, content):
    content.pop(draw(st.sampled_from(["arrays", "metrics"])), None)


def put_record(draw, content):
    kinds = [MetricRecord({"x": 1.0}), ConfigRecord({"x": "y"}), record(arrays_of(1))]
    name = draw(st.one_of(st.sampled_from(["arrays", "metrics", "config"]), st.text()))
    content[name] = draw(st.sampled_from([*kinds, MetricRecord()]))


def scale(draw, content):
    factor = draw(st.floats(width=32))
    transport = {"float32": "float32", "uint16": "bfloat16", "int8": "int8"}
    dtype = content.array_records["arrays"]["a"].dtype
    arrays = values_of(good_reply(3, transport.get(dtype, "float32")).array_records["arrays"])
    with np.errstate(all="ignore"):
        scaled = {n: (at * np.float32(factor)).astype(at.dtype) for n, at in arrays.items()}
    content["arrays"] = record(scaled)


def put_array(draw, content):
    made = draw(
        st.one_of(
            st.builds(
                Array,
                st.sampled_from(["float32", "uint16", "object", "x\n"]),
                st.one_of(shapes, st.sampled_from([*SHAPES.values(), (10**12,)])),
                st.sampled_from(["numpy.ndarray", "pickle", ""]),
                st.binary(max_size=300),
            ),
            st.sampled_from([(2, 3), (4,), (1, 3), (0,), ()]).map(
                lambda shape: Array(np.ones(shape, np.float32))
            ),
        )
    )
    content.array_records["arrays"][draw(st.one_of(st.sampled_from("ab"), st.text()))] = made


def break_bytes(draw, content):
    arrays = content.array_records["arrays"]
    name = draw(st.sampled_from("ab"))
    array = arrays[name]
    data = bytearray(array.data)
    for _ in range(draw(st.integers(1, 3)) if data else 0):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(data)))
    data = draw(st.sampled_from([bytes(data), bytes(data[:cut]), bytes(data) + b"x" * cut]))
    arrays[name] = Array(array.dtype, tuple(array.shape), array.stype, data)


def declare_giant(draw, content):
    """A header inside the bytes that declares more than any memory holds."""
    arrays = content.array_records["arrays"]
    data = arrays["a"].data.replace(b"(2, 3), }       ", b"(9999999999,), }")
    arrays["a"] = Array("float32", (2, 3), "numpy.ndarray", data)


def drop_array(draw, content):
    content.array_records["arrays"].pop(draw(st.sampled_from("ab")), None)


CHANGES = [
    set_number, drop_number, drop_record, put_record, scale, put_array, break_bytes, declare_giant,
    drop_array,
]  # fmt: skip


@st.composite
def replies(draw, transport):
    """A good reply after up to three changes."""
    content = good_reply(3, transport)
    for change in draw(st.lists(st.sampled_from(CHANGES), max_size=3)):
        arrays = content.array_records.get("arrays")
        whole = arrays is not None and set(arrays) >= {"a", "b"}
        if ("metrics" in content.metric_records or "number" not in change.__name__) and whole:
            change(draw, content)
    return content


class Watched(LoraAveraging):
    """Keeps the updates that it has averaged."""

    def combine(self, updates, weights):
        self.updates = {client: dict(update) for client, update in updates.items()}
        return super().combine(updates, weights)


@pytest.mark.parametrize("transport", ["float32", "bfloat16", "int8"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_reply_is_refused_in_one_line_or_does_no_harm(transport, data):
    strategy = Watched(FederationSettings(transport=transport), Ledger(CLIENTS), seed=0)
    initial = arrays_of(9)
    messages = strategy.configure_train(1, record(initial), ConfigRecord(), grid=None)
    contents = [good_reply(seed, transport) for seed in range(3)]
    contents.append(data.draw(replies(transport)))
    averaged, _ = strategy.aggregate_train(
        1,
        [Message(content, reply_to=message)
         for content, message in zip(contents, messages, strict=True)],
    )  # fmt: skip
    result = values_of(averaged)
    sent = strategy._sent[0].values
    assert {name: array.shape for name, array in result.items()} == SHAPES
    assert all(array.dtype == np.float32 for array in result.values())
    assert all(np.isfinite(array).all() for array in result.values())

    def distance(update):
        return math.sqrt(sum(np.square(update[n] - at, dtype=np.float64).sum()
                             for n, at in sent.items()))  # fmt: skip

    honest = max(distance(strategy.updates[client]) for client in range(3))
    assert distance(result) <= 10 * honest
    assert set(strategy.updates) >= {0, 1, 2}
    for refused in strategy.ledger.refused:
        assert refused.client == 3
        assert refused.reason.isprintable()
        assert 0 < len(refused.reason) <= 2000


def fault(content, **changes):
    asked = {
        "server_round": 1,
        "scores": ("loss", "seconds"),
        "arrays": record(arrays_of(9)),
    } | changes
    return find_fault(content, ReplySpec(**asked))


def test_a_good_reply_has_no_fault():
    assert fault(good_reply(0)) is None


def test_a_truth_value_is_no_number_of_examples():
    content = good_reply(0)
    dict.__setitem__(content["metrics"].__dict__["_data"], "num-examples", True)
    assert fault(content) == "num-examples is True, not a whole number above 0"


@pytest.mark.parametrize("count", [1, 2**53])
def test_honest_counts_are_taken(count):
    content = good_reply(0)
    content["metrics"]["num-examples"] = count
    assert fault(content) is None
    content["metrics"]["num-examples"] = count + 2**53
    assert "num-examples" in fault(content)


@pytest.mark.parametrize("accuracy", [-0.01, 1.01, math.nan])
def test_an_accuracy_is_a_share(accuracy):
    numbers = {"server-round": 1, "num-examples": 10, "loss": 1.0, "accuracy": accuracy}
    content = RecordDict({"metrics": MetricRecord(numbers)})
    assert "not a finite number from 0 to 1" in fault(
        content, scores=("loss", "accuracy"), arrays=None
    )


@pytest.mark.parametrize("seconds", [-1.0, 1e10, math.inf])
def test_training_takes_some_time_and_not_for_ever(seconds):
    content = good_reply(0)
    content["metrics"]["seconds"] = seconds
    assert "the metric 'seconds' is" in fault(content)


def test_a_huge_loss_would_make_the_mean_infinite():
    content = good_reply(0)
    content["metrics"]["loss"] = 1e300
    assert "'loss' is 1e+300" in fault(content)


def test_a_size_that_is_declared_is_never_allocated():
    content = good_reply(0)
    declare_giant(None, content)
    assert b"9999999999" in content["arrays"]["a"].data
    assert "its bytes are not those of a float32 array (2, 3)" in fault(content)


def test_arrays_that_lie_column_by_column_in_memory_are_sent_row_by_row():
    arrays = arrays_of(0)
    turned = {name: np.asfortranarray(array) for name, array in arrays.items()}
    sent = record_of(turned)
    np.testing.assert_array_equal(sent["a"].numpy(), arrays["a"])
    assert fault(RecordDict({"arrays": sent, "metrics": good_reply(0)["metrics"]})) is None


@pytest.mark.parametrize(
    ("norms", "limit"),
    [
        ([1.0, 1.0, 1e6], 10.0),
        ([1.0, 2.0, 3.0, 1e6, 1e6], 30.0),
        ([1e6, 1e6, 1.0, 2.0, 3.0], 30.0),
        ([0.0, 0.0, 1.0, 2.0, 3.0], 10.0),
        ([1.0, 1e6], math.inf),
        ([1e6], math.inf),
        ([], math.inf),
        ([0.0, 0.0, 1.0], math.inf),
    ],
)
def test_the_limit_is_the_honest_majoritys(norms, limit):
    assert norm_limit(norms, 10.0) == limit
    assert norm_limit(norms, 0.0) == math.inf


@given(
    st.lists(st.floats(0.5, 2.0), min_size=2, max_size=9),
    st.lists(st.floats(0, 1e30), max_size=8),
)
def test_a_hostile_minority_neither_lifts_the_limit_nor_has_honest_updates_refused(honest, hostile):
    hostile = hostile[: len(honest) - 1]
    if len(honest) + len(hostile) < 3:
        return
    limit = norm_limit([*honest, *hostile], 10.0)
    assert 10 * min(honest) <= limit <= 10 * max(honest)
    assert max(honest) <= limit


def test_an_error_reply_is_one_printable_line():
    federation = FederationSettings(transport="float32", max_norm_ratio=0.0)
    strategy = LoraAveraging(federation, Ledger(CLIENTS), seed=0)
    messages = strategy.configure_train(1, record(arrays_of(9)), ConfigRecord(), grid=None)
    reason = "\x1b[31mERROR : error: run is over\n" * 1000
    contents = [Message(good_reply(0), reply_to=message) for message in messages[:3]]
    strategy.aggregate_train(1, [*contents, Message(Error(1, reason), reply_to=messages[3])])
    (refused,) = strategy.ledger.refused
    assert refused.reason.isprintable()
    assert refused.reason.startswith("[31mERROR : error: run is over [31mERROR")
    assert len(refused.reason) == 2000


def test_of_many_names_a_few_are_told():
    assert some({"b", "a"}) == "['a', 'b']"
    assert some([f"{n}" for n in range(9)]) == "['0', '1', '2', '3', '4'] and 4 more"
    assert some(["x" * 100]) == f"['{'x' * 60}…']"
