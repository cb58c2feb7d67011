"""What a tiny model of the zoo is trained on: images in folders, texts with labels, questions."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from simulations.zoo.tiny import SIDE, WORDS

SPECIAL = ("[PAD]", "[UNK]", "[END]", "[BEGIN]")
NAMES = ("cold", "warm")
"""Of the classes."""
ROWS = 40


def write_tokenizer(folder: Path) -> bool:
    """Write a tokenizer that ends every text with a token for it: of words, or of bytes where the
    type of the model reads no other. Say whether what transformers loads for it reads a text whole.
    """
    return any(_write_and_read(folder, tokenizer) for tokenizer in (_of_words(), _of_bytes()))


def _of_words() -> Tokenizer:
    words = [*SPECIAL, *(f"w{number}" for number in range(WORDS - len(SPECIAL)))]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def _of_bytes() -> Tokenizer:
    blank = "\u0120"  # as byte-level vocabularies write it
    vocabulary = {
        word: at for at, word in enumerate([*SPECIAL, "w", blank, f"{blank}w", *"0123456789"])
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[(blank, "w")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _write_and_read(folder: Path, tokenizer: Tokenizer) -> bool:
    pad, unknown, end, begin = SPECIAL
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, SPECIAL.index(end))]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, unk_token=unknown, eos_token=end,
        bos_token=begin,
    ).save_pretrained(folder)  # fmt: skip
    read = AutoTokenizer.from_pretrained(folder)
    ids = read("w0 w12")["input_ids"]
    text = read.decode(ids, skip_special_tokens=True)
    return bool(text == "w0 w12" and ids[-1] == SPECIAL.index(end))


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
            array = pixels.integers(0, 90, (SIDE + 8, SIDE + 4, 3))  # to be resized
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
