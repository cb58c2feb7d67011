"""What a tiny model of the zoo is trained on: images in folders, texts with labels, questions."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from simulations.zoo.tiny import SIDE, WORDS

SPECIAL = ("[PAD]", "[UNK]", "[END]", "[BEGIN]")
NAMES = ("cold", "warm")
"""Of the classes."""
ROWS = 40


def write_tokenizer(folder: Path) -> bool:
    """Write a tokenizer of words that ends every text with a token for it; say whether what
    transformers loads for the type of the model gives its tokens.
    """
    words = [*SPECIAL, *(f"w{number}" for number in range(WORDS - len(SPECIAL)))]
    vocabulary = {word: number for number, word in enumerate(words)}
    pad, unknown, end, begin = SPECIAL
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, vocabulary[end])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, unk_token=unknown, eos_token=end,
        bos_token=begin,
    ).save_pretrained(folder)  # fmt: skip
    read = AutoTokenizer.from_pretrained(folder)("w0 w1")["input_ids"]
    return bool(read == [vocabulary[word] for word in ("w0", "w1", end)])


def write_processor(folder: Path, model_type: str) -> None:
    """Write an image processor to the size of the zoo's models."""
    if model_type == "siglip2":
        Siglip2ImageProcessorPil(patch_size=4, max_num_patches=64).save_pretrained(folder)
        return
    ViTImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.5]
    ).save_pretrained(folder)


def write_data(folder: Path, kind: str) -> Path:
    """Write data of one kind (``image``, ``text`` or ``causal``); return the file or folder."""
    drawn = random.Random(0)  # noqa: S311

    def text(label: int) -> str:
        words = range(label * 20, label * 20 + 20)
        return " ".join(f"w{drawn.choice(words)}" for _ in range(drawn.randint(2, 8)))

    place = folder / {"image": "photos", "text": "texts.csv", "causal": "questions.jsonl"}[kind]
    folder.mkdir(parents=True, exist_ok=True)
    labels = [number % 2 for number in range(ROWS)]
    if kind == "image":
        pixels = np.random.default_rng(0)
        for number, label in enumerate(labels):
            array = pixels.integers(0, 90, (SIDE, SIDE, 3))
            array[..., 2 * label] += 150
            file = place / NAMES[label] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.astype(np.uint8)).save(file)
    elif kind == "text":
        with place.open("w", newline="") as table:
            writer = csv.writer(table)
            writer.writerow(["text", "label"])
            writer.writerows([text(label), NAMES[label]] for label in labels)
    else:
        rows = [{"prompt": text(label), "answer": f"w{40 + label}"} for label in labels]
        place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place
