"""Text metrics against values worked out by hand."""

import pytest

from potara_flwr.tasks.text_metrics import METRICS


@pytest.mark.parametrize(
    ("metric", "text", "answers", "value"),
    [
        ("exact-match", "The Cat!", ["cat"], 1.0),  # case, article and punctuation do not count
        ("exact-match", "cats", ["cat"], 0.0),
        ("exact-match", "dog", ["cat", "dog"], 1.0),
        ("f1", "a black cat", ["cat"], 2 / 3),  # precision 1/2, recall 1
        ("f1", "a black cat", ["cat", "black cat"], 1.0),
        ("f1", "dog", ["cat"], 0.0),
        ("f1", "", ["cat"], 0.0),
        ("rouge-l", "the cat sat", ["the cat on the mat"], 2 * (2 / 3) * (2 / 5) / (2 / 3 + 2 / 5)),
        ("rouge-l", "sat cat", ["cat", "sat quietly cat"], 0.8),  # the better of two
        ("rouge-l", "", ["cat"], 0.0),
    ],
)
def test_a_metric_agrees_with_the_hand(metric, text, answers, value):
    assert METRICS[metric](text, answers) == pytest.approx(value)
