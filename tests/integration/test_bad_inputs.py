"""Bad inputs of every kind: one line that names the place and the cure, and nothing is left behind.

Each goes through the command as a user gives it. A line is refused by its status, by a second
error, by a traceback, by a question on standard input and by any file that was not there before.
"""

from __future__ import annotations

import io
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from tiny_llama import make_tiny_llama
from tiny_models import make_tiny_bert, make_tiny_digits_vit, make_tiny_vit

from potara_flwr.client.node import read_node
from potara_flwr.command.main import main
from potara_flwr.core.errors import NodeError
from potara_flwr.run_config import from_flat

pytestmark = pytest.mark.integration

SMALL = "data.num-clients=2 calibration.samples=2"
TEXT = f"task.name=text-classification task.model=bert data.partition=iid {SMALL}"
IMAGE = f"task.name=image-classification task.model=vit data.partition=iid {SMALL}"
CHAT = f"task.name=instruction task.model=llama data.partition=iid {SMALL}"
CHOICE = CHAT.replace("instruction", "multiple-choice") + " data.options-column=options"
GOOD = "text,label\n" + "".join(f"w{n} w{n + 1},{'ab'[n % 2]}\n" for n in range(30))
ANSWERS = [{"prompt": f"Is it {n}?", "answer": "yes", "options": ["yes", "no"]} for n in range(30)]


def lines(rows, **changed):
    """Rows of a jsonl file; ``r5={...}`` changes row 5, where None takes a column out."""
    rows = [dict(row) for row in rows]
    for place, values in changed.items():
        rows[int(place[1:])] |= values
    return "\n".join(map(json.dumps, rows))


def csv_of(column, values):
    return f"text,{column}\n" + "".join(f"w{n} w2,{value}\n" for n, value in enumerate(values))


def png(size=(16, 16), colour=0):
    image = io.BytesIO()
    Image.new("RGB", size, (colour, 0, 0)).save(image, "PNG")
    return image.getvalue()


def noise():
    image = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(image, "PNG")
    return image.getvalue()


def tiff(value):
    image = io.BytesIO()
    Image.fromarray(np.full((16, 16), value, dtype=np.float32)).save(image, "TIFF")
    return image.getvalue()


def huge():
    image = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(image, "PNG")
    return image.getvalue()


def photos(**others):
    """Twelve images in two classes; of ``others`` a name's double underscore is a slash."""
    files = {f"p/{'ab'[n % 2]}/{n:02}.png": png(colour=n) for n in range(12)}
    files |= {f"p/{name.replace('__', '/')}.png": value for name, value in others.items()}
    return files


def rows(content, words="", base=TEXT, name="d.csv"):
    """A run on one data file."""
    return {name: content}, f"run {base} data.path={name} {words}"


def folder(files, words="", base=IMAGE):
    """A run on the folder p."""
    return files, f"run {base} data.path=p {words}"


def model(name, change=None, base=TEXT, data=GOOD, data_name="d.csv"):
    """A run with a changed copy of a model: name, and file → content, or None to remove it."""
    files = {data_name: data, **{f"m/{file}": content for file, content in (change or {}).items()}}
    return files, f"copy {name} run {base} task.model=m data.path={data_name}"


def settings(words):
    return {"d.csv": GOOD}, f"run {TEXT} data.path=d.csv {words}"


LABELS = [n % 2 for n in range(30)]
CUSTOM = {
    "config.json": json.dumps({"model_type": "mine", "auto_map": {
        "AutoConfig": "mine.Config", "AutoModelForSequenceClassification": "mine.Model"}}),
    "mine.py": "raise SystemExit('the code of a model was run')\n",
}  # fmt: skip
SEVEN = dict.fromkeys(("p/a/a.heic", "p/a/b.heic", "p/b/c.heic", "p/b/d.heic"), b"x")

BAD = {
    # Files
    "no data": (({}), f"run {TEXT}", "data.path is empty: name a hub id"),
    "no such file": ({}, f"run {TEXT} data.path=no.csv", "data.path: there is no file"),
    "no such data set": ({}, f"run {TEXT} data.path=no/such", "data.path: no/such, split train"),
    "a spreadsheet": (*rows("x", name="d.xlsx"), "a data file must end in .parquet, .csv"),
    "tabs": (*rows("x", name="d.tsv"), "a data file must end in"),
    "packed": (*rows("x", name="d.csv.gz"), "a data file must end in"),
    "empty file": (*rows(""), "d.csv cannot be read: it is empty"),
    "header alone": (*rows("text,label\n"), "d.csv cannot be read: it has no rows"),
    "short row": (*rows(GOOD + "w1\n"), "d.csv cannot be read: row 30 (line 32) has 1 cells"),
    "long row": (*rows(GOOD + "w1,a,b\n"), "row 30 (line 32) has 3 cells, but there are 2 columns"),
    "open quote": (*rows(GOOD + '"w1,a\n'), "row 30 (up to line 32): a double quote that opens"),
    "text after a quote": (*rows(GOOD + '"w1"x,a\n'), "row 30 (up to line 32): ',' expected"),
    "Latin-1": (*rows(GOOD.encode() + b"\xe9,a\n"), "line 32 is no UTF-8 text (byte 0xe9); save"),
    "UTF-16": (*rows(GOOD.encode("utf-16")), "it is UTF-16 text; save it as UTF-8"),
    "column twice": (*rows("text,label,text\na,b,c\n"), "two columns 'text'; rename one"),
    "semicolons": (*rows(GOOD.replace(",", ";")), "separated by ';'; save it with commas"),
    "json by columns": (
        *rows(json.dumps({"text": ["w1", "w2"], "label": [0, 1]}), name="d.json"),
        "d.json cannot be read: it is one object of columns, not a list of rows; write",
    ),
    "json as pandas writes it": (
        *rows('{"text":{"0":"w1","1":"w2"},"label":{"0":0,"1":1}}', name="d.json"),
        "one object of columns, not a list of rows; write an object a row",
    ),
    "json cut off": (*rows('[{"text": "w1"}, {"te', name="d.json"), "d.json cannot be read: it is"),
    "jsonl cut off": (
        *rows('{"text": "w1", "label": "a"}\n{"text": "w', name="d.jsonl"),
        "d.jsonl cannot be read: row 1 is no json",
    ),
    "a list as a row": (*rows('{"a": 1}\n[1]', name="d.jsonl"), "row 1 is no object with columns"),
    "kinds": (
        *rows('{"text": "w1"}\n{"text": 5}', name="d.jsonl"),
        "row 1, column 'text': it is 5, a number, but row 0 has a text; write the same kind",
    ),
    "NaN": (*rows('{"a": 1}\n{"a": NaN}', name="d.jsonl"), "row 1: NaN is no number of json"),
    "key twice": (*rows('{"a": 1}\n{"a": 1, "a": 2}', name="d.jsonl"), "row 1: the column 'a' is"),
    "huge number": (*rows('{"a": 1}\n{"a": 1' + "0" * 20 + "}", name="d.jsonl"), "is too large; w"),
    "no parquet": (*rows("no parquet", name="d.parquet"), "d.parquet cannot be read: Parquet"),
    "empty parquet": (*rows(b"", name="d.parquet"), "d.parquet cannot be read: Parquet file"),
    "empty folder": (*folder({"p/.hidden": ""}, base=TEXT), "data.path: p, split train"),
    "no such split": (*rows(GOOD, "data.test-split=dev"), "cannot be read: Unknown split \"dev\""),
    "one split twice": (*rows(GOOD, "data.test-split=train"), "30 rows in common; name splits"),
    "row in a folder": (
        *folder({"p/train.csv": GOOD, "p/test.csv": GOOD + "w1\n"}, base=TEXT),
        "data.path: p, split train cannot be read: test.csv: row 30 (line 32) has 1 cells",
    ),
    "file in no split": (
        *folder({"p/train_1.csv": GOOD, "p/more.csv": GOOD}, base=TEXT),
        "1 of its 2 data files are in no split, which is told by the words train, validation",
    ),
    "files unlike": (
        *folder({"p/train.csv": GOOD, "p/test.csv": csv_of("kind", LABELS)}, base=TEXT),
        "columns text,",
    ),
    # Columns
    "no text column": (*rows(GOOD, "data.text-column=words"), "has the columns text, label"),
    "no label column": (*rows(GOOD, "data.label-column=kind"), "data.label-column is 'kind', but"),
    "no split column": (*rows(GOOD, "data.split-column=part"), "data.split-column is 'part', but"),
    "no partition column": (*rows(GOOD, "data.partition-column=user"), "data.partition-column is "),
    "natural": (*rows(GOOD, "data.partition=natural"), "which needs data.partition-column"),
    "split word": (
        *rows(csv_of("label,part", [f"{'ab'[n % 2]},dev" for n in range(9)]),
              "data.split-column=part"),
        "column 'part': row 0 is 'dev', neither train nor test; leave such rows out",
    ),
    "both tests": (*rows(GOOD, "data.split-column=label data.test-split=test"), "empty one"),
    "numbers as texts": (*rows(csv_of("label", LABELS), "data.text-column=label"), "no texts"),
    "empty text": (*rows(GOOD + ",a\n"), "column 'text': row 30, of client"),
    "same text twice": (*rows(GOOD, "data.text-column=text+text"), "name one column, or two diff"),
    "three texts": (*rows(GOOD, "data.text-column=a+b+c"), "name one column, or two different"),
    "empty key": (
        *rows(csv_of("label,user", ["a,x", "b,", "a,y"] * 9), "data.partition-column=user"),
        "column 'user': row 1 is empty",
    ),
    # Labels
    "no label": (*rows(GOOD + "w1,\n"), "d.csv, column 'label': row 30 has no label"),
    "a word among numbers": (
        *rows(csv_of("label", [*LABELS, "unsure"])),
        "row 30 has the label 'unsure', a word, but 30 others are numbers; mend it, or name",
    ),
    "below zero": (*rows(csv_of("label", [-1, 1] * 9)), "row 0 is labelled -1; labels must be"),
    "a measure": (*rows(csv_of("label", [0.5, 1.5] * 9)), "row 0 is labelled 0.5; labels must be"),
    "one class": (*rows(csv_of("label", ["a"] * 20)), "training samples have the label 'a'; two"),
    "tested class": (
        *rows(csv_of("label,part", ["a,train", "b,train", "c,test"] * 9), "data.split-column=part"),
        "row 2 has the label 'c', which no training sample has: a, b",
    ),
    "unknown class": (*rows(GOOD, "'data.classes=\"a,c\"'"), "row 1 has the label 'b', which"),
    "one name": (*rows(GOOD, "data.classes=a"), "data.classes is 'a'; name two or more"),
    "name twice": (*rows(GOOD, "'data.classes=\"a,a\"'"), "data.classes is 'a,a'; name two"),
    "a list as a label": (
        *rows(lines([{"text": "w1", "label": ["a"]}] * 9), name="d.jsonl"), "labels must be words",
    ),
    "other classes": (
        {"d.csv": GOOD, "e.csv": GOOD.replace(",b", ",c")},
        f"run {TEXT} 'data.path=\"d.csv,e.csv\"' data.num-clients=2",
        "d.csv has a, b and e.csv has a, c; name them all",
    ),
    # Images
    "cut image": (*folder(photos(a__x=noise()[:400])), "(x.png) cannot be read: image file is tr"),
    "empty image": (*folder(photos(a__x=b"")), "row 6 (x.png) cannot be read: cannot identify"),
    "text as an image": (*folder(photos(a__x=b"no image")), "row 6 (x.png) cannot be read: cannot"),
    "bomb": (*folder(photos(a__x=huge())), "row 6 (x.png) cannot be read: Image size (200000000 p"),
    "beyond the range": (
        *folder({f"p/{'ab'[n % 2]}/{n}.tiff": tiff(255) for n in range(12)}),
        "it has the value 255, but images of floats are read as 0 … 1; scale them",
    ),
    "stray image": (*folder(photos(x=png())), "1 of its 13 images are not in CLASS/"),
    "deep image": (*folder(photos(a__old__x=png())), "e.g. a/old/x.png; move each into the folder"),
    "splits or classes": (
        *folder({f"p/{('train', 'test')[n % 2]}/{n}.png": png() for n in range(6)}),
        "its images stand directly in test, train, which may be splits or classes; put them",
    ),
    "no images": (*folder(photos() | SEVEN), "4 files in its folders of images are no images that"),
    "no such image": (
        *rows("image,label\n" + "no.png,a\nno.png,b\n" * 9, base=IMAGE),
        "(no.png) cannot be read: [Errno 2] No such file",
    ),
    "numbers as images": (
        *rows(csv_of("label", LABELS), "data.image-column=label", base=IMAGE),
        "data.image-column: column 'label' of d.csv holds no images",
    ),
    "no image column": (*rows(GOOD, base=IMAGE), "data.image-column is 'image', but d.csv has the"),
    "little metadata": (
        *folder(photos() | {"p/metadata.csv": "file_name,label\na/00.png,x\na/02.png,y\n"}),
        "10 of its 12 images are in no line of the metadata, e.g. a/04.png; complete it",
    ),
    "metadata without names": (
        *folder(photos() | {"p/metadata.csv": "name,label\na/00.png,x\n"}), "`file_name`",
    ),
    # Questions
    "no prompt": (*rows(GOOD, base=CHAT), "data.prompt-column is 'prompt', but d.csv has the"),
    "empty answer": (
        *rows(lines(ANSWERS, r5={"answer": " "}), base=CHAT, name="d.jsonl"), "the answer is empty",
    ),
    "no options": (
        *rows(lines(ANSWERS, r5={"options": []}), base=CHOICE, name="d.jsonl"),
        "the answer 'yes' is not among the options",
    ),
    "other answer": (
        *rows(lines(ANSWERS, r5={"answer": "maybe"}), base=CHOICE, name="d.jsonl"),
        "row 5, column 'answer': the answer 'maybe' is not among the options ('yes', 'no')",
    ),
    "true as an answer": (
        *rows(lines([row | {"answer": True} for row in ANSWERS]), base=CHOICE, name="d.jsonl"),
        "the answer True is neither a text nor a number",
    ),
    "no such benchmark": ({}, f"run {CHAT} data.datasets=boolqq", "unknown; did you mean boolq?"),
    "two kinds of data": (*rows(GOOD, "data.datasets=boolq", base=CHAT), "empty one of them"),
    "no labels to skew": (
        *rows(lines(ANSWERS), "data.partition=dirichlet", base=CHAT, name="d.jsonl"),
        "data.partition is dirichlet, which needs data.partition-column",
    ),
    # Models
    "no such model": (*settings("task.model=./nowhere"), "there is no folder './nowhere'"),
    "no config": (*model("bert", {"config.json": None}), "task.model is 'm', which is not"),
    "broken config": (*model("bert", {"config.json": "{"}), "task.model is 'm', which is not"),
    "unknown kind": (*model("bert", {"config.json": '{"model_type": "my"}'}), "task.model is 'm'"),
    "custom code": (*model("bert", CUSTOM), "has code of its own (auto_map), which is not run; ch"),
    "no weights": (*model("bert", {"model.safetensors": None}), "task.model is 'm', which is not"),
    "cut weights": (*model("bert", {"model.safetensors": b"x" * 99}), "task.model is 'm', which"),
    "no tokenizer": (
        *model("bert", {"tokenizer.json": None, "tokenizer_config.json": None}),
        "task.model is 'm', whose tokenizer has no vocabulary; save the tokenizer",
    ),
    "no processor": (
        photos(), f"run {IMAGE} data.path=p task.model=digits", "not a readable image processor",
    ),
    "encoder": (
        *rows(lines(ANSWERS), "task.model=bert", base=CHOICE, name="d.jsonl"),
        "an encoder (bert), in which a token sees those after it; choose a causal",
    ),
    "no such target": (*settings("lora.target-modules=nope"), "lora.target-modules"),
    "other size": ({}, "run task.model=vit", "for images of 16 pixels and 3 channels, but"),
    # Earlier runs and adapters
    "no adapter": (
        {"f/x": ""}, "personalize --federated f --client 0 --out o",
        "run.json cannot be read (No such file",
    ),
    "no folder of an adapter": (
        {}, "personalize --federated f --client 0 --out o", "there is no folder",
    ),
    "broken run": (
        {"f/run.json": "{"}, "personalize --federated f --client 0 --out o", "is damaged",
    ),
    "other adapter": (
        {"f/run.json": json.dumps({"config": {}, "sha256": "0", "classes": [], "client": None,
                                   "adapter": "federated"}),
         "f/adapter_model.safetensors": "x"},
        "personalize --federated f --client 0 --out o",
        "is not the adapter that the run saved: its SHA-256 is",
    ),
    "nothing to go on from": ({"f/x": ""}, "run run.resume=f", "there is no checkpoint"),
    "no finished run": ({"f/x": ""}, "run run.personalize-only=f", "to finish one: run.resume"),
    "no results": ({"f/x": ""}, "report f", "results.json"),
    "nothing to compare": ({"f/x": ""}, "compare f", "results.json"),
    "no presets": ({}, "run experiment=papr", "paper"),
    # Settings
    "no rank": (*settings("'lora.ranks=\"4,0\"'"), "must be ranks from 1, separated by commas"),
    "rank above all": (*settings("'lora.ranks=\"2,8\"'"), "lora.rank, that of the federated"),
    "ranks for nobody": (*settings("'lora.ranks=\"1,2,4\"'"), "data.num-clients is 2; leave out"),
    "unknown setting": (*settings("data.pth=x"), "data.pth"),
    "a word for a number": (*settings("federation.rounds=two"), "federation.rounds"),
    "out of range": (*settings("data.test-fraction=2"), "data.test-fraction"),
    "no value": (*settings("seed"), "seed"),
    "two values": (*settings("seed=1,2"), "has several values: write a text with commas as"),
    "no such method": (*settings("method=fedfoo"), "method is 'fedfoo'"),
    "no such rule": (*settings("merge.rule=best"), "merge.rule is 'best'"),
    "no such task": (*settings("task.name=vision"), "task.name is 'vision'"),
    "too many samples": (*settings("calibration.samples=50"), "lower calibration.samples"),
    "too many clients": (*settings("data.num-clients=50"), "lower data.num-clients"),
    "no test data": (*settings("data.test-fraction=0"), "must be a number > 0 and < 1"),
    "too few tests": (*settings("data.test-fraction=0.01"), "raise data.test-fraction"),
    "results in use": ({"f/x": ""}, "run run.results=f", "already used by another run; name a new"),
    "no such device": (*settings("model.device=tpu"), "model.device"),
    "privacy of rounded numbers": (*settings("privacy.clipping-norm=1"), "transport=float32"),
    "node twice": (*settings("'federation.nodes=\"a,a\"'"), "federation.nodes"),
    "too many classes": (
        *settings("data.partition=pathological data.classes-per-client=9"),
        "with data.classes-per-client=9: lower it",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tiny model of each kind."""
    root = tmp_path_factory.mktemp("models")
    make_tiny_bert(root / "bert")
    make_tiny_vit(root / "vit")
    make_tiny_digits_vit(root / "digits")
    make_tiny_llama(root / "llama")
    return root


class NobodyAtHome(io.StringIO):
    """A standard input that nobody answers at."""

    def readline(self, *_):
        raise AssertionError("a question was asked on standard input")

    read = __next__ = readline


def words_of(command, models, here):
    """Split a command at its spaces; a setting's model is a folder of models, and data that is
    there has its whole path: what was read is kept by its path as long as the process lives.
    """
    words = [word.strip("'") for word in command.split()]
    for number, word in enumerate(words):
        setting, _, value = word.partition("=")
        for name, place in (("task.model", models / value), ("data.path", here / value)):
            if setting == name and value and place.exists():
                words[number] = f"{setting}={place}"
    return words


def last_of_each(words):
    """Keep the last value of a setting, as Hydra takes a setting only once."""
    named = {word.partition("=")[0] if "=" in word else word: word for word in words}
    return list(named.values())


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_input_is_one_line_that_says_where_and_how(
    name, models, tmp_path, monkeypatch, capsys
):
    files, command, said = BAD[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", NobodyAtHome())
    if command.startswith("copy"):
        _, kind, command = command.split(" ", 2)
        shutil.copytree(models / kind, "m")
    for file, content in files.items():
        place = tmp_path / file
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            place.unlink()
        else:
            place.write_bytes(content.encode() if isinstance(content, str) else content)
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    status = main(last_of_each(words_of(command, models, tmp_path)))
    stream = capsys.readouterr()
    errors = [line for line in stream.err.splitlines() if line.startswith("error: ")]
    assert status in (1, 2)
    assert len(errors) == 1, stream.err
    assert stream.err.rstrip().endswith(errors[0])
    assert said in errors[0]
    assert "not foreseen" not in errors[0]
    assert "Traceback" not in stream.err + stream.out
    assert sorted(tmp_path.rglob("*")) == before


NODES = {
    "unknown key": ({"nam": "a"}, "a node: unknown key 'nam' in --node-config; did you mean name?"),
    "a number as a name": ({"name": 5}, "name in --node-config is 5, but must be a text"),
    "a word as a number": ({"partition-id": "x"}, "partition-id in --node-config is 'x', but must"),
    "not expected": ({"name": "c"}, "node c: its name is not in federation.nodes"),
    "no name": ({}, "a node: it has no name: start it with e.g. --node-config 'name=\"a\"'"),
    "two numbers": ({"name": "a", "partition-id": 1}, "it is client 0 of federation.nodes, but"),
    "relative data": ({"name": "a", "data-path": "x.csv"}, "give an absolute path"),
    "no data": ({"name": "a", "data-path": "/no/x.csv"}, "node a: data-path: there is no file"),
    "relative state": ({"name": "a", "state-dir": "x"}, "state-dir is 'x'; give an absolute path"),
}


@pytest.mark.parametrize("name", list(NODES))
def test_a_bad_node_names_itself_and_the_cure(name):
    values, said = NODES[name]
    run = from_flat({"federation.nodes": "a,b", "data.num-clients": 2})

    def take_part():
        node = read_node(values, run.federation.names)
        node.settings(run, node.client(run))
        return node.state_folder

    with pytest.raises(NodeError) as error:
        take_part()
    assert said in str(error.value)
    assert str(error.value).isprintable()


def test_there_are_enough_of_them():
    assert len(BAD) + len(NODES) >= 80
