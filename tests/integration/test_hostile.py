"""A federation with a hostile client finishes, and the honest ones end as if it had only failed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord

from potara_flwr.in_process import InProcessGrid, run_in_process
from potara_flwr.messages.transport import record_of, values_of
from potara_flwr.results.folder import TIMES, read_results

pytestmark = pytest.mark.integration

HOSTILE = 3
"""The client, and the node below its own."""


def each_array(change):
    def attack(content):
        content["arrays"] = record_of(
            {name: change(array) for name, array in values_of(content["arrays"]).items()}
        )

    return attack


def metric(name, value):
    def attack(content):
        content["metrics"][name] = value

    return attack


def record(name, value):
    def attack(content):
        content[name] = value

    return attack


def array(name_of, **fields):
    def attack(content):
        name = next(iter(content["arrays"]))
        honest = content["arrays"][name]
        whole = {"dtype": honest.dtype, "shape": tuple(honest.shape), "stype": honest.stype,
                 "data": honest.data}  # fmt: skip
        content["arrays"][name_of(name)] = Array(**whole | fields)

    return attack


def itself(name):
    return name


def lacking_one(content):
    content["arrays"].pop(next(iter(content["arrays"])))


def not_a_number(values):
    changed = values.copy()
    changed.flat[0] = math.nan
    return changed


GIANT = b"\x93NUMPY\x01\x00v\x00" + (
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117) + b"\n"
)
TRAIN = {
    "NaN": (each_array(not_a_number), "not finite"),
    "Inf": (each_array(lambda at: at + np.float32(math.inf)), "not finite"),
    "a missing key": (lacking_one, "are missing or not asked for"),
    "an extra key": (array(lambda name: f"{name}.more"), "are missing or not asked for"),
    "another shape": (each_array(np.transpose), "is float32 ("),
    "a shape that broadcasts": (each_array(lambda at: at[:1]), "is float32 (1,"),
    "another dtype": (each_array(lambda at: at.astype(np.float64)), "is float64"),
    "a millionfold norm": (each_array(lambda at: at * 1e6), "times the median"),
    "a norm that overflows": (each_array(lambda at: at * 0 + np.float32(3e38)), "times the median"),
    "no examples": (metric("num-examples", 0), "num-examples is 0"),
    "negative examples": (metric("num-examples", -20), "num-examples is -20"),
    "half an example": (metric("num-examples", 19.5), "num-examples is 19.5"),
    "a swamping count": (metric("num-examples", 10**15), "has told of"),
    "an infinite loss": (metric("loss", math.inf), "'loss' is inf"),
    "a loss beyond all sums": (metric("loss", 1.7e308), "'loss' is 1.7e+308"),
    "time that runs backwards": (metric("seconds", -1.0), "'seconds' is -1.0"),
    "an extra metric": (metric("x" * 10_000, 1.0), "are missing or not asked for"),
    "an extra record": (record("data", ConfigRecord({"a": "b"})), "has the records"),
    "arrays as metrics": (record("arrays", MetricRecord()), "is a MetricRecord"),
    "no metrics": (record("metrics", MetricRecord()), "are missing or not asked for"),
    "an empty reply": (lambda content: content.clear(), "has the records []"),
    "another round": (metric("server-round", 1), "answers round 1"),
    "bytes that are no array": (array(itself, data=b"no array"), "cannot be read"),
    "a pickle": (array(itself, stype="pickle"), "is serialized as 'pickle'"),
    "a giant shape": (array(itself, shape=(10**12,)), "is float32 (1000000000000)"),
    "a giant shape in the bytes": (array(itself, data=GIANT), "cannot be read"),
}
"""What is done to a reply to ``train``, one a round, and words of the reason why it is refused."""
EVALUATE = [
    (metric("accuracy", math.nan), "'accuracy' is nan"),
    (metric("accuracy", 1e9), "'accuracy' is 1000000000.0"),
    (metric("num-examples", 10**15), "has told of"),
    (metric("server-round", 10**9), "answers round 1000000000"),
]
PERSONALIZE = {
    "NaN": metric("personalized.accuracy", math.nan),
    "beyond all sums": metric("loss.local", 1.7e308),
    "negative": metric("optimizer_steps", -1),
    "another round": metric("server-round", 7),
    "what was not asked for": metric("samples", [1.0] * 1000),
    "an adapter": record("arrays", ArrayRecord({"a": Array(np.ones(3))})),
    "another rule": record("config", ConfigRecord({"personalized.rule": "<script>"})),
}


class HostileGrid(InProcessGrid):
    """One client answers every message wrongly; in ``failing`` it answers none."""

    def __init__(self, settings, *, failing=False, personalize=None, again=False):
        super().__init__(settings)
        self.failing = failing
        self.personalize = personalize
        self.again = again

    def pull_messages(self, message_ids):
        replies = super().pull_messages(message_ids)
        return [*replies, *replies] if self.again else replies

    def _answer(self, message):
        reply = super()._answer(message)
        kind = message.metadata.message_type
        if message.metadata.dst_node_id != HOSTILE + 1 or kind == "query.describe":
            return reply
        if self.failing:
            raise_instead = self.app
            self.app = fail
            reply = super()._answer(message)
            self.app = raise_instead
            return reply
        server_round = int(message.metadata.group_id or 0)
        if kind == "train":
            list(TRAIN.values())[server_round - 1][0](reply.content)
        elif kind == "evaluate":
            EVALUATE[server_round % len(EVALUATE)][0](reply.content)
        elif self.personalize:
            self.personalize(reply.content)
        return reply


def fail(message, context):
    raise RuntimeError("broken")


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    def go(name, rounds=None, report=False, **kwargs):
        folder = tmp_path_factory.mktemp(name) / "run"
        changed = {
            "run.results": str(folder),
            "data.num-clients": 4,
            "data.test-samples": 10,
            "federation.rounds": rounds or len(TRAIN),
            "federation.transport": "float32",
            "train.local-steps": 1,
            "run.report": report,
        }
        settings = tiny(changed)
        run_in_process(settings, HostileGrid(settings, **kwargs))
        return folder, read_results(folder)

    return go


@pytest.fixture(scope="module")
def failing(run):
    return run("failing", failing=True)


def without_time(value):
    if isinstance(value, dict):
        return {key: without_time(item) for key, item in value.items() if key not in TIMES}
    return [without_time(item) for item in value] if isinstance(value, list) else value


def test_every_hostile_reply_is_refused_by_name_and_has_no_effect(run, failing):
    folder, results = run("hostile", personalize=PERSONALIZE["NaN"])
    reference_folder, reference = failing
    for kind, words in (
        ("train", [words for _, words in TRAIN.values()]),
        ("evaluate", [EVALUATE[number % 4][1] for number in range(1, len(TRAIN) + 1)]),
        ("personalize", ["personalized.accuracy"]),
    ):
        refused = [item for item in results["refused"] if item["kind"] == kind]
        assert [item["client"] for item in refused] == [HOSTILE] * len(words)
        for item, expected in zip(refused, words, strict=True):
            assert expected in item["reason"]
            assert item["reason"].isprintable()
            assert len(item["reason"]) <= 2000
    assert len(results["refused"]) == 2 * len(TRAIN) + 1
    assert len(reference["refused"]) == 2 * len(TRAIN) + 1

    assert [entry["client"] for entry in results["clients"]] == [0, 1, 2]
    assert without_time(results["clients"]) == without_time(reference["clients"])
    for mine, theirs in zip(results["rounds"], reference["rounds"], strict=True):
        for key in ("loss", "accuracy", "training_loss"):
            assert mine[key] == theirs[key]
    for place in ("federated", "clients/0", "clients/1", "clients/2"):
        mine, theirs = (
            (part / place / "adapter_model.safetensors").read_bytes()
            for part in (folder, reference_folder)
        )
        assert mine == theirs


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("case", [case for case in PERSONALIZE if case != "NaN"])
def test_a_hostile_report_is_refused_and_the_run_has_its_results(run, case):
    folder, results = run("report", rounds=1, report=True, personalize=PERSONALIZE[case])
    (refused,) = [item for item in results["refused"] if item["kind"] == "personalize"]
    assert refused["client"] == HOSTILE
    assert [entry["client"] for entry in results["clients"]] == [0, 1, 2]
    assert "<script>" not in (folder / "report.html").read_text()


def test_clients_that_reply_more_than_once_are_heard_once(run):
    _, results = run("again", rounds=1, again=True)
    _, once = run("once", rounds=1)
    again = [item for item in results["refused"] if "has replied twice" in item["reason"]]
    assert {(item["client"], item["kind"]) for item in again} == {
        (client, kind) for client in range(4) for kind in ("train", "evaluate", "personalize")
    } | {(None, "describe")}
    assert without_time(results["clients"]) == without_time(once["clients"])
