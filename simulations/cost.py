"""What the language-model presets need in GPU memory and hours, computed.

``python -m simulations.cost`` prints the table of ``docs/guides/language-models.md``. Every row is
counted at ``data.max-tokens`` and every answer at :data:`ANSWER_TOKENS`, so that all is an upper
bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from potara_flwr.core import markdown
from potara_flwr.merging.rules import GRID, RULES
from potara_flwr.running.composition import compose_settings
from potara_flwr.settings.schema import Settings

PRESETS = ("commonsense-llama", "flan-llama")
ANSWER_TOKENS = 64
"""Tokens of the longest answer of a batch: HellaSwag's endings are the longest of all."""
PEAK = 312e12
"""Operations a second of an A100 in bfloat16 (NVIDIA's data sheet, dense)."""
UTILISATION = 0.4
"""Share of them that training and scoring reach."""
CONTEXT = 1.0
"""GB that CUDA and its allocator take."""
OPTIONS = {
    "boolq": 2, "piqa": 2, "siqa": 3, "hellaswag": 4, "winogrande": 2, "arc_easy": 4,
    "arc_challenge": 4, "openbookqa": 4, "cosmos_qa": 4, "definite_pronoun_resolution": 2,
    "glue_qqp": 2, "mnli": 3, "squad_v1": 1, "sst2": 2,
}  # fmt: skip
"""Options of a question of each data set; 1 is a free answer."""
MOST_OPTIONS = 5
"""Options that a few questions of ARC have."""

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
"""Of a number on its way (docs/reference/methods.md)."""


@dataclass(frozen=True)
class Shape:
    """A Llama, as its ``config.json`` says."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    key_value_heads: int
    vocabulary: int

    @property
    def key_value_size(self) -> int:
        """The output size of ``k_proj`` and ``v_proj``."""
        return self.hidden // self.heads * self.key_value_heads

    @property
    def parameters(self) -> int:
        """All parameters, with input and output embeddings tied."""
        attention = 2 * self.hidden * (self.hidden + self.key_value_size)
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * layer + self.vocabulary * self.hidden + self.hidden

    def adapter(self, rank: int) -> int:
        """Return the parameters of an adapter on ``q_proj`` and ``v_proj``."""
        return self.layers * rank * (2 * self.hidden + self.hidden + self.key_value_size)

    @property
    def kept(self) -> float:
        """Bytes a token and layer that one forward pass keeps for the backward pass.

        Measured with ``torch.autograd.graph.saved_tensors_hooks`` on layers in bfloat16 with LoRA
        in float32: 21.5 · hidden + 6 · intermediate. A frozen matrix needs no input kept.
        """
        return 21.5 * self.hidden + 6 * self.intermediate


LLAMA_3_2_3B = Shape(3072, 28, 8192, 24, 8, 128256)
"""https://huggingface.co/meta-llama/Llama-3.2-3B"""


@dataclass(frozen=True)
class Need:
    """What a run needs."""

    weights: float
    """GB of the frozen weights."""
    step: float
    """GB that an optimizer step adds; likewise the passes below."""
    gradients: float
    evaluation: float
    training: float
    """Operations of all clients' optimizer steps and gradient passes."""
    scoring: float
    """Operations of scoring all test samples."""

    @property
    def peak(self) -> float:
        """GB of the GPU."""
        return self.weights + max(self.step, self.gradients, self.evaluation) + CONTEXT

    @property
    def hours(self) -> float:
        """Hours on one A100, one client after the other."""
        return (self.training + self.scoring) / (PEAK * UTILISATION) / 3600


def need(settings: Settings, shape: Shape) -> Need:
    """Compute what a run of a language-model preset needs.

    An optimizer step takes 6 operations a parameter and token: 2 forward, 2 backward through frozen
    weights, 2 forward anew for the checkpoints (Kaplan et al., arXiv 2001.08361, section 2.1,
    without the gradients of weights), and so does a gradient pass. Scoring takes 2. Writing answers
    comes on top: 32 tokens are bound by reading the weights, half a minute for 500 questions.
    """
    names = settings.data.datasets.split(",")
    choice = settings.task.name == "multiple-choice"
    scored = [OPTIONS[name] for name in names]
    trained = scored if choice else [1] * len(names)
    tokens, size = settings.data.max_tokens, shape.parameters
    train, calibration = settings.train, settings.calibration

    steps = settings.federation.rounds * train.local_steps + settings.local.steps
    seen = steps * train.batch_size * sum(trained) * tokens
    probed = 2 * calibration.samples * sum(trained) * tokens
    # The grid, every rule and the initial adapter; or the initial one, both ends and the merge.
    scores = len(GRID) + len(RULES) + 1 if settings.merge.compare else 4
    tested = scores * settings.data.test_samples * sum(scored) * tokens

    most = MOST_OPTIONS if choice else 1
    rows = train.batch_size * most
    scored_rows = train.evaluation_batch_size * MOST_OPTIONS
    probed_rows = (calibration.batch_size or train.batch_size) * most
    # Adapter, its gradient and AdamW's two moments in float32.
    optimizer = 16 * shape.adapter(settings.lora.rank)
    # Each layer's input in bfloat16, and all that one layer keeps while it is computed anew.
    checkpointed = tokens * (2 * shape.hidden * shape.layers + shape.kept)
    # Logits in bfloat16 and float32, log-probabilities, and both gradients.
    training_logits = 16 * rows * ANSWER_TOKENS * shape.vocabulary
    scored_logits = 10 * scored_rows * ANSWER_TOKENS * shape.vocabulary
    one_layer = scored_rows * tokens * (6 * shape.intermediate + 8 * shape.hidden)
    return Need(
        weights=2 * size / 1e9,
        step=(optimizer + rows * checkpointed + training_logits) / 1e9,
        gradients=probed_rows * (checkpointed + 16 * ANSWER_TOKENS * shape.vocabulary) / 1e9,
        evaluation=(one_layer + scored_logits) / 1e9,
        training=6.0 * (seen + probed) * size,
        scoring=2.0 * tested * size,
    )


def table() -> str:
    """Return the table of ``docs/guides/language-models.md``."""
    rows = []
    for preset in PRESETS:
        settings = compose_settings([f"experiment={preset}"])
        found = need(settings, LLAMA_3_2_3B)
        numbers = LLAMA_3_2_3B.adapter(settings.lora.rank)
        megabytes = BYTES[settings.federation.transport] * numbers / 1e6
        parts = (found.weights, found.step, found.gradients, found.evaluation)
        rows.append(
            [f"`{preset}`", *(f"{part:.1f} GB" for part in parts), f"{found.peak:.0f} GB",
             f"{found.training:.1e}", f"{found.scoring:.1e}", f"{found.hours:.1f}",
             f"{megabytes:.1f} MB"]
        )  # fmt: skip
    header = (
        "preset", "weights", "step", "gradient pass", "scoring", "GPU memory", "training",
        "scoring", "hours on an A100", "adapter, one way",
    )  # fmt: skip
    return markdown.table(header, rows) + "\n"


if __name__ == "__main__":
    print(table(), end="")
