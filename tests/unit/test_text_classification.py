"""Texts: whose rows are whose, what is for testing, and what cannot be read."""

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from potara_flwr.adapters import LoraModel
from potara_flwr.config import from_flat
from potara_flwr.errors import SettingsError
from potara_flwr.fisher import per_sample_gradients
from potara_flwr.tasks.base import num_samples, take
from potara_flwr.tasks.text_classification import TextClassification
from potara_flwr.training import evaluate, train

WORDS = [f"w{number}" for number in range(40)]
DOMAINS = ("books", "films")


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    """A random two-layer BERT with a word tokenizer, without a head for three classes."""
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=32, num_labels=2, initializer_range=0.2,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def rows():
    generator = torch.Generator().manual_seed(0)
    for number in range(240):
        length = int(torch.randint(1, 12, (1,), generator=generator))
        drawn = torch.randint(0, 40, (length,), generator=generator)
        yield {
            "text": " ".join(WORDS[word] for word in drawn),
            "label": number % 3,
            "split": "test" if number % 5 == 0 else "train",
            "domain": DOMAINS[number % 2],
            "id": number,
        }


@pytest.fixture(params=["parquet", "csv", "jsonl"])
def data_file(request, tmp_path):
    table = pd.DataFrame(rows())
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
    table = pd.DataFrame(rows())
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
    task = TextClassification()
    expected = task.load_client(settings_of(), 1)
    got = task.load_client(settings_of({"data.path": str(data_file)}), 1)
    for part in ("train", "calibration", "test"):
        for name, tensor in getattr(expected, part).items():
            assert torch.equal(tensor, getattr(got, part)[name])


def test_a_client_holds_a_share_of_one_domain_and_tests_on_the_test_rows(settings_of):
    # The label is the row's number mod 3, so count rows by domain: 120 each, two clients a domain.
    task = TextClassification()
    clients = [task.load_client(settings_of({"data.train-samples": 0}), k) for k in range(4)]
    sizes = [num_samples(c.train) + num_samples(c.calibration) + num_samples(c.test)
             for c in clients]  # fmt: skip
    assert sizes == [60] * 4
    assert sum(num_samples(client.test) for client in clients) == 48
    assert all(num_samples(client.calibration) == 6 for client in clients)


def test_without_domains_labels_are_skewed(settings_of):
    overrides = {"data.partition": "dirichlet", "data.partition-column": "", "data.alpha": 0.5,
                 "data.split-column": "", "data.train-samples": 0}  # fmt: skip
    task = TextClassification()
    counts = [
        torch.bincount(task.load_client(settings_of(overrides), k).train["labels"], minlength=3)
        for k in range(4)
    ]
    shares = torch.stack([count / count.sum() for count in counts])
    assert shares.std(0).max() > 0.1


def test_test_samples_are_limited(settings_of):
    task = TextClassification()
    assert num_samples(task.load_client(settings_of({"data.test-samples": 5}), 0).test) == 5


def test_the_head_is_made_from_the_seed_with_the_classes_of_the_data(settings_of):
    task = TextClassification()
    first, again, other = (
        task.load_base_model(settings_of({"seed": seed})).classifier.weight for seed in (0, 0, 1)
    )
    assert first.shape == (3, 16)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_padding_changes_no_loss_and_no_gradient(settings_of):
    settings = settings_of()
    task = TextClassification()
    model = LoraModel(task.load_base_model(settings), settings.lora, task.head_modules, 0)
    data = task.load_client(settings, 0)
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
        ({"data.split-column": "part"}, "data.split-column is 'part', but data.parquet has the"),
        ({"data.partition-column": "user"}, "data.partition-column is 'user', but data.parquet"),
        ({"data.partition-column": ""}, "which needs data.partition-column"),
        ({"task.model": "no/such"}, "task.model is 'no/such', which is not a readable"),
        ({"calibration.samples": 500}, "more than client 0 (data.parquet) has"),
    ],
)
def test_bad_data_is_one_clear_line(settings_of, overrides, words):
    task = TextClassification()
    settings = settings_of(overrides)

    def load():
        task.load_base_model(settings)
        task.load_client(settings, 0)

    with pytest.raises(SettingsError) as error:
        load()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_broken_file_is_named(settings_of, tmp_path):
    (tmp_path / "broken.parquet").write_text("this is no parquet")
    with pytest.raises(SettingsError, match=r"broken\.parquet cannot be read"):
        TextClassification().load_client(
            settings_of({"data.path": str(tmp_path / "broken.parquet")}), 0
        )
