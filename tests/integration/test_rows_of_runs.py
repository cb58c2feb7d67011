"""Every row of the data is accounted for: said at the start, and in the results."""

import logging

import pandas as pd
import pytest
from tiny_models import make_tiny_bert, sentences

from potara_flwr.core.errors import SettingsError
from potara_flwr.in_process import run_in_process
from potara_flwr.results.folder import read_results
from potara_flwr.results.rows import ROWS

pytestmark = pytest.mark.integration


@pytest.fixture
def run(tiny, tmp_path, caplog):
    """Run on rows in splits of 120, 60 and 60; return the results and the lines about rows."""
    make_tiny_bert(tmp_path / "bert")
    rows = pd.DataFrame(sentences())
    (tmp_path / "data").mkdir()
    for split, part in (("train", rows[:120]), ("test", rows[120:180]), ("dev", rows[180:])):
        part.to_csv(tmp_path / "data" / f"{split}.csv", index=False)

    def go(overrides):
        made = {
            "task.name": "text-classification",
            "task.model": str(tmp_path / "bert"),
            "data.path": str(tmp_path / "data"),
            "data.test-split": "test",
            "run.results": str(tmp_path / "run"),
            "run.report": False,
            "federation.rounds": 1,
        }
        with caplog.at_level(logging.INFO):
            results = read_results(run_in_process(tiny({**made, **overrides})))
        lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith(ROWS)]
        return results, lines

    return go


def adds_up(rows):
    used = rows["train"] + rows["calibration"] + rows["test"]
    return rows["found"] == used + sum(rows["left_out"].values())


@pytest.mark.parametrize(
    ("overrides", "left_out"),
    [
        ({"data.train-samples": 0}, {"unused_splits": 60}),
        ({"data.train-samples": 9}, {"unused_splits": 60, "beyond_train_samples": 75}),
        ({"data.train-samples": 0, "data.test-split": ""}, {"unused_splits": 120}),
        (
            {"data.train-samples": 0, "data.train-split": "train[:100]", "data.test-samples": 5},
            {"unused_splits": 80, "beyond_test_samples": 45},
        ),
    ],
)
def test_found_is_used_and_left_out_with_the_reason(run, overrides, left_out):
    results, lines = run({"data.partition": "iid", **overrides})
    rows = results["rows"]
    assert rows["found"] == 240
    assert rows["left_out"] == left_out
    assert adds_up(rows)
    for client in results["clients"]:
        assert adds_up(client["rows"])
        assert client["rows"]["train"] == client["num_train"]
        assert client["rows"]["test"] == client["num_test"]
        assert client["rows"]["calibration"] == client["num_calibration"]
    assert len(lines) == 4
    assert lines[0].startswith(f"{ROWS}client 0: ")
    assert lines[3].startswith(f"{ROWS}in all: 240 found, {rows['train']} for training")
    assert f"{left_out['unused_splits']} in splits that are not used" in lines[3]


def test_splits_that_are_not_used_are_named(run, caplog):
    run({"data.partition": "iid"})
    words = "data: 60 of its 240 rows are in splits that are not used (it has train: 120"
    assert words in caplog.text


def test_splits_that_have_rows_in_common_are_refused(run):
    with pytest.raises(SettingsError, match="and test have 60 rows in common"):
        run({"data.train-split": "train+validation+test"})


def test_rows_that_a_partition_gives_to_nobody_are_left_out(run):
    results, _ = run(
        {"data.partition": "pathological", "data.classes-per-client": 1, "data.num-clients": 2,
         "data.train-samples": 0}
    )  # fmt: skip
    assert results["rows"]["found"] == 240
    assert results["rows"]["left_out"]["no_client"] == 60  # a third of 180
    assert adds_up(results["rows"])
