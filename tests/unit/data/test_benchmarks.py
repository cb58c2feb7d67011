"""Every benchmark data set: a row in its own columns becomes the right question."""

import datasets
import pytest
from hub_copies import COPIES, write_copies

from potara_flwr.core.errors import SettingsError
from potara_flwr.data.benchmarks import BENCHMARKS, CONVERTED
from potara_flwr.data.examples import Example, RowError, choice, listing_options, open_question
from potara_flwr.data.questions import load_benchmark
from potara_flwr.run_config import from_flat

THIRD = {  # the question that the third invented row of each asks
    "boolq": Example(
        "The spoon is very old.\n\nGoing by this passage, answer yes or no: Is the spoon old?\n"
        "Answer:",
        ("no", "yes"),
        1,
    ),
    "piqa": Example(
        "What is a good way to do this? clean the spoon\nAnswer:",
        ("use a cloth", "use a stone"),
        0,
    ),
    "siqa": Example(
        "Kim lost the spoon.\nHow does Kim feel?\nAnswer:",
        ("sad", "proud of it", "well rested"),
        2,
    ),
    "hellaswag": Example(
        "How does this go on?\nCleaning: A woman takes the spoon. She",
        ("cleans it.", "eats it. Done", "sings a song to it.", "sleeps."),
        2,
    ),
    "winogrande": Example(
        "The spoon fell on the table and _ broke.\nWhat belongs in the place of the _ ?\nAnswer:",
        ("spoon", "table"),
        0,
    ),
    "arc_easy": Example(
        "Question: What is a spoon made of?\nAnswer:",
        ("material A", "material B", "material C"),
        2,
    ),
    "arc_challenge": Example(
        "Question: What is a spoon made of?\nAnswer:",
        ("material A", "material B", "material C"),
        2,
    ),
    "openbookqa": Example(
        "Complete or answer: What is a garden made of?\nAnswer:",
        ("material A", "material B", "material C", "material D"),
        2,
    ),
    "cosmos_qa": Example(
        "I have not slept since I bought the spoon.\n\nQuestion: Why?\nAnswer:",
        ("It is loud .", "It is dear to me .", "I am at sea .", "None of the above choices ."),
        2,
    ),
    "definite_pronoun_resolution": Example(
        'The cat saw the spoon because it was awake.\nWho or what does "it" stand for here?\n'
        "Answer:",
        ("The cat", "the spoon"),
        0,
    ),
    "glue_qqp": Example(
        "First question: What is a spoon?\nSecond question: What is a letter?\n"
        "Do both ask the same?\nAnswer:",
        ("no", "yes"),
        0,
    ),
    "mnli": Example(
        "Premise: She has a spoon.\nHypothesis: She has 2 things.\n"
        "Given the premise, is the hypothesis true?\nAnswer:",
        ("yes", "it is not possible to tell", "no"),
        2,
    ),
    "squad_v1": Example(
        "The Old House\nIn the house there is a spoon and nothing else.\n\n"
        "Answer from the text above: What is in the house?\nAnswer:",
        ("a spoon",),
        has_options=False,
    ),
    "sst2": Example(
        "From a film review: a dull film \nIs this negative or positive?\nAnswer:",
        ("negative", "positive"),
        0,
    ),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_copies(tmp_path_factory.mktemp("hub"), rows=6)


def data_at(root):
    return from_flat({"data.root": str(root)}).data


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_row_of_the_data_set_becomes_its_question(name, root):
    for split in ("train", "test"):
        table = load_benchmark(data_at(root), name, split)
        assert BENCHMARKS[name].example(table[2]) == THIRD[name]
        assert set(table.column_names) == set(BENCHMARKS[name].columns)


def test_every_data_set_is_where_its_copy_is():
    assert {name: benchmark.path for name, benchmark in BENCHMARKS.items()} == {
        name: copy[0] for name, copy in COPIES.items()
    }


def test_test_splits_have_labels():
    # On the hub, the test splits of the others say −1 or nothing.
    assert {name for name, one in BENCHMARKS.items() if one.test == "test"} == {
        "arc_easy", "arc_challenge", "openbookqa", "definite_pronoun_resolution",
    }  # fmt: skip
    assert BENCHMARKS["mnli"].test == "validation_matched"


def test_from_the_hub_scripts_are_avoided_and_errors_name_the_data_set(monkeypatch):
    asked = []

    def refuse(path, name=None, **kwargs):
        asked.append((path, name, kwargs["split"], kwargs["revision"]))
        raise OSError("no way to the hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    for name in ("piqa", "mnli"):
        with pytest.raises(SettingsError, match=r"data.datasets: .* cannot be read: no way"):
            load_benchmark(from_flat({}).data, name, "test")
    assert asked == [
        ("ybisk/piqa", None, "validation", CONVERTED),
        ("nyu-mll/glue", "mnli", "validation_matched", None),
    ]


def test_a_missing_column_is_named(tmp_path):
    root = write_copies(tmp_path, ["boolq"], rows=2)
    for file in root.rglob("*.parquet"):
        datasets.Dataset.from_dict({"question": ["?"], "passage": ["."]}).to_parquet(file)
    with pytest.raises(SettingsError) as error:
        load_benchmark(data_at(root), "boolq", "train")
    assert str(error.value) == (
        "data set boolq: the column it reads is 'answer', but google/boolq, split train has the "
        "columns question, passage"
    )


def test_a_missing_copy_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"data.root: there is no folder .*piqa for data set"):
        load_benchmark(data_at(tmp_path), "piqa", "train")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("piqa", {"label": -1}, ("label", "the answer -1 is not among the options (0, 1)")),
        ("hellaswag", {"label": ""}, ("label", "the answer '' is not among the options ('0', '1'")),
        ("winogrande", {"answer": "3"}, ("answer", "the answer '3' is not among")),
        ("arc_easy", {"answerKey": "E"}, ("answerKey", "the answer 'E' is not among")),
        ("siqa", {"answerB": " "}, ("label", "there must be two or more, none empty")),
        ("squad_v1", {"answers": {"text": []}}, ("answers", "the answer is empty")),
    ],
)
def test_a_row_without_a_right_answer_names_the_column(name, change, words):
    with pytest.raises(RowError) as error:
        BENCHMARKS[name].example({**COPIES[name][3](2), **change})
    column, why = error.value.args
    assert column == words[0]
    assert words[1] in why


def test_an_answer_is_found_by_key_by_number_or_by_text():
    assert choice("?", ("a", "b"), "B", keys=("A", "B"), column="x").label == 1
    assert choice("?", ("a", "b"), 1, column="x").label == 1
    assert choice("?", ("a ", "b"), " a", column="x") == Example("?", ("a", "b"), 0)


def test_an_empty_prompt_is_refused():
    for make in (
        lambda: choice("  ", ("a", "b"), 1, column="x"),
        lambda: open_question("\n", ["a"], column="x"),
    ):
        with pytest.raises(RowError, match="the prompt is empty"):
            make()


def test_an_instruction_lists_the_options_before_its_last_line():
    question = choice("What is it?\nAnswer:", ("a cat", "a dog"), 0, column="x")
    assert listing_options(question) == "What is it?\nChoose from:\n- a cat\n- a dog\nAnswer:"
    free = open_question("What is it?\nAnswer:", ["a cat"], column="x")
    assert listing_options(free) == free.prompt
