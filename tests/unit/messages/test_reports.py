"""What a client sends of itself travels whole, and nothing that does not fit is taken."""

import json
import math

import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from potara_flwr.core.errors import ReplyError
from potara_flwr.merging.rules import GRID, RULES
from potara_flwr.messages.reports import Description, Report, pack, unpack
from potara_flwr.results.folder import summarize


def report_of(**changes) -> Report:
    numbers = dict.fromkeys(RULES, 0.25) | {"oracle": 0.5}
    scores = numbers | {"initial": 0.1, "federated": 0.2, "local": 0.3}
    columns = {"weight": list(GRID), "accuracy": [0.5] * 11, "loss": [1.0] * 11}
    return Report(
        **{
            "optimizer_steps": 70,
            "traces": {"federated": 2.0, "local": 3.0, "cross": 1.0},
            "bound": {"federated": 2.0, "local": 3.0, "merged": 1.5},
            "weights": numbers,
            "personalized": {
                "rule": "segment", "weight": 0.5, "accuracy": 0.5, "loss": 1.0, "fallback": "",
                "reason": "",
            },
            "diagnosis": {"favours": "both", "low": 0.1, "high": 0.7, "gain": 0.0, "warning": ""},
            "gradients": "batched",
            "accuracy": scores,
            "loss": scores,
            "grid": columns,
            "seconds": {"training": 2.0, "local_training": 1.0, "weight": 0.01},
            **changes,
        }
    )  # fmt: skip


@pytest.mark.parametrize("svd_error", [None, 0.125])
def test_a_report_travels_whole(svd_error):
    report = report_of(svd_error=svd_error)
    assert unpack(pack(report), Report) == report


def test_a_report_says_which_round_it_answers():
    report = report_of()
    content = pack(report, 7)
    assert unpack(content, Report, 7) == report
    with pytest.raises(ReplyError, match="answers round 7, not 8"):
        unpack(content, Report, 8)
    with pytest.raises(ReplyError, match="answers round None, not 7"):
        unpack(pack(report), Report, 7)
    with pytest.raises(ReplyError, match="server-round"):
        unpack(content, Report)


def test_a_description_travels_whole():
    description = Description(client=3, num_partitions=8, num_train=5)
    content = pack(description)
    assert set(content) == {"metrics"}
    assert unpack(content, Description) == description


def test_without_a_comparison_the_rules_have_weights_and_no_scores():
    singles = {"initial": 0.1, "federated": 0.2, "local": 0.3}
    weights = dict.fromkeys(RULES, 0.25)
    alone = {"grid": None, "weights": weights, "accuracy": singles, "loss": singles}
    report = report_of(**alone)
    assert unpack(pack(report), Report) == report
    entry = report.to_json()
    assert "grid" not in entry
    assert entry["svd_error"] is None
    for wrong in ("accuracy", "loss", "weights"):
        with pytest.raises(ValueError, match="oracle"):
            report_of(**alone | {wrong: alone[wrong] | {"oracle": 0.5}})


def test_the_grid_is_a_list_of_points_in_the_results():
    points = report_of().to_json()["grid"]
    assert points[3] == {"weight": 0.3, "accuracy": 0.5, "loss": 1.0}
    assert len(points) == 11


def without(name):
    def change(content):
        del content["metrics"][name]

    return change


def with_value(name, value, record="metrics"):
    def change(content):
        content[record][name] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("traces.cross"), "traces.cross: Field required"),
        (without("accuracy.segment"), "['segment'] missing"),
        (without("weights.oracle"), "['oracle'] missing"),
        (without("seconds.training"), "seconds.training"),
        (with_value("weights.mine", 0.1), "['mine'] missing or not asked for"),
        (with_value("loss.local", math.nan), "loss.local"),
        (with_value("traces.federated", math.inf), "traces.federated"),
        (with_value("grid.loss", [1.0, 2.0]), "grid.loss"),
        (with_value("bound", 1.0), "bound"),
        (with_value("accuracy.mine", 1.0), "accuracy: ['mine'] missing or not asked for"),
        (with_value("samples", [1.0] * 1000), "samples"),
        (with_value("accuracy.local", "high", "config"), "accuracy.local"),
        (lambda content: content.pop("config"), "diagnosis.favours"),
        (without("personalized.weight"), "['weight'] missing"),
        (without("optimizer_steps"), "optimizer_steps: Field required"),
        (lambda content: content.pop("metrics"), "Field required"),
        (lambda content: content.update({"arrays": ArrayRecord()}), "'arrays'"),
        (lambda content: content.update({"more": MetricRecord()}), "'more'"),
        (
            lambda content: content.update({"metrics": ConfigRecord()}),
            "'metrics' is a ConfigRecord",
        ),
        (lambda content: content.update({"config": MetricRecord()}), "'config' is a MetricRecord"),
        (
            with_value("personalized.accuracy", 0.5, "config"),
            "personalized.accuracy is there twice",
        ),
        (with_value("personalized.accuracy", 1.5), "personalized.accuracy"),
        (with_value("personalized.loss", 1e300), "personalized.loss"),
        (with_value("traces.cross", -1e300), "traces.cross"),
        (with_value("accuracy.local", -0.1), "accuracy.local"),
        (with_value("seconds.training", -1.0), "seconds.training"),
        (with_value("optimizer_steps", 7.0), "optimizer_steps"),
        (with_value("optimizer_steps", 10**400), "optimizer_steps"),
        (with_value("personalized.loss", 10**400), "personalized.loss"),
        (with_value("personalized.rule", "mine", "config"), "personalized.rule"),
        (with_value("personalized.fallback", "grid", "config"), "personalized.fallback"),
        (with_value("diagnosis.favours", "me", "config"), "diagnosis.favours"),
        (with_value("x\n" * 10_000, 1.0), "x x x"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_name(change, words):
    content = pack(report_of())
    change(content)
    with pytest.raises(ReplyError) as error:
        unpack(content, Report)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_method_that_does_not_merge_reports_what_it_has_and_no_more():
    report = Report(
        optimizer_steps=3,
        personalized={"accuracy": 0.5, "loss": 1.0},
        accuracy={"initial": 0.1, "federated": 0.5},
        loss={"initial": 2.0, "federated": 1.0},
        seconds={"training": 0.1},
    )
    assert unpack(pack(report), Report) == report
    assert report.to_json() == {
        "optimizer_steps": 3,
        "personalized": {"accuracy": 0.5, "loss": 1.0},
        "accuracy": {"initial": 0.1, "federated": 0.5},
        "loss": {"initial": 2.0, "federated": 1.0},
        "seconds": {"training": 0.1},
    }
    report.check_adapters({"initial", "federated"})
    with pytest.raises(ReplyError, match=r"\['local'\] missing"):
        report.check_adapters({"initial", "federated", "local"})
    content = pack(report)
    content["metrics"]["traces.federated"] = 1.0
    with pytest.raises(ReplyError, match="traces"):
        unpack(content, Report)


def test_a_text_of_a_client_is_one_short_line_of_what_can_be_printed():
    content = pack(report_of())
    content["config"]["diagnosis.warning"] = "a\n\x1b[31mred " + "b" * 10_000
    warning = unpack(content, Report).diagnosis.warning
    assert warning.startswith("a [31mred bbb")
    assert warning.isprintable()
    assert len(warning) == 2000


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"client": -1, "num_partitions": 2},
        {"client": 1.5, "num_partitions": 2},
        {"client": 1.0, "num_partitions": 2},
        {"client": 1, "num_partitions": 2, "num_train": 2**60},
    ],
)
def test_a_bad_description_is_refused(numbers):
    with pytest.raises(ReplyError):
        unpack(RecordDict({"metrics": MetricRecord(numbers)}), Description)


numbers = st.one_of(
    st.integers(), st.integers(-(10**400), 10**400), st.floats(),
    st.lists(st.floats(), max_size=12), st.lists(st.integers(), max_size=12),
)  # fmt: skip
texts = st.one_of(st.text(), st.binary(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(),
                  st.lists(st.text(), max_size=3))  # fmt: skip
KNOWN = sorted([*pack(report_of())["metrics"], *pack(report_of())["config"], "client", "num_test"])
names = st.one_of(st.sampled_from(KNOWN), st.sampled_from(["", ".", "a.b.c", "grid"]), st.text())
changes = st.lists(
    st.one_of(
        st.tuples(st.just("metrics"), names, numbers),
        st.tuples(st.just("config"), names, texts),
        st.tuples(st.sampled_from(["metrics", "config"]), names, st.none()),
        st.tuples(st.just("record"), st.one_of(st.just("config"), st.text()), st.integers(0, 2)),
    ),
    min_size=1,
    max_size=4,
)


@given(changes, st.sampled_from([Report, Description]))
def test_a_changed_entry_is_refused_in_one_line_or_can_be_used(changed, kind):
    honest = report_of() if kind is Report else Description(client=1, num_partitions=2)
    content = pack(honest)
    for place, name, value in changed:
        part = content.get(place)
        if place == "record":
            content[name] = [MetricRecord(), ConfigRecord(), ArrayRecord()][value]
        elif value is None and part is not None:
            part.pop(name, None)
        elif isinstance(part, MetricRecord if place == "metrics" else ConfigRecord):
            part[name] = value
    try:
        entry = unpack(content, kind)
    except ReplyError as error:
        reason = str(error)
        assert (reason.isprintable(), 0 < len(reason) <= 2000) == (True, True)
        return
    assert unpack(pack(entry), kind) == entry
    if kind is Report:
        sizes = {"client": 0, "num_test": 5}
        rows = [sizes | report.to_json() for report in (entry, honest)]
        json.dumps([rows, summarize(rows)], allow_nan=False)
