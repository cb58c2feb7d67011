"""How well a written answer agrees with the right ones, from 0 to 1, by torchmetrics.

https://lightning.ai/docs/torchmetrics/stable/text/squad.html, …/text/rouge_score.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from potara_flwr.core.lazy import lazy

torchmetrics: Any = lazy("torchmetrics")

Metric = Callable[[str, Sequence[str]], float]
"""Written answer, right answers → agreement with the one it agrees with most."""


def _squad(text: str, answers: Sequence[str], key: str) -> float:
    right: dict[str, list[str] | list[int]] = {
        "answer_start": [0] * len(answers),
        "text": list(answers),
    }
    written = {"prediction_text": text, "id": "0"}
    scores = torchmetrics.functional.text.squad([written], [{"answers": right, "id": "0"}])
    return float(scores[key]) / 100


def token_f1(text: str, answers: Sequence[str]) -> float:
    """Return the F1 score of the words, without case, articles and punctuation (as SQuAD does)."""
    return _squad(text, answers, "f1")


def exact_match(text: str, answers: Sequence[str]) -> float:
    """Return 1 where the text is an answer but for case, articles and punctuation, else 0."""
    return _squad(text, answers, "exact_match")


def rouge_l(text: str, answers: Sequence[str]) -> float:
    """Return the F measure of the longest common subsequence of words (ROUGE-L)."""
    scores = torchmetrics.functional.text.rouge_score(
        [text], [list(answers)], accumulate="best", rouge_keys="rougeL"
    )
    return float(scores["rougeL_fmeasure"])


METRICS: dict[str, Metric] = {"f1": token_f1, "exact-match": exact_match, "rouge-l": rouge_l}
