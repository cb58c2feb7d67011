"""Comparisons: statistics by hand, references, what lacks is said, page and CSV stand alone."""

import csv
import json
import math
import re

import pytest
from compared_runs import store_run, store_sweep

from potara_flwr.command.main import main
from potara_flwr.comparison.differences import compare, remarks
from potara_flwr.comparison.drawings import figures_of, side_by_side
from potara_flwr.comparison.runs import ComparisonError, common, find, group
from potara_flwr.comparison.tables import cells, headers
from potara_flwr.core.statistics import Difference, Spread


def rows_of(folder, *reference):
    groups, _ = group(find([folder]))
    return compare(groups, reference)


@pytest.fixture
def two_methods(tmp_path):
    """Two methods, two seeds, two clients; gains of .1, .2 (seed 1) and .4, .5 (seed 2)."""
    store_run(tmp_path / "a1", {"method": "fedit", "seed": 1}, {0: 0.5, 1: 0.6})
    store_run(tmp_path / "a2", {"method": "fedit", "seed": 2}, {0: 0.3, 1: 0.4})
    store_run(tmp_path / "b1", {"method": "potara", "seed": 1}, {0: 0.6, 1: 0.8})
    store_run(tmp_path / "b2", {"method": "potara", "seed": 2}, {0: 0.7, 1: 0.9})
    return tmp_path


def test_rows_have_the_numbers_of_a_calculation_by_hand(two_methods):
    fedit, potara = rows_of(two_methods)
    assert fedit.group.settings == {"method": "fedit"}
    assert fedit.is_reference
    assert (fedit.over_seeds, fedit.over_clients) == (None, None)
    assert fedit.accuracy.mean == pytest.approx((0.55 + 0.35) / 2)
    assert fedit.accuracy.deviation == pytest.approx(0.2 / math.sqrt(2))
    assert potara.accuracy.mean == pytest.approx((0.7 + 0.8) / 2)
    assert potara.loss.mean == pytest.approx(1 - 0.75)
    # By seeds: gains .15 and .45; s = .3/√2, two errors = 2·(.3/√2)/√2 = .3.
    assert potara.over_seeds == Difference(pytest.approx(0.3), pytest.approx(0.3), 2)
    # By clients: gains .1, .2, .4, .5; s² = (.04 + .01 + .01 + .04)/3 = .1/3.
    error = 2 * math.sqrt(0.1 / 3) / 2
    assert potara.over_clients == Difference(pytest.approx(0.3), pytest.approx(error), 4)
    assert remarks([fedit, potara]) == []


def test_bytes_steps_and_seconds_are_told_where_they_are_known(tmp_path):
    sent = {"communication": {"bytes_up": 10, "bytes_down": 20}}
    for seed in (1, 2):
        seconds = {"rounds": 4.0 * seed, "personalization": 2.0}
        settings = {"method": "fedit", "seed": seed}
        folder = store_run(tmp_path / f"a{seed}", settings, {0: 0.5}, **sent, seconds=seconds)
        results = json.loads((folder / "results.json").read_text())
        results["summary"]["optimizer_steps"] = {"mean": 100 * seed, "total": 100 * seed}
        (folder / "results.json").write_text(json.dumps(results))
    folder = store_run(tmp_path / "b", {"method": "potara", "seed": 1}, {0: 0.5})
    results = json.loads((folder / "results.json").read_text())
    del results["summary"]["optimizer_steps"]
    (folder / "results.json").write_text(json.dumps(results))
    known, unknown = rows_of(tmp_path)
    assert known.num_bytes == Spread(30.0, 0.0)
    assert known.steps == Spread(150.0, pytest.approx(100 / math.sqrt(2)))
    assert known.seconds == Spread(8.0, pytest.approx(4 / math.sqrt(2)))
    assert (unknown.steps, unknown.seconds) == (None, None)


def test_seconds_of_the_weight_are_those_of_a_client(tmp_path):
    for method, seconds in (("fedit", [{}, {}]), ("potara", [{"weight": 0.5}, {"weight": 1.5}])):
        folder = store_run(tmp_path / method, {"method": method, "seed": 1}, {0: 0.5, 1: 0.5})
        results = json.loads((folder / "results.json").read_text())
        for client, measured in zip(results["clients"], seconds, strict=True):
            client["seconds"] = measured
        (folder / "results.json").write_text(json.dumps(results))
    fedit, potara = rows_of(tmp_path)
    assert fedit.seconds_weight is None
    assert potara.seconds_weight == Spread(1.0, None)
    columns = headers([fedit, potara])
    at = columns.index("λ (s)")
    assert (cells(fedit, columns)[at], cells(potara, columns)[at]) == ("–", "1.00")


def test_runs_without_results_are_told(tmp_path, capsys):
    store_run(tmp_path / "done", {"method": "fedit", "seed": 1}, {0: 0.5})
    for name, file in (("broken", "error.txt"), ("half", "checkpoint.safetensors")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    assert main(["compare", str(tmp_path)]) == 0
    assert "note: left out, failed or not at their end: broken, half" in capsys.readouterr().out


def test_a_named_reference_is_the_like_of_each_row(tmp_path):
    store_sweep(tmp_path, ("fedit", "potara"), ranks=(2, 4), alphas=(0.5,))
    rows = rows_of(tmp_path, "method=fedit")
    assert [row.reference.settings for row in rows] == [
        {"method": "fedit", "lora.rank": 2}, {"method": "fedit", "lora.rank": 4},
        {"method": "fedit", "lora.rank": 2}, {"method": "fedit", "lora.rank": 4},
    ]  # fmt: skip
    (only,) = {row.reference.label for row in rows_of(tmp_path, "method=fedit", "lora.rank=4")}
    assert only == "method=fedit, lora.rank=4"
    assert {row.reference.label for row in rows_of(tmp_path)} == {"method=fedit, lora.rank=2"}


def test_method_comes_first_and_numbers_go_by_size(tmp_path):
    store_sweep(tmp_path, ("b", "a"), ranks=(10, 2), alphas=(0.5, 0.1))
    groups, _ = group(find([tmp_path]))
    assert list(groups[0].settings) == ["method", "data.alpha", "lora.rank"]
    assert [tuple(one.settings.values()) for one in groups[:4]] == [
        ("a", 0.1, 2), ("a", 0.1, 10), ("a", 0.5, 2), ("a", 0.5, 10)
    ]  # fmt: skip
    assert "lora.alpha" in common(find([tmp_path]), list(groups[0].settings))


def test_seeds_clients_and_references_that_lack_are_said(two_methods):
    store_run(two_methods / "b3", {"method": "potara", "seed": 3}, {0: 0.9})
    store_run(two_methods / "c", {"method": "potara", "seed": 1, "lora.rank": 7}, {0: 0.1, 1: 0.1})
    store_run(two_methods / "d", {"method": "fedit", "seed": 9, "lora.rank": 9}, {0: 0.1, 1: 0.1})
    store_run(two_methods / "e", {"method": "potara", "seed": 8, "lora.rank": 9}, {0: 0.1, 1: 0.1})
    rows = rows_of(two_methods, "method=fedit")
    said = remarks(rows)
    assert "method=fedit, lora.rank=4: no run of seed 3, 8, 9" in said
    assert "method=potara, lora.rank=4, seed 3: no result of client 1" in said
    assert "method=potara, lora.rank=7: no run of the reference is its like" in said
    assert "method=potara, lora.rank=9: no seed is also the reference's" in said
    four = next(r for r in rows if r.group.settings == {"method": "potara", "lora.rank": 4})
    assert (four.over_seeds.pairs, four.over_clients.pairs) == (2, 4)


def test_one_seed_is_said(tmp_path):
    store_run(tmp_path / "a", {"method": "fedit"}, {0: 0.5})
    store_run(tmp_path / "b", {"method": "potara"}, {0: 0.7})
    assert any("one seed: there is no spread" in remark for remark in remarks(rows_of(tmp_path)))


def test_a_copy_is_left_out_and_a_contradiction_refused(tmp_path):
    store_run(tmp_path / "a", {"seed": 1}, {0: 0.5})
    store_run(tmp_path / "b", {"seed": 1}, {0: 0.5})
    (one,), said = group(find([tmp_path, tmp_path / "a"]))
    assert list(one.runs) == [1]
    assert said == [f"{tmp_path / 'b'} is a copy of {tmp_path / 'a'} and is left out"]
    store_run(tmp_path / "c", {"seed": 1}, {0: 0.6})
    with pytest.raises(ComparisonError, match="same settings but other results"):
        group(find([tmp_path]))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["{}/nothing"], "there is no folder"),
        (["{}/empty"], "there is no results.json"),
        (["{}/broken"], "holds no results of a run"),
        (["{}/runs", "--reference", "method=fedt"], "did you mean fedit?"),
        (["{}/runs", "--reference", "methd=fedit"], "the runs differ in method"),
        (["{}/runs", "--reference", "fedit"], "is no name=value"),
        (["{}/runs", "--output", "{}/file/x"], "cannot be written"),
    ],
)
def test_errors_are_one_line(words, part, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "results.json").write_text("{}")
    store_run(tmp_path / "runs" / "a", {"method": "fedit"}, {0: 0.5})
    store_run(tmp_path / "runs" / "b", {"method": "potara"}, {0: 0.5})
    assert main(["compare", *(word.format(tmp_path) for word in words)]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert part in line


def test_page_csv_and_figures_are_written_and_stand_alone(two_methods, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    store_run(two_methods / "c", {"method": "<b>x", "seed": 1}, {0: 0.6, 1: 0.8})
    assert main(["compare", str(two_methods), "--reference", "method=fedit"]) == 0
    out = capsys.readouterr().out
    assert "+30.0 ± 30.0 (2)" in out
    assert "note: method=<b>x: no run of seed 2" in out
    folder = two_methods / "comparison"
    html = (folder / "comparison.html").read_text()
    assert "<td>+30.0 ± 30.0 (2)</td>" in html
    assert "method=&lt;b&gt;x: no run of seed 2" in html
    assert "<b>" not in html
    assert set(re.findall(r"src=\"([^,]+),", html)) == {"data:image/png;base64"}
    assert not re.findall(r"(?:href|<script|<link|@import|url\()", html)
    rows = list(csv.DictReader((folder / "comparison.csv").open()))
    potara = next(row for row in rows if row["method"] == "potara")
    assert potara["seeds"] == "1 2"
    assert float(potara["gain_by_seeds"]) == pytest.approx(0.3)
    assert float(potara["gain_by_clients_two_errors"]) == pytest.approx(math.sqrt(0.1 / 3))
    assert potara["reference"] == "method=fedit"
    # A second comparison finds the same runs, and writes the same bytes.
    before = {file: file.read_bytes() for file in folder.rglob("*.*")}
    assert main(["compare", str(two_methods), "--reference", "method=fedit"]) == 0
    assert {file: file.read_bytes() for file in folder.rglob("*.*")} == before


def test_each_swept_number_has_a_figure(tmp_path):
    store_sweep(tmp_path, ("fedit", "potara"))
    rows = rows_of(tmp_path)
    figures = figures_of(rows)
    assert set(figures) == {
        "accuracy-against-bytes", "accuracy-against-data-alpha", "accuracy-against-lora-rank"
    }  # fmt: skip
    drawn = {name: draw(rows) for name, (draw, _) in figures.items()}
    for figure in drawn.values():
        (axes,) = figure.axes
        assert axes.get_xlabel()
        assert "(%)" in axes.get_ylabel()
        assert figure.legends
    ticks = drawn["accuracy-against-lora-rank"].axes[0].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == ["2", "4", "8"]
    lines = [line for line in drawn["accuracy-against-lora-rank"].axes[0].lines
             if len(line.get_ydata()) == 3]  # fmt: skip
    potara = [100 * r.accuracy.mean for r in rows if r.group.settings["method"] == "potara"
              and r.group.settings["data.alpha"] == 0.1]  # fmt: skip
    assert any(list(line.get_ydata()) == pytest.approx(potara) for line in lines)


def test_runs_that_differ_in_nothing_are_one_row_without_a_legend(tmp_path):
    for seed in (1, 2):
        store_run(tmp_path / f"{seed}", {"seed": seed}, {0: 0.5, 1: 0.6 + seed / 10})
    (row,) = rows_of(tmp_path)
    assert row.group.label == "all"
    ((draw, _),) = figures_of([row]).values()
    assert draw([row]).legends == []


def test_points_that_would_hide_each_other_stand_side_by_side():
    assert side_by_side([5.0, 0.0, 9.0], near=1.0) == [5.0, 0.0, 9.0]
    assert side_by_side([2.0, 8.0, 2.0, 2.3], near=1.0) == pytest.approx([1.1, 8.0, 2.1, 3.1])
    assert side_by_side([0.0, 0.0], near=0.0) == [0.0, 0.0]
