"""``potara predict`` and ``potara export``: how their words reach the functions behind them."""

from __future__ import annotations

import json

import pytest

from potara_flwr.command import main as command
from potara_flwr.prediction import write_csv, write_jsonl

LABELS = [
    {"label": "it's, flu", "probabilities": {"cold": 0.25, "it's, flu": 0.75}},
    {"label": "cold", "probabilities": {"cold": 1.0, "it's, flu": 1e-9}},
]
OPTIONS = [{"option": "ja", "number": 1, "scores": [-2.0, -1.0], "probabilities": [0.3, 0.7]}]


def test_predictions_as_csv_and_jsonl():
    assert write_csv(LABELS).splitlines() == [
        'label,probabilities.cold,"probabilities.it\'s, flu"',
        '"it\'s, flu",0.25,0.75',
        "cold,1.0,1e-09",
    ]
    assert write_csv(OPTIONS).splitlines() == [
        "option,number,scores,probabilities", 'ja,1,"[-2.0, -1.0]","[0.3, 0.7]"',
    ]  # fmt: skip
    assert write_csv([{"answer": "two\nlines"}]) == 'answer\n"two\nlines"\n'
    lines = write_jsonl([*LABELS, {"answer": "two\nlines, für"}]).splitlines()
    assert [json.loads(line) for line in lines[:2]] == LABELS
    assert lines[2] == '{"answer": "two\\nlines, für"}'


@pytest.fixture
def predicted(monkeypatch):
    """The function behind ``predict``, replaced by one; returns what it is called with."""
    calls = []
    monkeypatch.setattr(
        "potara_flwr.prediction.predict_rows", lambda *given: calls.append(given) or LABELS
    )
    return calls


def test_words_reach_the_prediction_and_its_file_is_whole(predicted, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["predict", "--adapter", "mine", "--data", "rows.csv"]
    changed = ["train.evaluation-batch-size=8", "task.model=base", "data.text-column='a, b'"]
    assert command.main([*words, *changed]) == 0
    assert capsys.readouterr().out == write_csv(LABELS)
    assert predicted == [
        (tmp_path / "mine", "rows.csv",
         {"train.evaluation-batch-size": 8, "task.model": "base", "data.text-column": "a, b"})
    ]  # fmt: skip
    (tmp_path / "said.JSONL").write_text("of before\n" * 99)
    assert command.main([*words, "--out", "new/said.csv"]) == 0
    assert command.main([*words, "--out", "said.JSONL"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "predictions: new/said.csv (2 rows)"
    assert (tmp_path / "new" / "said.csv").read_text() == write_csv(LABELS)
    assert (tmp_path / "said.JSONL").read_text() == write_jsonl(LABELS)


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        (["--out", "said.txt"], 1, "--out is 'said.txt'; it must end in .csv or .jsonl"),
        (["--out", "folder.csv"], 1, "--out: folder.csv is a folder; name a file"),
        (["seed"], 1, "'seed' is no setting: write name=value"),
        (["data.pth=x"], 1, "unknown setting 'data.pth'"),
        (["task.model=a,b"], 1, "'task.model=a,b' has several values"),
        (["experiment=paper"], 1, "'experiment=paper' is a preset, which is for runs"),
        (["--no-such"], 2, "--no-such"),
    ],
)
def test_words_that_cannot_be_read_are_one_line(
    more, status, said, predicted, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    words = ["predict", "--adapter", "mine", "--data", "rows.csv", *more]
    assert command.main(words) == status
    stream = capsys.readouterr()
    assert stream.err.startswith("error: ")
    assert stream.err.count("\n") == 1
    assert said in stream.err
    assert not predicted
    assert not stream.out


def test_words_reach_the_export(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    calls = []
    monkeypatch.setattr(
        "potara_flwr.export.export_results",
        lambda *places, **given: calls.append((places, given)) or ["client-0", "client-3"],
    )
    words = ["export", "run", "--out", "new"]
    assert command.main([*words, "--format", "merged", "--clients", "0, 3"]) == 0
    assert capsys.readouterr().out == f"exported to {tmp_path / 'new'}: client-0, client-3\n"
    given = {"form": "merged", "clients": [0, 3], "base_name": "", "dtype": None, "model": ""}
    assert calls == [((tmp_path / "run", tmp_path / "new"), given)]
    assert command.main([*words, "--clients", "0,b"]) == 1
    assert capsys.readouterr().err == "error: --clients is '0,b'; write their numbers: 0,3\n"
    assert command.main([*words, "--format", "onnx"]) == 2
    assert len(calls) == 1
