"""What a client sends of itself travels whole, and nothing that does not fit is taken."""

import math

import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from potara_flwr.entries import Description, Report, pack, unpack
from potara_flwr.errors import ReplyError
from potara_flwr.rules import GRID, RULES


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


def test_a_description_travels_whole():
    description = Description(client=3, num_partitions=8, num_train=5)
    content = pack(description)
    assert set(content) == {"metrics"}
    assert unpack(content, Description) == description


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
        (lambda content: content.update({"metrics": ConfigRecord()}), "Field required"),
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


@pytest.mark.parametrize("numbers", [{}, {"client": -1, "num_partitions": 2}, {"client": 1.5}])
def test_a_bad_description_is_refused(numbers):
    with pytest.raises(ReplyError):
        unpack(RecordDict({"metrics": MetricRecord(numbers)}), Description)
