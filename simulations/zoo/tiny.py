"""Tiny random models of any architecture: its default configuration with the sizes shrunk."""

from __future__ import annotations

import re
from typing import Any

import torch
import transformers
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

WORDS = 48
"""Tokens of the vocabulary."""
SIDE = 32
"""Pixels of an image's side."""
PAD, UNKNOWN, END, BEGIN = range(4)
"""The first tokens of the vocabulary."""
TOKENS = {
    "pad_token_id": PAD,
    "eos_token_id": END,
    "bos_token_id": BEGIN,
    "decoder_start_token_id": PAD,
}
MOST_PARAMETERS = 20_000_000

SIZES: tuple[tuple[str, int], ...] = (
    (r".*vocab_size.*|.*ngram_vocab_size_base", WORDS),
    (r"image_size|img_size|input_size", SIDE),
    (r".*max_.*position_embeddings|n_positions|max_seq_len|n_ctx|model_max_length", 64),
    (r"max_(source|target)_positions", 64),
    (r"(num_|n_)?(hidden_|encoder_|decoder_)*layers?|num_blocks|depth|num_layers_per_stack", 2),
    (r".*_(key|kv|value|query)_heads|.*heads?|num_attention_heads_per_layer|.*_n_heads", 2),
    (r".*(nope|rope)_head_dim|rotary_dim", 8),
    (r".*head_dim|d_kv|d_head|dim_head|kv_channels|.*_d_head|key_dim", 16),
    (r".*lora_rank|.*dt_rank|time_step_rank|laurel_rank|gated_norm_rank", 8),
    (r"(num_|n_|moe_)*((local|routed)_)?experts", 4),
    (r"num_experts_per_.*|moe_topk|moe_k|topk_group|n_group|num_expert_group", 2),
    # As in real ones: more than a text has tokens. Fewer are chosen among equals, as they lie.
    (r"index_topk", 32),
    (r".*state_size|.*d_state", 8),
    (r"mamba_d_ssm", 32),
    (r".*(intermediate|ffn|mlp|inner|ff).*(size|dim)|d_ff|dff|dim_ff|d_inner|hidden_dim", 32),
    (r"q_input_size|expert_ffn_hidden_size|dense_intermediate_size|intermediate_size_mlp", 32),
    (r".*(hidden|embedding|model|emb|embed|projection|pooler|output|projector).*(size|dim)", 32),
    (r"d_model|n_embd|dim|.*emb_dim|true_hidden_size|dim_model_base|entity_emb_size", 32),
    (r"intra_bottleneck_size|d_latents|qk_channels|v_channels|stem_channels|num_latents", 32),
    (r"patch_size", 4),
    (r"window_size", 4),
    (r"sliding_window.*|attention_window|local_attention|attention_chunk_size", 8),
    (r".*chunk_size", 8),
)
"""Name of a setting, as a regular expression → its value in a tiny model; the first that fits."""
LISTS: tuple[tuple[str, int], ...] = (
    (r"depths?|num_block_repeats|n_attn_blocks|block_sizes|stage_num.*_layers|stage_num_blocks", 1),
    (r"num_heads|num_attention_heads", 2),
)
"""The same for settings with a value a stage."""
WIDTHS = r"hidden_sizes|embed_dims?|.*_channels|neck_hidden_sizes|base_attn_unit_dims"
"""Settings with a width a stage, which are divided by 8."""
SPREADS = r"initializer_range|init_std"
SPREAD = 0.1
"""Of random weights, at least: 0.02 at a width of 768 is 0.1 at one of 32. With less, what a layer
adds to its input, and an adapter to a layer, is lost in rounding.
"""
LAYER_SCALES = r"layer_scale_init(ial)?_(value|scale)"
"""Settings that say how much of a layer's output is added to its input at first: in a tiny model
all of it.
"""


def tiny_config(model_type: str) -> PretrainedConfig:
    """Return a configuration of small layers, two where it can be, for a vocabulary of ``WORDS``
    and images of ``SIDE`` pixels.
    """
    config_class = CONFIG_MAPPING[model_type]
    small = _shrunk(config_class())
    for name, value in OWN.get(model_type, {}).items():
        small[name] = small.get(name, {}) | value if isinstance(value, dict) else value
    config: PretrainedConfig = config_class(**small)
    return config


def _shrunk(config: PretrainedConfig) -> dict[str, Any]:
    """Return the settings that make a configuration tiny, by name."""
    small: dict[str, Any] = {}
    names = {name for name in vars(config) if not name.startswith("_")}
    for name in sorted(names):
        value = vars(config)[name]
        if isinstance(value, PretrainedConfig):
            small[name] = {"model_type": value.model_type, **_shrunk(value)}
        elif name in TOKENS:
            small[name] = TOKENS[name]
        elif re.fullmatch(r".*(token_id|token_index|pad_id)", name):
            if isinstance(value, int):
                small[name] = min(value, WORDS - 1)
        elif re.fullmatch(SPREADS, name) and isinstance(value, float):
            small[name] = max(SPREAD, value)
        elif re.fullmatch(LAYER_SCALES, name) and isinstance(value, float) and value:
            small[name] = 1.0
        elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
            if (size := _first(SIZES, name)) is not None:
                small[name] = min(size, value)
        elif isinstance(value, list | tuple) and value and all(type(at) is int for at in value):
            if (size := _first(LISTS, name)) is not None:
                small[name] = [min(size, at) for at in value]
            elif re.fullmatch(WIDTHS, name):
                small[name] = [at if at <= 8 else max(8, at // 64 * 8) for at in value]
    return small


def _first(table: tuple[tuple[str, int], ...], name: str) -> int | None:
    return next((size for pattern, size in table if re.fullmatch(pattern, name)), None)


_MLA = {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 4}
_MIXED = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16}
_HEADS = {"head_dim": 16, "num_key_value_heads": 2}
OWN: dict[str, dict[str, Any]] = {
    "axk1": {**_MLA, "n_group": 2, "topk_group": 2, "qk_head_dim": 16, "head_dim": 8},
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "bit": {"num_groups": 8},
    "codegen": {"n_head": 4, "n_embd": 64, "rotary_dim": 8},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2],
    }}},
    "cvt": {"embed_dim": [16, 16, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
    "deepseek_v2": {**_MLA, "n_group": 2, "topk_group": 2, "num_experts_per_tok": 2},
    "deepseek_v3": {**_MLA, "n_group": 2, "topk_group": 2, "qk_head_dim": 16, "head_dim": 8},
    "efficientnet": {
        "width_coefficient": 0.5, "depth_coefficient": 0.2, "hidden_dim": 640,
        "initializer_range": 0.3,
        "in_channels": [32, 16, 24, 40, 80, 112, 192],
        "out_channels": [16, 24, 40, 80, 112, 192, 320],
    },
    "esm": {"vocab_size": WORDS},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 64},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "donut-swin": {"depths": [1, 1], "num_heads": [2, 2]},
    "granitemoehybrid": {**_MAMBA, "layer_types": ["mamba", "attention"]},
    "hiera": {"image_size": [SIDE, SIDE], "embed_dim": 16, "num_heads": [1, 1, 2, 2]},
    "hunyuan_v1_dense": _HEADS,
    "hunyuan_v1_moe": _HEADS,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8},
    "levit": {
        "hidden_sizes": [16, 16, 16], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1],
        "key_dim": [4, 4, 4], "patch_size": 16,
        "down_ops": [["Subsample", 4, 4, 2, 2, 2], ["Subsample", 4, 4, 2, 2, 2]],
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "lilt": {"hidden_size": 48},
    "longcat_flash": {**_MLA, "qk_head_dim": 16, "head_dim": 8},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1},
    "ministral": _HEADS,
    "mobilevitv2": {"output_stride": 16},
    "nemotron": _HEADS,
    "perceiver": {"num_cross_attention_heads": 1, "num_self_attention_heads": 2},
    "qwen3_5": {"text_config": {"model_type": "qwen3_5_text", **_MIXED}},
    "qwen3_5_text": _MIXED,
    "qwen3_5_moe": {"text_config": {"model_type": "qwen3_5_moe_text", **_MIXED}},
    "qwen3_5_moe_text": _MIXED,
    "qwen3_next": _MIXED,
    "qwen4_exp": {"text_config": {"model_type": "qwen4_exp_text", **_MIXED}},
    "qwen4_exp_text": _MIXED,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 8]},
    "swin": {"depths": [1, 1], "num_heads": [2, 2]},
    "t5": {"decoder_start_token_id": 0},
    "textnet": {"hidden_sizes": [16, 16, 16, 16, 16], "stem_out_channels": 16},
    "xlnet": {"d_model": 32, "n_head": 2, "d_head": 16},
    "xmod": {"default_language": "en_XX"},
    "youtu": {**_MLA, "qk_head_dim": 16, "head_dim": 8},
    "zamba": {
        "num_hidden_layers": 4, "layer_types": ["mamba", "hybrid"] * 2,
        "attention_hidden_size": 64, "attention_head_dim": 32,
    },
    "zamba2": {
        "num_hidden_layers": 4, "layer_types": ["mamba", "hybrid"] * 2, "hybrid_layer_ids": [1, 3],
        "attention_hidden_size": 64, "attention_head_dim": 32,
    },
}  # fmt: skip
"""Model type → settings of its own, where those of all do not build."""


def tiny_model(class_name: str, model_type: str, **settings: Any) -> PreTrainedModel:
    """Return a random model of a class, from the same seed each time, in evaluation mode.

    Raises
    ------
    ValueError
        It has more parameters than a tiny model may have.
    """
    config = tiny_config(model_type)
    for name, value in settings.items():
        setattr(config, name, value)
    model_class = getattr(transformers, class_name)
    if not isinstance(config, model_class.config_class):  # the language model of several modalities
        config = config.get_text_config(decoder=True)
    with torch.device("meta"):
        size = sum(at.numel() for at in model_class(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"{size} parameters")
    torch.manual_seed(0)
    model: PreTrainedModel = model_class(config)
    model.eval()
    _count_statistics(model)
    return model


@torch.no_grad()
def _count_statistics(model: PreTrainedModel) -> None:
    """Give batch normalization the statistics of random images. With those of a new model, images
    and adapters are lost in rounding a few convolutions on.
    """
    norms = [one for one in model.modules() if isinstance(one, nn.BatchNorm1d | nn.BatchNorm2d)]
    if not norms:
        return
    for one in norms:
        one.train()
        one.momentum = 1.0
    model(pixel_values=torch.randn(16, 3, SIDE, SIDE))
    model.eval()
