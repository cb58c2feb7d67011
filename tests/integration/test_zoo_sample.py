"""A sample of the zoo: architectures of every kind through a run, whose cards are then executed."""

import pytest

from potara_flwr.results import saving
from simulations.zoo.journey import walk

SAMPLE = {
    # kind, model type, class → how per-sample gradients are computed
    ("image", "clip", "CLIPForImageClassification"): "batched",
    ("image", "swin", "SwinForImageClassification"): "batched",
    ("image", "resnet", "ResNetForImageClassification"): "batched",
    ("image", "levit", "LevitForImageClassificationWithTeacher"): "batched",
    ("image", "pp_lcnet", "PPLCNetForImageClassification"): "batched",
    ("text", "xlnet", "XLNetForSequenceClassification"): "one at a time",
    ("text", "modernbert", "ModernBertForSequenceClassification"): "batched",
    ("text", "fnet", "FNetForSequenceClassification"): "batched",
    ("text", "bart", "BartForSequenceClassification"): "batched",
    ("text", "llama", "LlamaForSequenceClassification"): "batched",
    ("causal", "gpt2", "GPT2LMHeadModel"): "batched",
    ("causal", "bloom", "BloomForCausalLM"): "batched",
    ("causal", "mamba", "MambaForCausalLM"): "batched",
    ("causal", "bart", "BartForCausalLM"): "batched",
    ("causal", "roberta", "RobertaForCausalLM"): "batched",
    ("causal", "whisper", "WhisperForCausalLM"): "batched",
}


@pytest.mark.integration
@pytest.mark.parametrize(("kind", "model_type", "class_name"), SAMPLE, ids=lambda name: name)
def test_an_architecture_works(kind, model_type, class_name, tmp_path):
    journey = walk(kind, model_type, class_name, tmp_path / class_name)
    assert (journey.outcome, journey.words) == ("works", "")
    assert journey.gradients == SAMPLE[kind, model_type, class_name]


@pytest.mark.integration
def test_a_card_that_gives_other_numbers_fails(monkeypatch, tmp_path):
    right = saving.code_section

    def wrong(*told):
        return right(*told).replace("config.pad_token_id = 0", "config.pad_token_id = 2")

    monkeypatch.setattr(saving, "code_section", wrong)
    journey = walk("text", "gpt2", "GPT2ForSequenceClassification", tmp_path / "gpt2")
    assert journey.outcome == "fails"
    assert "the card gives other logits" in journey.words
