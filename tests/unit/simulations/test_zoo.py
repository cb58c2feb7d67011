"""The page of architectures is what is stored, and every architecture is told of with a reason."""

import re

import pytest
import torch

from simulations.zoo.catalogue import classes
from simulations.zoo.page import DOCS, PAGE, page, stored
from simulations.zoo.tiny import SIDE, WORDS, tiny_config, tiny_model


def test_the_page_is_written_from_what_is_stored():
    assert PAGE.read_text(encoding="utf-8") == page()
    assert "(reference/models.md)" in (DOCS / "README.md").read_text(encoding="utf-8")


def test_every_row_of_the_page_has_the_cells_of_its_table():
    cells = {
        line.count("|") - line.count("\\|")
        for line in page().splitlines()
        if line.startswith("| `")
    }
    assert cells == {8}
    assert "<" not in re.sub(r"`[^`]*`", "", page())


def test_what_does_not_work_says_why():
    known = {":".join(one): one.kind for one in classes()}
    for name, one in stored().items():
        assert known[name] == one["kind"]
        assert (one["outcome"] == "works") != bool(one["words"]), name
        if one["outcome"] == "works":
            assert one["targets"]
            assert one["gradients"] in ("batched", "one at a time")
            assert bool(one["head"]) == (one["kind"] != "causal")


@pytest.mark.parametrize(
    ("model_type", "class_name"),
    [("bert", "BertForSequenceClassification"), ("vit", "ViTForImageClassification"),
     ("gemma3", "Gemma3ForSequenceClassification"), ("llama", "LlamaForCausalLM")],
)  # fmt: skip
def test_a_tiny_model_is_small_and_the_same_each_time(model_type, class_name):
    one, again = tiny_model(class_name, model_type), tiny_model(class_name, model_type)
    assert sum(parameter.numel() for parameter in one.parameters()) < 200_000
    assert all(a.equal(b) for a, b in zip(one.parameters(), again.parameters(), strict=True))


def test_images_are_not_lost_in_the_convolutions_of_a_tiny_model():
    model = tiny_model("PPLCNetForImageClassification", "pp_lcnet", num_labels=2)
    logits = model(pixel_values=torch.randn(4, 3, SIDE, SIDE))[0]
    assert logits.std(dim=0).min() > 0.05
    assert not any(module.training for module in model.modules())


def test_sizes_are_shrunk_in_every_part_of_a_configuration():
    config = tiny_config("gemma3")
    assert config.text_config.vocab_size == WORDS
    assert config.text_config.num_hidden_layers == config.vision_config.num_hidden_layers == 2
    assert config.vision_config.image_size == SIDE
