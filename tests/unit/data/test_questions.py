"""Whose questions are whose, and what is wrong with data of one's own."""

import datasets
import pandas as pd
import pytest
import torch
from hub_copies import write_copies
from tiny_llama import make_tiny_llama

from potara_flwr.core.errors import SettingsError
from potara_flwr.data.examples import RowError
from potara_flwr.data.questions import Reader, client_questions
from potara_flwr.models.pretrained import tokenizer_of
from potara_flwr.run_config import from_flat
from potara_flwr.tasks.base import num_samples
from potara_flwr.tasks.instruction import Instruction
from potara_flwr.tasks.multiple_choice import MultipleChoice


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_copies(tmp_path_factory.mktemp("hub"), ["glue_qqp", "sst2"], rows=20)


def settings_of(model, **overrides):
    return from_flat(
        {
            "task.name": "multiple-choice",
            "task.model": str(model),
            "data.num-clients": 3,
            "data.max-tokens": 128,
            "calibration.samples": 3,
            **overrides,
        }
    )


def test_clients_take_the_data_sets_in_turn_and_share_them_without_overlap(model, root):
    settings = settings_of(
        model, **{"data.root": str(root), "data.datasets": "glue_qqp, sst2", "data.num-clients": 5}
    )
    shares = [client_questions(settings, client) for client in range(5)]
    assert [share.reader.benchmark for share in shares] == ["glue_qqp", "sst2"] * 2 + ["glue_qqp"]
    # 20 rows each in the training and the test split, of three and of two clients.
    assert [int(share.tested.sum()) for share in shares] == [7, 10, 7, 10, 6]
    assert [len(share.rows) for share in shares] == [14, 20, 14, 20, 12]
    for part in (False, True):
        held = [
            row["question2"] + row["question1"] + str(row["label"])
            for share in shares[::2]
            for row in share.rows.select((share.tested == part).nonzero()[:, 0].tolist())
        ]
        table = datasets.load_dataset(str(root / "nyu-mll/glue"), "qqp", split="train")
        everything = [r["question2"] + r["question1"] + str(r["label"]) for r in table]
        assert sorted(held) == sorted(everything)


def test_a_client_trains_on_the_train_split_and_tests_on_the_test_split(model, tmp_path):
    root = write_copies(tmp_path / "hub", ["sst2"], rows=20)
    test = datasets.Dataset.from_list([{"sentence": "unseen", "label": 1, "idx": k} for k in "12"])
    test.to_parquet(next((root / "stanfordnlp/sst2").rglob("validation*")))
    settings = settings_of(
        model, **{"data.root": str(root), "data.datasets": "sst2", "data.num-clients": 1}
    )
    data = MultipleChoice(settings).load_client(0)
    assert (num_samples(data.train), num_samples(data.calibration)) == (17, 3)
    assert num_samples(data.test) == 2
    texts = [
        tokenizer_of(str(model))[0].decode(ids[mask == 1])
        for part in (data.train, data.calibration, data.test)
        for ids, mask in zip(part["input_ids"], part["attention_mask"], strict=True)
    ]
    assert ["unseen" in text for text in texts] == [False] * 20 + [True] * 2


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            {"data.datasets": "sst"},
            "data.datasets names 'sst', which is unknown; did you mean sst2",
        ),
        ({"data.datasets": "sst2", "data.path": "x.csv"}, "are both given"),
        ({"data.datasets": "sst2", "data.num-clients": 30}, "30 clients share 20 rows"),
        ({}, "data.path is empty"),
        ({"data.path": "a.jsonl,b.jsonl", "data.name": "x,y,z"}, "3 values for 2 data sources"),
        (
            {"data.datasets": "glue_qqp", "data.max-tokens": 2},
            "its longest answer has 2 tokens, which leaves no room for a prompt in data.max-tokens",
        ),
    ],
)
def test_settings_that_do_not_fit_are_one_clear_line(model, root, overrides, words):
    settings = settings_of(model, **{"data.root": str(root), **overrides})
    with pytest.raises(SettingsError) as error:
        MultipleChoice(settings).load_client(0)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


OPTIONS = ["red", "dark blue", "green"]


def own_rows(**change):
    return [
        {
            "ask": f"Which colour has thing {number}?",
            "options": OPTIONS,
            "say": OPTIONS[number % 3],
            "part": "test" if number % 4 == 0 else "train",
        }
        | (change if number == 7 else {})
        for number in range(24)
    ]


def own(model, file, rows, **overrides):
    pd.DataFrame(rows).to_parquet(file)
    return settings_of(
        model,
        **{
            "data.path": str(file),
            "data.prompt-column": "ask",
            "data.answer-column": "say",
            "data.options-column": "options",
            "data.num-clients": 1,
            "data.partition": "iid",
            **overrides,
        },
    )


def test_data_of_ones_own_may_name_the_answer_by_text_or_by_number(model, tmp_path):
    by_text = own(model, tmp_path / "text.parquet", own_rows(), **{"data.split-column": "part"})
    numbered = [row | {"say": OPTIONS.index(row["say"])} for row in own_rows()]
    by_number = own(model, tmp_path / "n.parquet", numbered, **{"data.split-column": "part"})
    one, two = (MultipleChoice(each).load_client(0) for each in (by_text, by_number))
    assert num_samples(one.test) == 6
    assert one.train["labels"].unique().tolist() == [0, 1, 2]
    for part in ("train", "calibration", "test"):
        for name, tensor in getattr(one, part).items():
            assert torch.equal(tensor, getattr(two, part)[name])


def test_data_of_ones_own_without_options_is_answered_freely(model, tmp_path):
    rows = [row | {"say": [row["say"], f"it is {row['say']}"]} for row in own_rows()]
    settings = own(model, tmp_path / "free.parquet", rows, **{"data.options-column": ""})
    data = Instruction(settings).load_client(0)
    assert data.train["labels_open"].all()
    assert (data.train["labels_weights"] > 0).any(2).sum(1).tolist() == [2] * len(
        data.train["labels"]
    )
    with pytest.raises(SettingsError, match=r"client 0: its data has no options.*options-column"):
        MultipleChoice(settings).load_client(0)


def test_clients_of_several_sources_have_each_its_own(model, tmp_path):
    with_options = own(model, tmp_path / "one.parquet", own_rows())
    rows = [{"q": row["ask"], "a": row["say"]} for row in own_rows()]
    pd.DataFrame(rows).to_parquet(tmp_path / "two.parquet")
    settings = from_flat(
        with_options.to_flat()
        | {
            "data.path": f"{tmp_path / 'one.parquet'}, {tmp_path / 'two.parquet'}",
            "data.num-clients": 3,
            "data.prompt-column": "ask,q",
            "data.answer-column": "say,a",
            "data.options-column": f"{with_options.data.options_column},",
        }
    )
    shares = [client_questions(settings, client) for client in range(3)]
    assert [share.source for share in shares] == ["one.parquet", "two.parquet", "one.parquet"]
    first, third = (set(shares[client].positions.tolist()) for client in (0, 2))
    assert not first & third
    assert len(first | third) == len(shares[1].positions) == len(rows)
    assert Instruction(settings).load_client(1).train["labels_open"].all()
    assert not Instruction(settings).load_client(0).train["labels_open"].any()


@pytest.mark.parametrize(
    ("change", "overrides", "words"),
    [
        ({"ask": "  "}, {}, "column 'ask': the prompt is empty, or no text"),
        ({"options": None}, {}, "column 'options': the options are no list of texts"),
        ({"options": ["red", None]}, {}, "column 'options': the options are no list of texts"),
        ({"ask": None}, {}, "column 'ask': it is empty"),
        ({"say": "violet"}, {}, "column 'say': the answer 'violet' is not among"),
        ({"options": ["red"]}, {}, "there must be two or more"),
        ({}, {"data.answer-column": "words"}, "data.answer-column is 'words', but"),
    ],
)
def test_bad_rows_name_file_column_and_client(model, tmp_path, change, overrides, words):
    if "options" in change:
        change = change | {"say": "red"}
    settings = own(model, tmp_path / "rows.parquet", own_rows(**change), **overrides)
    with pytest.raises(SettingsError) as error:
        MultipleChoice(settings).load_client(0)
    assert words in str(error.value)
    assert "rows.parquet" in str(error.value)
    assert overrides or str(error.value).startswith("client 0: rows.parquet, row 7, column")
    assert "\n" not in str(error.value)


def test_an_answer_that_is_an_object_is_no_text():
    reader = Reader(prompt="ask", answer="say")
    with pytest.raises(RowError) as error:
        reader.read({"ask": "Which?", "say": {"text": "red"}})
    assert error.value.args[0] == "say"
    assert "an object" in error.value.args[1]
    assert reader.read({"ask": "Which?", "say": 4}).answers == ("4",)
