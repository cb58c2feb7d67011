"""Folders that ``datasets.load_dataset`` reads as it reads the benchmarks' repositories on the hub.

Every column of the real data sets is there, under its own name and type; the rows are invented.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, List, Value

TEXT = Value("string")
BINARY = ClassLabel(names=["0", "1"])
CHOICES = {"text": List(TEXT), "label": List(TEXT)}
THINGS = ("lamp", "river", "spoon", "garden", "letter")


def _thing(number: int) -> str:
    return THINGS[number % len(THINGS)]


def boolq(number: int) -> dict:
    return {
        "question": f"is the {_thing(number)} old",
        "answer": number % 2 == 0,
        "passage": f"The {_thing(number)} is {'very old' if number % 2 == 0 else 'quite new'}.",
    }


def piqa(number: int) -> dict:
    return {"goal": f"clean the {_thing(number)}", "sol1": "use a cloth", "sol2": "use a stone",
            "label": number % 2}  # fmt: skip


def siqa(number: int) -> dict:
    return {"context": f"Kim lost the {_thing(number)}.", "question": "How does Kim feel?",
            "answerA": "sad", "answerB": "proud of it", "answerC": "well rested",
            "label": str(number % 3 + 1)}  # fmt: skip


def hellaswag(number: int) -> dict:
    return {
        "ind": number,
        "activity_label": "Cleaning",
        "ctx_a": f"A woman takes the {_thing(number)}.",
        "ctx_b": "she",
        "ctx": f"A woman takes the {_thing(number)}. [step] She",
        "endings": ["cleans it.", "eats it. [title] Done", "sings a song to it.", "sleeps."],
        "source_id": f"invented~{number}",
        "split": "train",
        "split_type": "indomain",
        "label": str(number % 4),
    }


def winogrande(number: int) -> dict:
    return {"sentence": f"The {_thing(number)} fell on the table and _ broke.",
            "option1": f"{_thing(number)}", "option2": "table",
            "answer": str(number % 2 + 1)}  # fmt: skip


def arc(number: int) -> dict:
    keys = [list("ABCD"), list("1234"), list("ABC"), list("ABCDE")][number % 4]
    return {
        "id": f"invented-{number}",
        "question": f"What is a {_thing(number)} made of?",
        "choices": {"text": [f"material {key}" for key in keys], "label": keys},
        "answerKey": keys[number % len(keys)],
    }


def openbookqa(number: int) -> dict:
    row = arc(4 * number)
    return {"id": row["id"], "question_stem": row["question"], "choices": row["choices"],
            "answerKey": "ABCD"[number % 4]}  # fmt: skip


def cosmos_qa(number: int) -> dict:
    return {
        "id": f"invented-{number}",
        "context": f"I have not slept since I bought the {_thing(number)}.",
        "question": "Why?",
        "answer0": "It is loud .",
        "answer1": "It is dear to me .",
        "answer2": "I am at sea .",
        "answer3": "None of the above choices .",
        "label": number % 4,
    }


def definite_pronoun_resolution(number: int) -> dict:
    return {"sentence": f"The cat saw the {_thing(number)} because it was awake.",
            "pronoun": "it", "candidates": ["The cat", f"the {_thing(number)}"],
            "label": number % 2}  # fmt: skip


def glue_qqp(number: int) -> dict:
    return {"question1": f"What is a {_thing(number)}?",
            "question2": f"What is a {_thing(number * 2)}?", "label": number % 2,
            "idx": number}  # fmt: skip


def mnli(number: int) -> dict:
    return {"premise": f"She has a {_thing(number)}.", "hypothesis": f"She has {number} things.",
            "label": number % 3, "idx": number}  # fmt: skip


def squad_v1(number: int) -> dict:
    found = [f"a {_thing(number)}"] * (1 + number % 3)
    return {
        "id": f"invented-{number}",
        "title": "The_Old_House",
        "context": f"In the house there is {found[0]} and nothing else.",
        "question": "What is in the house?",
        "answers": {"text": found, "answer_start": [22] * len(found)},
    }


def sst2(number: int) -> dict:
    return {"idx": number, "sentence": f"a {'dull' if number % 2 == 0 else 'fine'} film ",
            "label": number % 2}  # fmt: skip


NLI = ClassLabel(names=["entailment", "neutral", "contradiction"])
COPIES: dict[str, tuple[str, str, tuple[str, ...], Callable[[int], dict], dict]] = {
    "boolq": ("google/boolq", "default", ("train", "validation"), boolq,
              {"question": TEXT, "answer": Value("bool"), "passage": TEXT}),
    "piqa": ("ybisk/piqa", "default", ("train", "validation", "test"), piqa,
             {"goal": TEXT, "sol1": TEXT, "sol2": TEXT, "label": BINARY}),
    "siqa": ("allenai/social_i_qa", "default", ("train", "validation"), siqa,
             dict.fromkeys(("context", "question", "answerA", "answerB", "answerC", "label"),
                           TEXT)),
    "hellaswag": ("Rowan/hellaswag", "default", ("train", "validation", "test"), hellaswag,
                  {"ind": Value("int32"), "activity_label": TEXT, "ctx_a": TEXT, "ctx_b": TEXT,
                   "ctx": TEXT, "endings": List(TEXT), "source_id": TEXT, "split": TEXT,
                   "split_type": TEXT, "label": TEXT}),
    "winogrande": ("allenai/winogrande", "winogrande_xl", ("train", "validation", "test"),
                   winogrande, dict.fromkeys(("sentence", "option1", "option2", "answer"), TEXT)),
    "arc_easy": ("allenai/ai2_arc", "ARC-Easy", ("train", "validation", "test"), arc,
                 {"id": TEXT, "question": TEXT, "choices": CHOICES, "answerKey": TEXT}),
    "arc_challenge": ("allenai/ai2_arc", "ARC-Challenge", ("train", "validation", "test"), arc,
                      {"id": TEXT, "question": TEXT, "choices": CHOICES, "answerKey": TEXT}),
    "openbookqa": ("allenai/openbookqa", "main", ("train", "validation", "test"), openbookqa,
                   {"id": TEXT, "question_stem": TEXT, "choices": CHOICES, "answerKey": TEXT}),
    "cosmos_qa": ("allenai/cosmos_qa", "default", ("train", "validation", "test"), cosmos_qa,
                  {**dict.fromkeys(("id", "context", "question", "answer0", "answer1", "answer2",
                                    "answer3"), TEXT), "label": Value("int32")}),
    "definite_pronoun_resolution": (
        "community-datasets/definite_pronoun_resolution", "plain_text", ("train", "test"),
        definite_pronoun_resolution,
        {"sentence": TEXT, "pronoun": TEXT, "candidates": List(TEXT), "label": BINARY}),
    "glue_qqp": ("nyu-mll/glue", "qqp", ("train", "validation", "test"), glue_qqp,
                 {"question1": TEXT, "question2": TEXT,
                  "label": ClassLabel(names=["not_duplicate", "duplicate"]),
                  "idx": Value("int32")}),
    "mnli": ("nyu-mll/glue", "mnli",
             ("train", "validation_matched", "validation_mismatched"), mnli,
             {"premise": TEXT, "hypothesis": TEXT, "label": NLI, "idx": Value("int32")}),
    "squad_v1": ("rajpurkar/squad", "plain_text", ("train", "validation"), squad_v1,
                 {"id": TEXT, "title": TEXT, "context": TEXT, "question": TEXT,
                  "answers": {"text": List(TEXT), "answer_start": List(Value("int32"))}}),
    "sst2": ("stanfordnlp/sst2", "default", ("train", "validation", "test"), sst2,
             {"idx": Value("int32"), "sentence": TEXT,
              "label": ClassLabel(names=["negative", "positive"])}),
}  # fmt: skip
"""Our name → hub id, configuration, splits, a row by its number, columns with their types."""


def write_copies(root: Path, names: Iterable[str] = COPIES, *, rows: int = 24) -> Path:
    """Write the named data sets under ``root``, each in the folder of its hub id."""
    configs: dict[str, list[str]] = {}
    for name in names:
        hub_id, config, splits, row, columns = COPIES[name]
        lines = [f"- config_name: {config}", "  data_files:"]
        for split in splits:
            table = Dataset.from_list([row(k) for k in range(rows)], features=Features(columns))
            file = root / hub_id / config / f"{split}-00000-of-00001.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            table.to_parquet(file)
            lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
        configs.setdefault(hub_id, []).extend(lines)
    for hub_id, lines in configs.items():
        text = "\n".join(["---", "configs:", *lines, "---", "", "# An invented copy", ""])
        (root / hub_id / "README.md").write_text(text)
    return root
