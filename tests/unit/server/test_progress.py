"""Progress lines there and back, and what the display makes of a log."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from potara_flwr.running.display import LiveDisplay
from potara_flwr.server.progress import Progress

score = st.none() | st.floats(0, 1000)


@given(
    st.sampled_from(["round", "personalized"]),
    st.integers(0, 999),
    st.integers(1, 999),
    score,
    score,
    st.integers(0, 10**12),
    st.floats(0, 1e5),
)
def test_a_line_read_back_is_the_same_progress(phase, done, total, loss, accuracy, size, left):
    progress = Progress.of(phase, done, total, loss, accuracy, size, left)
    assert Progress.parse(f"INFO :      {progress}") == progress


def test_the_line_is_for_people():
    progress = Progress.of("round", 3, 20, 1.2345, 0.6125, 1_234_567, 101.6)
    assert (
        str(progress) == "progress: round 3/20 · loss 1.234 · accuracy 0.613 · 1.2 MB · 1:42 left"
    )


def test_other_lines_are_no_progress():
    assert Progress.parse("progress: slow") is None


def shown(*lines: str, terminal: bool) -> tuple[str, str]:
    out = io.StringIO()
    with LiveDisplay(Console(file=out, force_terminal=terminal, width=100)) as display:
        for line in lines:
            display.feed(line)
    return out.getvalue(), display.error


@pytest.mark.parametrize("terminal", [True, False])
def test_a_display_shows_progress_and_warnings_and_keeps_the_error(terminal):
    progress = Progress.of("round", 3, 20, 1.5, 0.25, 1000, 61)
    text, error = shown(
        "\x1b[92mINFO \x1b[0m:      [ROUND 3/20]",
        f"\x1b[92mINFO \x1b[0m:      {progress}",
        "\x1b[93mWARNING \x1b[0m:   refused: client 2, train, round 3: [bold] loss is nan",
        "\x1b[93mWARNING \x1b[0m:   Since flwr 1.32, default simulated SuperNodes changed",
        "\x1b[91mERROR \x1b[0m:     error: too few replies",
        "Traceback (most recent call last):",
        terminal=terminal,
    )
    assert "round 3/20" in text
    assert "loss 1.500 · accuracy 0.250" in text
    assert "1:01 left" in text
    assert "refused: client 2, train, round 3: [bold] loss is nan" in text
    for noise in ("[ROUND", "Since flwr", "Traceback", "too few"):
        assert noise not in text
    assert error == "too few replies"
