"""Random two-layer models with what belongs to them, and data in the format of the real sets."""

from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

WORDS = [f"w{number}" for number in range(40)]
DOMAINS = ("books", "films")


def make_tiny_bert(folder: Path) -> Path:
    """Write a BERT with a word tokenizer and a head for two classes to ``folder``."""
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=32, num_labels=2, initializer_range=0.2,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def make_tiny_digits_vit(folder: Path) -> Path:
    """Write a ViT for 28 × 28 digits to ``folder``."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        image_size=28, patch_size=14, num_channels=1, num_labels=10, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, initializer_range=0.2,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    return folder


def make_tiny_vit(folder: Path) -> Path:
    """Write a ViT for 16 × 16 colour images with its image processor to ``folder``."""
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        image_size=16, patch_size=8, num_labels=10, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, initializer_range=0.2,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(
        size={"height": 16, "width": 16}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.5]
    ).save_pretrained(folder)
    return folder


def sentences() -> Iterator[dict]:
    """Yield rows in the columns of the sentiment data."""
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


def make_tiny_cifar(folder: Path, classes: int = 5) -> Path:
    """Write images in the columns, types and splits of CIFAR-100 on the hub to ``folder``."""
    rng = np.random.default_rng(0)
    names = [f"class {number}" for number in range(classes)]
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "fine_label": datasets.ClassLabel(names=names),
            "coarse_label": datasets.ClassLabel(names=["a", "b"]),
        }
    )
    for split, per_class in (("train", 24), ("test", 6)):
        labels = [number % classes for number in range(classes * per_class)]
        rows = {
            "img": [rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) // (1 + at) for at in labels],
            "fine_label": labels,
            "coarse_label": [label % 2 for label in labels],
        }
        table = datasets.Dataset.from_dict(rows, features=features)
        (folder / "cifar100").mkdir(parents=True, exist_ok=True)
        table.to_parquet(folder / "cifar100" / f"{split}-00000-of-00001.parquet")
    return folder
