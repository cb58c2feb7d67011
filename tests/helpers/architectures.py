"""Random models of many architectures, two small layers each, with tokenizer or image processor."""

from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from tiny_models import WORDS
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PretrainedConfig, PreTrainedTokenizerFast
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

SIDE = 32
"""Pixels of an image."""
SIZES = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "initializer_range": 0.2,
}  # fmt: skip
LLAMA = {**SIZES, "num_key_value_heads": 1, "max_position_embeddings": 128}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.2}
VISION = {**SIZES, "image_size": SIDE, "patch_size": 8}

IMAGE: dict[str, tuple[str, dict]] = {
    "vit": ("ViTConfig", {**SIZES, "image_size": SIDE, "patch_size": 8}),
    "deit": ("DeiTConfig", {**SIZES, "image_size": SIDE, "patch_size": 8,
                            "architectures": ["DeiTForImageClassification"]}),
    "swin": ("SwinConfig", {"image_size": SIDE, "patch_size": 4, "embed_dim": 8, "depths": [1, 1],
                            "num_heads": [2, 2], "window_size": 4}),
    "mobilevit": ("MobileViTConfig", {
        "image_size": SIDE, "hidden_sizes": [16, 16, 16], "patch_size": 2, "num_attention_heads": 2,
        "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16], "initializer_range": 0.2}),
    "mobilenet_v2": ("MobileNetV2Config", {"image_size": SIDE, "depth_multiplier": 0.25,
                                           "tf_padding": False}),
    "resnet": ("ResNetConfig", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
                                "layer_type": "basic"}),
    "levit": ("LevitConfig", {
        "image_size": SIDE, "hidden_sizes": [16, 16, 16], "num_attention_heads": [2, 2, 2],
        "depths": [1, 1, 1], "key_dim": [4, 4, 4], "patch_size": 16,
        "down_ops": [["Subsample", 4, 4, 2, 2, 2], ["Subsample", 4, 4, 2, 2, 2]],
        "architectures": ["LevitForImageClassification"]}),
    "convnext": ("ConvNextConfig", {"image_size": SIDE, "patch_size": 4, "depths": [1, 1],
                                    "hidden_sizes": [8, 16], "num_stages": 2}),
    "regnet": ("RegNetConfig", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
                                "groups_width": 8, "layer_type": "y"}),
    "efficientnet": ("EfficientNetConfig", {
        "image_size": SIDE, "width_coefficient": 0.25, "depth_coefficient": 0.1,
        "hidden_dim": 320}),
    "siglip": ("SiglipConfig", {"vision_config": VISION,
                                "text_config": {**SIZES, "vocab_size": 40}}),
}  # fmt: skip
"""Name → configuration class and sizes, of image classifiers."""

TEXT: dict[str, tuple[str, dict]] = {
    "bert": ("BertConfig", {**SIZES, "max_position_embeddings": 64}),
    "roberta": ("RobertaConfig", {**SIZES, "max_position_embeddings": 66}),
    "distilbert": ("DistilBertConfig", {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}),
    "deberta-v2": ("DebertaV2Config", {
        **SIZES, "max_position_embeddings": 64, "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"], "position_buckets": 8, "share_att_key": True,
        "norm_rel_ebd": "layer_norm", "position_biased_input": False}),
    "gpt2": ("GPT2Config", GPT),
    "llama": ("LlamaConfig", LLAMA),
    "albert": ("AlbertConfig", {**SIZES, "embedding_size": 8, "max_position_embeddings": 64}),
    "electra": ("ElectraConfig", {**SIZES, "embedding_size": 8, "max_position_embeddings": 64}),
    "modernbert": ("ModernBertConfig", {**SIZES, "max_position_embeddings": 64,
                                        "global_attn_every_n_layers": 2, "local_attention": 8}),
    "xlnet": ("XLNetConfig", {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24}),
    "opt": ("OPTConfig", {**SIZES, "ffn_dim": 24, "max_position_embeddings": 64,
                          "word_embed_proj_dim": 16}),
    "bloom": ("BloomConfig", {"hidden_size": 16, "n_layer": 2, "n_head": 2}),
}  # fmt: skip
"""Name → configuration class and sizes, of text classifiers."""


def config_of(name: str, **more: object) -> PretrainedConfig:
    """Return the configuration of an architecture of the tables above."""
    kind, sizes = (IMAGE | TEXT)[name]
    return getattr(transformers, kind)(**{**sizes, **more})


def enliven(model: nn.Module) -> None:
    """Give a random model statistics of its own, and weights by which its outputs are no zeros."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)


def write_word_tokenizer(
    folder: Path, special: tuple[str, ...] = ("[PAD]", "[UNK]"), **tokens: str
) -> int:
    """Write a tokenizer of words to ``folder``; return the size of its vocabulary.

    Parameters
    ----------
    special : tuple of str
        Come first in the vocabulary, before the words.
    tokens : str
        What each of them is for, by default ``pad_token`` and ``unk_token``.
    """
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokens = tokens or {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=tokens["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens).save_pretrained(folder)
    return len(vocabulary)


def write_image_model(folder: Path, name: str, num_labels: int = 2, **more: object) -> Path:
    """Write an image classifier of the architecture ``name``, with its processor."""
    torch.manual_seed(0)
    config = config_of(name, num_labels=num_labels, **more)
    model = transformers.AutoModelForImageClassification.from_config(config)
    enliven(model)
    model.save_pretrained(folder)
    ViTImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_mean=[0.5, 0.4, 0.3], image_std=[0.2, 0.3, 0.5]
    ).save_pretrained(folder)
    return folder


def write_text_model(
    folder: Path,
    name: str,
    auto_class: str = "AutoModelForSequenceClassification",
    tokenizer: Callable[[Path], int] = write_word_tokenizer,
    **more: object,
) -> Path:
    """Write a model for texts of the architecture ``name``, with a tokenizer of words."""
    size = tokenizer(folder)
    torch.manual_seed(0)
    config = config_of(name, vocab_size=size, **{"pad_token_id": 0, **more})
    getattr(transformers, auto_class).from_config(config).save_pretrained(folder)
    return folder
