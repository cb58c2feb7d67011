"""What gets an adapter and what is trained in full, where names do not say it."""

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CLIPConfig,
    CLIPForImageClassification,
    CvtConfig,
    CvtForImageClassification,
    DeepseekV3Config,
    DeepseekV3ForSequenceClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    GitConfig,
    GitForCausalLM,
    LevitConfig,
    LevitForImageClassification,
    PerceiverConfig,
    PerceiverForImageClassificationLearned,
    PoolFormerConfig,
    PoolFormerForImageClassification,
    PPLCNetConfig,
    PPLCNetForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwiftFormerConfig,
    SwiftFormerForImageClassification,
)

from potara_flwr.merging.segment import deltas, segment_between, truncate
from potara_flwr.models.adapter import kind_of, lora_pairs
from potara_flwr.models.architecture import class_parameters, find_head, target_modules
from potara_flwr.models.lora import LoraModel, load_adapter, save_adapter
from potara_flwr.settings.groups import LoraSettings

SMALL = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
}  # fmt: skip
VISION = {**SMALL, "image_size": 16, "patch_size": 8}


def clip():
    text = {**SMALL, "vocab_size": 50}
    return CLIPForImageClassification(
        CLIPConfig(vision_config=VISION, text_config=text, projection_dim=8, num_labels=3)
    )


def deit():
    return DeiTForImageClassificationWithTeacher(DeiTConfig(**VISION, num_labels=3))


def perceiver():
    return PerceiverForImageClassificationLearned(
        PerceiverConfig(
            image_size=16, d_latents=16, d_model=16, num_latents=4, num_self_attends_per_block=1,
            num_self_attention_heads=2, num_cross_attention_heads=1, num_labels=3,
        )
    )  # fmt: skip


def poolformer():
    return PoolFormerForImageClassification(
        PoolFormerConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_labels=3)
    )


def swiftformer():
    return SwiftFormerForImageClassification(
        SwiftFormerConfig(embed_dims=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_labels=3)
    )


def resnet():
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
                     num_labels=3)
    )  # fmt: skip


def cvt():
    return CvtForImageClassification(
        CvtConfig(embed_dim=[8, 8, 16], num_heads=[1, 2, 2], depth=[1, 2, 3], num_labels=3)
    )


def pp_lcnet():
    return PPLCNetForImageClassification(PPLCNetConfig(scale=0.25, class_expand=32, num_labels=3))


def deepseek():
    return DeepseekV3ForSequenceClassification(
        DeepseekV3Config(
            **SMALL, vocab_size=50, num_key_value_heads=2, q_lora_rank=8, kv_lora_rank=8,
            qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, n_routed_experts=4, n_group=2,
            topk_group=2, num_labels=3, pad_token_id=0,
        )
    )  # fmt: skip


FOUND = {
    # No module has the name that base_model_prefix gives.
    clip: (("classifier",), ["q_proj", "v_proj"]),
    deit: (("cls_classifier", "distillation_classifier"), ["q_proj", "v_proj"]),
    # The head stands within the pretrained part.
    perceiver: (("perceiver.decoder.decoder.final_layer",), ["query", "value"]),
    # peft would train every norm with "norm"; nothing of PoolFormer is linear.
    poolformer: (("classifier",), ["conv1", "conv2", "projection"]),
    swiftformer: (("head", "dist_head"), ["to_query", "to_key"]),
    resnet: (("classifier",), ["convolution"]),
    cvt: (("layernorm", "classifier"), ["projection_query", "projection_value"]),
    deepseek: (("score",), ["q_b_proj", "kv_b_proj"]),
}


@pytest.mark.parametrize("make", FOUND, ids=lambda make: make.__name__)
def test_heads_and_targets_are_found_by_what_the_architecture_says(make):
    head, targets = FOUND[make]
    base = make()
    assert find_head(base) == head
    assert target_modules(base, "") == targets
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = LoraModel(base, LoraSettings(rank=2), None, seed=0)
    trained_in_full = {
        parameter.split(".modules_to_save")[0].removeprefix("base_model.model.")
        for name, parameter in model.parameters.items()
        if kind_of(name) == "head"
    }
    assert trained_in_full == set(head)
    with torch.no_grad():
        if make is not deepseek:
            side = 32 if make in (swiftformer, poolformer, resnet, cvt) else 16
            logits = model(model.initial, {"pixel_values": torch.randn(2, 3, side, side)})
            assert logits.shape == (2, 3)
    assert model.with_classes(5, seed=0).initial.keys() == model.initial.keys()
    shapes = {
        name: tensor.shape[0]
        for name, tensor in model.with_classes(5, seed=0).initial.items()
        if tensor.shape != model.initial[name].shape
    }
    assert set(shapes.values()) == {5}
    assert len(shapes) == len(class_parameters(make()))
    assert before.keys() == make().state_dict().keys()


def test_texts_reach_the_adapters_of_a_model_that_sees_too():
    text = {**SMALL, "vocab_size": 50, "pad_token_id": 0, "max_position_embeddings": 32}
    base = GitForCausalLM(GitConfig(**text, vision_config=VISION, bos_token_id=1, eos_token_id=2))
    # The names of the vision tower's projections, q_proj and v_proj, are known too.
    assert target_modules(base, "") == ["query", "value"]
    assert target_modules(base, "q_proj") == ["q_proj"]


def test_grouped_convolutions_get_no_adapter():
    base = pp_lcnet()
    model = LoraModel(base, LoraSettings(rank=2), None, seed=0)
    assert find_head(pp_lcnet()) == ("head",)
    assert model(model.initial, {"pixel_values": torch.randn(2, 3, 32, 32)}).shape == (2, 3)
    adapted = {
        parameter.split(".lora_")[0].removeprefix("base_model.model.")
        for name, parameter in model.parameters.items()
        if kind_of(name) != "head"
    }
    modules = dict(pp_lcnet().named_modules())
    assert adapted == {
        name
        for name, module in modules.items()
        if isinstance(module, nn.Conv2d) and module.groups == 1
    }


def test_statistics_of_a_head_are_saved_with_it(tmp_path):
    config = LevitConfig(
        image_size=32, hidden_sizes=[16, 16, 16], num_attention_heads=[2, 2, 2], depths=[1, 1, 1],
        key_dim=[4, 4, 4], patch_size=16, num_labels=3,
        down_ops=[["Subsample", 4, 4, 2, 2, 2], ["Subsample", 4, 4, 2, 2, 2]],
    )  # fmt: skip
    torch.manual_seed(0)
    base = LevitForImageClassification(config).eval()
    base.classifier.batch_norm.running_mean.normal_()
    base.save_pretrained(tmp_path / "base")
    model = LoraModel(base, LoraSettings(rank=2), None, seed=0)
    adapter = random_adapter(model, 0)
    save_adapter(tmp_path / "one", adapter, model.config, str(tmp_path / "base"), model.buffers)
    plain = LevitForImageClassification.from_pretrained(tmp_path / "base")
    plain.classifier.batch_norm.reset_running_stats()
    loaded = PeftModel.from_pretrained(plain, str(tmp_path / "one")).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(pixel_values=images).logits, model(adapter, {"pixel_values": images})
        )
    assert load_adapter(tmp_path / "one").keys() == adapter.keys()
    assert {name.rpartition(".")[2] for name in model.buffers} == {
        "running_mean", "running_var", "num_batches_tracked",
    }  # fmt: skip


def random_adapter(model, seed):
    draws = torch.Generator().manual_seed(seed)
    return {
        name: torch.empty_like(tensor).normal_(std=0.1, generator=draws)
        for name, tensor in model.initial.items()
    }


def test_updates_of_convolutions_merge_as_those_of_matrices(tmp_path):
    torch.manual_seed(0)
    base = resnet().eval()
    base.save_pretrained(tmp_path / "base")
    model = LoraModel(base, LoraSettings(rank=2, alpha=4.0), None, seed=0)
    first, second = random_adapter(model, 0), random_adapter(model, 1)
    segment = segment_between(first, second, "delta")
    merged = segment.at(0.3)
    one, two, both = (deltas(adapter, 2.0) for adapter in (first, second, merged))
    for name, delta in both.items():
        assert delta.ndim == 4
        torch.testing.assert_close(delta, 0.3 * one[name] + 0.7 * two[name])
    for a, b in lora_pairs(first):
        cut = segment.own_factors({name: tensor[None] for name, tensor in merged.items()}, "local")
        torch.testing.assert_close(cut[a][0], second[a])
        torch.testing.assert_close(cut[b][0], 0.7 * second[b])
    small, error = truncate(merged, dict.fromkeys(first, 2))
    assert 0 < error < 1
    assert {name: tensor.shape for name, tensor in small.items()} == {
        name: tensor.shape for name, tensor in first.items()
    }
    same, nothing = truncate(
        segment_between(first, first, "delta").at(0.3), dict.fromkeys(first, 2)
    )
    assert nothing < 1e-6
    for name, delta in deltas(same, 2.0).items():
        torch.testing.assert_close(delta, one[name], rtol=1e-4, atol=1e-6)

    save_adapter(tmp_path / "merged", merged, model.config, str(tmp_path / "base"))
    plain = ResNetForImageClassification.from_pretrained(tmp_path / "base")
    loaded = PeftModel.from_pretrained(plain, str(tmp_path / "merged")).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded(pixel_values=images).logits, model(merged, {"pixel_values": images})
        )


def test_one_word_is_all_linear_modules_of_the_pretrained_part():
    bert = BertForSequenceClassification(BertConfig(**SMALL, vocab_size=40))
    linear = {
        name
        for name, module in bert.named_modules()
        if isinstance(module, nn.Linear) and name.startswith("bert.")
    }
    model = LoraModel(bert, LoraSettings(target_modules="all-linear"), None, 0)
    adapted = {
        a.removeprefix("base_model.model.").rpartition(".lora_A")[0]
        for a, _ in lora_pairs(model.initial)
    }
    assert adapted == linear
    assert len(adapted) == 2 * 6 + 1  # six in each layer, and the pooler
