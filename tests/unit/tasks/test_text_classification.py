"""Texts: whose rows are whose, what is for testing, and what cannot be read."""

import json

import pandas as pd
import pytest
import torch
from architectures import write_word_tokenizer
from tiny_models import make_tiny_bert, sentences
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    XLNetConfig,
)

from potara_flwr.core.errors import SettingsError
from potara_flwr.models.lora import LoraModel
from potara_flwr.run_config import from_flat
from potara_flwr.tasks import text_classification
from potara_flwr.tasks.base import join, num_samples, take
from potara_flwr.tasks.text_classification import TextClassification
from potara_flwr.training.gradients import per_sample_gradients
from potara_flwr.training.local_steps import evaluate, train


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    """A random BERT without a head for three classes."""
    return make_tiny_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(params=["parquet", "csv", "jsonl"])
def data_file(request, tmp_path):
    table = pd.DataFrame(sentences())
    file = tmp_path / f"data.{request.param}"
    if request.param == "parquet":
        table.to_parquet(file)
    elif request.param == "csv":
        table.to_csv(file, index=False)
    else:
        table.to_json(file, orient="records", lines=True)
    return file


@pytest.fixture
def settings_of(tiny_bert, tmp_path):
    table = pd.DataFrame(sentences())
    table.to_parquet(tmp_path / "data.parquet")

    def build(overrides=None):
        return from_flat(
            {
                "task.name": "text-classification",
                "task.model": str(tiny_bert),
                "data.path": str(tmp_path / "data.parquet"),
                "data.split-column": "split",
                "data.partition": "natural",
                "data.partition-column": "domain",
                "data.num-clients": 4,
                "data.train-samples": 20,
                "calibration.samples": 6,
                **(overrides or {}),
            }
        )

    return build


def test_every_format_gives_the_same_samples(settings_of, data_file):
    expected = TextClassification(settings_of()).load_client(1)
    got = TextClassification(settings_of({"data.path": str(data_file)})).load_client(1)
    for part in ("train", "calibration", "test"):
        for name, tensor in getattr(expected, part).items():
            assert torch.equal(tensor, getattr(got, part)[name])


def test_a_client_holds_a_share_of_one_domain_and_tests_on_the_test_rows(settings_of):
    # The label is the row's number mod 3, so count rows by domain: 120 each, two clients a domain.
    clients = [
        TextClassification(settings_of({"data.train-samples": 0})).load_client(k) for k in range(4)
    ]
    sizes = [num_samples(c.train) + num_samples(c.calibration) + num_samples(c.test)
             for c in clients]  # fmt: skip
    assert sizes == [60] * 4
    assert sum(num_samples(client.test) for client in clients) == 48
    assert all(num_samples(client.calibration) == 6 for client in clients)


def test_without_domains_labels_are_skewed(settings_of):
    overrides = {"data.partition": "dirichlet", "data.partition-column": "", "data.alpha": 0.5,
                 "data.split-column": "", "data.train-samples": 0}  # fmt: skip
    counts = [
        torch.bincount(
            TextClassification(settings_of(overrides)).load_client(k).train["labels"], minlength=3
        )
        for k in range(4)
    ]
    shares = torch.stack([count / count.sum() for count in counts])
    assert shares.std(0).max() > 0.1


def test_test_samples_are_limited(settings_of):
    assert (
        num_samples(TextClassification(settings_of({"data.test-samples": 5})).load_client(0).test)
        == 5
    )


def test_the_head_is_made_from_the_seed_with_the_classes_of_the_data(settings_of):
    first, again, other = (
        TextClassification(settings_of({"seed": seed})).load_base_model().classifier.weight
        for seed in (0, 0, 1)
    )
    assert first.shape == (3, 16)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_padding_changes_no_loss_and_no_gradient(settings_of):
    settings = settings_of()
    task = TextClassification(settings)
    model = LoraModel(task.load_base_model(), settings.lora, task.head_modules, 0)
    data = task.load_client(0)
    adapter, _ = train(
        model, task, model.initial, data.train, settings.train, steps=5, seed=0, who="x"
    )
    together = per_sample_gradients(model, task, adapter, data.calibration)
    for index in range(3):
        alone = take(data.calibration, torch.tensor([index]))
        single = per_sample_gradients(model, task, adapter, alone)
        torch.testing.assert_close(single.losses[0], together.losses[index])
        for name, gradient in single.gradients.items():
            torch.testing.assert_close(
                gradient[0], together.gradients[name][index], rtol=1e-4, atol=1e-5
            )
    assert evaluate(model, task, adapter, data.test).num_samples == num_samples(data.test)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data.path": "nowhere.parquet"}, "there is no file"),
        ({"data.path": "no/such-data"}, "data.path: no/such-data, split train cannot be read"),
        ({"data.text-column": "words"}, "data.text-column is 'words', but data.parquet has the"),
        ({"data.text-column": "id"}, "data.parquet, column 'id' holds no texts"),
        ({"data.text-column": "text+domain+id"}, "name one column, or two different ones"),
        ({"data.text-column": "text+text"}, "name one column, or two different ones"),
        ({"data.path": "a.csv,b.csv,c.csv,d.csv", "data.num-clients": 3}, "4 data sources, but"),
        ({"data.split-column": "part"}, "data.split-column is 'part', but data.parquet has the"),
        ({"data.partition-column": "user"}, "data.partition-column is 'user', but data.parquet"),
        ({"data.partition-column": ""}, "which needs data.partition-column"),
        ({"task.model": "no/such"}, "task.model is 'no/such', which is not a readable"),
        ({"calibration.samples": 500}, "more than client 0 (data.parquet) has"),
    ],
)
def test_bad_data_is_one_clear_line(settings_of, overrides, words):
    task = TextClassification(settings_of(overrides))

    def load():
        task.load_base_model()
        task.load_client(0)

    with pytest.raises(SettingsError) as error:
        load()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_broken_file_is_named(settings_of, tmp_path):
    (tmp_path / "broken.parquet").write_text("this is no parquet")
    with pytest.raises(SettingsError, match=r"broken\.parquet cannot be read"):
        TextClassification(
            settings_of({"data.path": str(tmp_path / "broken.parquet")})
        ).load_client(0)


def rewritten(settings_of, tmp_path, change, overrides=None):
    """Return settings whose data file holds the sentences after ``change``."""
    table = pd.DataFrame(sentences())
    change(table)
    table.to_parquet(tmp_path / "changed.parquet")
    return settings_of({"data.path": str(tmp_path / "changed.parquet"), **(overrides or {})})


def test_labels_may_be_words_in_sorted_order(settings_of, tmp_path):
    def change(table):
        table["label"] = table["label"].map({0: "bad", 1: "so-so", 2: "good"})

    words = TextClassification(rewritten(settings_of, tmp_path, change)).load_client(0)
    numbers = TextClassification(settings_of()).load_client(0)
    mapped = torch.tensor([0, 2, 1])[numbers.train["labels"]]  # bad, good, so-so
    assert torch.equal(words.train["labels"], mapped)
    assert words.classes == ("bad", "good", "so-so")


@pytest.mark.parametrize(
    ("column", "row", "value", "words"),
    [
        ("text", 1, "  ", "changed.parquet, column 'text': row 1, of client 1, is empty"),
        ("text", 1, None, "changed.parquet, column 'text': row 1, of client 1, is empty"),
        ("label", 0, 7, "column 'label': row 0 has the label '7', which no training sample has"),
        ("label", 1, -2, "column 'label': row 1 is labelled -2; labels must be words or whole"),
        ("label", 1, None, "changed.parquet, column 'label': row 1 has no label"),
        ("split", 1, "dev", "changed.parquet, column 'split': row 1 is 'dev', neither train nor"),
        ("domain", 1, None, "changed.parquet, column 'domain': row 1 is empty"),
    ],
)
def test_a_bad_row_is_named(settings_of, tmp_path, column, row, value, words):
    def change(table):
        table[column] = table[column].astype(object)
        table.at[row, column] = value

    settings = rewritten(settings_of, tmp_path, change, {"data.train-samples": 0})
    with pytest.raises(SettingsError) as error:
        TextClassification(settings).load_client(1)
    assert "\n" not in str(error.value)
    assert words in str(error.value)


def test_one_class_alone_is_an_error(settings_of, tmp_path):
    def change(table):
        table["label"] = 1

    with pytest.raises(SettingsError, match="all training samples have the label '1'"):
        TextClassification(rewritten(settings_of, tmp_path, change)).load_client(0)


def test_whole_numbers_are_as_many_classes_as_there_are(settings_of, tmp_path):
    def change(table):
        table["label"] += 1

    stars = TextClassification(rewritten(settings_of, tmp_path, change)).load_client(0)
    assert stars.classes == ("1", "2", "3")
    assert torch.equal(
        stars.train["labels"], TextClassification(settings_of()).load_client(0).train["labels"]
    )


def test_pairs_of_texts_are_told_apart(settings_of, tmp_path):
    def change(table):
        table["other"] = table["text"].map(lambda text: text.split()[0])

    single = TextClassification(settings_of()).load_client(0).test
    pair = (
        TextClassification(
            rewritten(settings_of, tmp_path, change, {"data.text-column": "text+other"})
        )
        .load_client(0)
        .test
    )
    assert pair["attention_mask"].sum() == single["attention_mask"].sum() + len(pair["labels"])
    assert "token_type_ids" not in single
    # The tiny tokenizer puts nothing between the two, and marks the second one.
    assert pair["token_type_ids"].sum() == len(pair["labels"])


def test_texts_that_are_cut_are_counted_once(settings_of, tmp_path):
    def change(table):
        table["text"] = [" ".join([text] * (1 + row % 2)) for row, text in enumerate(table["text"])]

    def load(tokens):
        settings = rewritten(settings_of, tmp_path, change, {"data.max-tokens": tokens})
        return TextClassification(settings).load_client(0)

    whole = load(30)
    assert whole.rows.cut == 0
    parts = [whole.train, whole.test, whole.calibration]
    lengths = torch.cat([part["attention_mask"].sum(1) for part in parts])
    most = int(lengths.median())
    cut = int((lengths > most).sum())
    assert load(most).rows.cut == cut > 0


def test_a_text_longer_than_the_model_takes_says_so(settings_of, tmp_path):
    def change(table):
        table["text"] = table["text"].map(lambda text: " ".join([text] * 40))

    with pytest.raises(
        SettingsError, match=r"has a text of .* tokens, but .* takes 32; lower data\.max-tokens"
    ):
        TextClassification(rewritten(settings_of, tmp_path, change)).load_client(0)


def test_tokens_come_from_the_cache_the_second_time(settings_of, monkeypatch):
    first = TextClassification(settings_of()).load_client(0)
    tokenizer, _ = text_classification.tokenizer_of(settings_of().task.model)
    monkeypatch.setattr(type(tokenizer), "__call__", None)
    again = TextClassification(settings_of()).load_client(0)
    assert torch.equal(first.train["input_ids"], again.train["input_ids"])


def test_evaluation_batches_are_sorted_by_length(settings_of):
    for part in ("train", "calibration", "test"):
        samples = getattr(TextClassification(settings_of()).load_client(0), part)
        lengths = samples["attention_mask"].sum(1)
        assert torch.equal(lengths, lengths.sort().values)


def test_each_client_may_have_a_source_of_its_own(settings_of, tmp_path):
    table = pd.DataFrame(sentences())
    for name, labels in (("two", table["label"] % 2), ("three", table["label"])):
        table.assign(grade=labels, label=labels).to_csv(tmp_path / f"{name}.csv", index=False)
    overrides = {
        "data.path": f"{tmp_path}/two.csv, {tmp_path}/three.csv",
        "data.label-column": "grade,label",
        "data.partition": "iid",
        "data.partition-column": "",
    }
    settings = settings_of({**overrides, "task.head": "local"})
    task = TextClassification(settings)
    assert [len(task.load_client(k).classes) for k in range(4)] == [2, 3, 2, 3]
    words = r"two\.csv has 0, 1 and three\.csv has 0, 1, 2; name them all"
    with pytest.raises(SettingsError, match=words):
        TextClassification(settings_of(overrides)).load_base_model()
    with pytest.raises(
        SettingsError, match=r"data\.label-column names 3 values for 2 data sources"
    ):
        TextClassification(settings_of({**overrides, "data.label-column": "a,b,c"})).load_client(0)


def test_test_samples_may_come_from_a_split_of_their_own(settings_of, tmp_path):
    table = pd.DataFrame(sentences())
    (tmp_path / "both").mkdir()
    for split, rows in table.groupby("split"):
        rows.to_csv(tmp_path / "both" / f"{split}.csv", index=False)
    overrides = {"data.path": str(tmp_path / "both"), "data.test-split": "test",
                 "data.split-column": "", "data.train-samples": 0}  # fmt: skip
    clients = [TextClassification(settings_of(overrides)).load_client(k) for k in range(4)]
    assert sum(num_samples(client.test) for client in clients) == 48
    assert sum(num_samples(client.train_and_calibration) for client in clients) == 192
    with pytest.raises(SettingsError, match="both given"):
        TextClassification(settings_of({**overrides, "data.split-column": "split"})).load_client(0)


def decoder(folder, size):
    config = LlamaConfig(
        vocab_size=size, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=64, initializer_range=0.2, num_labels=3,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)


def xlnet(folder, size):
    config = XLNetConfig(
        vocab_size=size, d_model=16, n_layer=2, n_head=2, d_inner=24, initializer_range=0.2,
        num_labels=3,
    )  # fmt: skip
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)


@pytest.mark.parametrize(("make", "side"), [(decoder, "right"), (xlnet, "left")])
def test_a_text_has_one_loss_in_any_batch_whatever_the_side_and_id_of_padding(
    settings_of, tmp_path, make, side
):
    # The token for padding is none of id 0, which stands where parts of samples are joined.
    folder = tmp_path / "model"
    size = write_word_tokenizer(
        folder, ("[CLS]", "[UNK]", "[PAD]"), pad_token="[PAD]", unk_token="[UNK]"
    )
    torch.manual_seed(0)
    make(folder, size)
    settings = settings_of({"task.model": str(folder)})
    task = TextClassification(settings)
    model = LoraModel(task.load_base_model(), settings.lora, task.head_modules, 0)
    data = task.load_client(0)
    columns = slice(4) if side == "right" else slice(-4, None)
    short = {
        name: tensor[:3, columns] if tensor.ndim > 1 else tensor[:3]
        for name, tensor in data.calibration.items()
    }
    joined = task.collate(join(short, data.train))
    with torch.no_grad():
        together = task.losses(model(model.initial, joined), joined)
        for index in range(8):
            real = joined["input_ids"][index][joined["attention_mask"][index] == 1]
            alone = {
                "input_ids": real[None],
                "attention_mask": torch.ones_like(real)[None],
                "labels": joined["labels"][index : index + 1],
            }
            loss = task.losses(model(model.initial, alone), alone)[0]
            torch.testing.assert_close(together[index], loss, rtol=1e-4, atol=1e-5)
    ends = joined["attention_mask"][:, 0 if side == "left" else -1]
    assert not ends.all()
    assert joined["attention_mask"][:, -1 if side == "left" else 0].all()

    # As plain transformers pads them.
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    texts = [tokenizer.decode(ids[mask == 1]) for ids, mask in zip(
        joined["input_ids"], joined["attention_mask"], strict=True)]  # fmt: skip
    again = tokenizer(texts, padding=True, return_tensors="pt")
    assert torch.equal(again["input_ids"], joined["input_ids"])
    assert torch.equal(again["attention_mask"], joined["attention_mask"])


def test_a_text_without_a_token_is_named(settings_of, tmp_path):
    folder = make_tiny_bert(tmp_path / "bert")
    rules = json.loads((folder / "tokenizer.json").read_text())
    rules["normalizer"] = {"type": "Replace", "pattern": {"String": "w1"}, "content": ""}
    (folder / "tokenizer.json").write_text(json.dumps(rules))

    def change(table):
        table.loc[1, "text"] = "w1"

    whole = {"task.model": str(folder), "data.train-samples": 0}
    settings = rewritten(settings_of, tmp_path, change, whole)
    words = r"changed\.parquet, column 'text': row 1, of client 1, has no token of task\.model"
    with pytest.raises(SettingsError, match=words):
        TextClassification(settings).load_client(1)
