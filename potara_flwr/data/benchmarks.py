"""Benchmark data sets for language models: where they are on the hub, and what a row asks.

Columns are the ones of the data sets on the Hugging Face hub. Test splits that come without labels
are replaced by the validation split, as is usual for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from potara_flwr.data.examples import Example, Row, choice, open_question

CONVERTED = "refs/convert/parquet"
"""The hub's own conversion of data sets that are published as a loading script, which `datasets`
no longer runs (https://huggingface.co/docs/dataset-viewer/parquet)."""


@dataclass(frozen=True)
class Benchmark:
    """A data set on the hub, and how a row of it becomes a question."""

    path: str
    name: str
    """Configuration; empty is the only one."""
    columns: tuple[str, ...]
    """Columns that ``example`` reads."""
    example: Callable[[Row], Example]
    train: str = "train"
    test: str = "validation"
    revision: str = ""


def boolq(row: Row) -> Example:
    """Ask for yes or no, from a passage."""
    question = row["question"].strip().rstrip("?").capitalize()
    return choice(
        f"{row['passage']}\n\nGoing by this passage, answer yes or no: {question}?\nAnswer:",
        ("no", "yes"),
        int(row["answer"]),
        column="answer",
    )


def piqa(row: Row) -> Example:
    """Ask for the better of two ways to reach a goal."""
    return choice(
        f"What is a good way to do this? {row['goal']}\nAnswer:",
        (row["sol1"], row["sol2"]),
        row["label"],
        column="label",
    )


def siqa(row: Row) -> Example:
    """Ask what people feel, want or do in a situation."""
    return choice(
        f"{row['context']}\n{row['question']}\nAnswer:",
        (row["answerA"], row["answerB"], row["answerC"]),
        row["label"],
        keys=("1", "2", "3"),
        column="label",
    )


def hellaswag(row: Row) -> Example:
    """Ask how a described scene goes on."""
    return choice(
        f"How does this go on?\n{row['activity_label']}: {_untagged(row['ctx'])}",
        [_untagged(ending) for ending in row["endings"]],
        row["label"],
        keys=[str(number) for number in range(len(row["endings"]))],
        column="label",
    )


def winogrande(row: Row) -> Example:
    """Ask which of two names fills the blank."""
    return choice(
        f"{row['sentence']}\nWhat belongs in the place of the _ ?\nAnswer:",
        (row["option1"], row["option2"]),
        row["answer"],
        keys=("1", "2"),
        column="answer",
    )


def arc(row: Row) -> Example:
    """Ask school science, with three to five options that are named by letters or numbers."""
    return choice(
        f"Question: {row['question']}\nAnswer:",
        row["choices"]["text"],
        row["answerKey"],
        keys=row["choices"]["label"],
        column="answerKey",
    )


def openbookqa(row: Row) -> Example:
    """Ask school science: a sentence to complete, or a question."""
    return choice(
        f"Complete or answer: {row['question_stem']}\nAnswer:",
        row["choices"]["text"],
        row["answerKey"],
        keys=row["choices"]["label"],
        column="answerKey",
    )


def cosmos_qa(row: Row) -> Example:
    """Ask what is likely, between the lines of a story."""
    return choice(
        f"{row['context']}\n\nQuestion: {row['question']}\nAnswer:",
        [row[f"answer{number}"] for number in range(4)],
        row["label"],
        column="label",
    )


def definite_pronoun_resolution(row: Row) -> Example:
    """Ask which of two candidates a pronoun stands for."""
    return choice(
        f'{row["sentence"]}\nWho or what does "{row["pronoun"]}" stand for here?\nAnswer:',
        row["candidates"],
        row["label"],
        column="label",
    )


def glue_qqp(row: Row) -> Example:
    """Ask whether two questions are the same."""
    return choice(
        f"First question: {row['question1']}\nSecond question: {row['question2']}\n"
        "Do both ask the same?\nAnswer:",
        ("no", "yes"),
        row["label"],
        column="label",
    )


def mnli(row: Row) -> Example:
    """Ask whether a premise makes a hypothesis true, false, or neither."""
    return choice(
        f"Premise: {row['premise']}\nHypothesis: {row['hypothesis']}\n"
        "Given the premise, is the hypothesis true?\nAnswer:",
        ("yes", "it is not possible to tell", "no"),
        row["label"],
        column="label",
    )


def squad_v1(row: Row) -> Example:
    """Ask for the span of an article that answers a question."""
    return open_question(
        f"{row['title'].replace('_', ' ')}\n{row['context']}\n\n"
        f"Answer from the text above: {row['question']}\nAnswer:",
        row["answers"]["text"],
        column="answers",
    )


def sst2(row: Row) -> Example:
    """Ask whether a film is praised."""
    return choice(
        f"From a film review: {row['sentence']}\nIs this negative or positive?\nAnswer:",
        ("negative", "positive"),
        row["label"],
        column="label",
    )


def _untagged(text: str) -> str:
    """Return a text without the tags that it has from WikiHow, such as ``[step]``."""
    return re.sub(r"\s*\[\w+\]\s*", " ", text).strip() or text


_ARC_COLUMNS = ("question", "choices", "answerKey")
_OPENBOOKQA_COLUMNS = ("question_stem", "choices", "answerKey")

BENCHMARKS: dict[str, Benchmark] = {
    "boolq": Benchmark("google/boolq", "", ("question", "passage", "answer"), boolq),
    "piqa": Benchmark(
        "ybisk/piqa", "", ("goal", "sol1", "sol2", "label"), piqa, revision=CONVERTED
    ),
    "siqa": Benchmark(
        "allenai/social_i_qa",
        "",
        ("context", "question", "answerA", "answerB", "answerC", "label"),
        siqa,
        revision=CONVERTED,
    ),
    "hellaswag": Benchmark(
        "Rowan/hellaswag", "", ("activity_label", "ctx", "endings", "label"), hellaswag
    ),
    "winogrande": Benchmark(
        "allenai/winogrande",
        "winogrande_xl",
        ("sentence", "option1", "option2", "answer"),
        winogrande,
    ),
    "arc_easy": Benchmark("allenai/ai2_arc", "ARC-Easy", _ARC_COLUMNS, arc, test="test"),
    "arc_challenge": Benchmark("allenai/ai2_arc", "ARC-Challenge", _ARC_COLUMNS, arc, test="test"),
    "openbookqa": Benchmark(
        "allenai/openbookqa", "main", _OPENBOOKQA_COLUMNS, openbookqa, test="test"
    ),
    "cosmos_qa": Benchmark(
        "allenai/cosmos_qa",
        "",
        ("context", "question", "answer0", "answer1", "answer2", "answer3", "label"),
        cosmos_qa,
        revision=CONVERTED,
    ),
    "definite_pronoun_resolution": Benchmark(
        "community-datasets/definite_pronoun_resolution",
        "",
        ("sentence", "pronoun", "candidates", "label"),
        definite_pronoun_resolution,
        test="test",
    ),
    "glue_qqp": Benchmark("nyu-mll/glue", "qqp", ("question1", "question2", "label"), glue_qqp),
    "mnli": Benchmark(
        "nyu-mll/glue", "mnli", ("premise", "hypothesis", "label"), mnli, test="validation_matched"
    ),
    "squad_v1": Benchmark(
        "rajpurkar/squad", "", ("title", "context", "question", "answers"), squad_v1
    ),
    "sst2": Benchmark("stanfordnlp/sst2", "", ("sentence", "label"), sst2),
}
