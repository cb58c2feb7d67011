"""docs/research/merge-quality.md and its figures, from the measures."""

from __future__ import annotations

from pathlib import Path

from potara_flwr.results.drawing import png_of
from simulations.markdown import rendered
from simulations.merge_quality import tables
from simulations.merge_quality.drawings import draw_regimes, draw_tuning, draw_weights
from simulations.merge_quality.statistics import Cases, by, regime_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "research" / "merge-quality.md"
IMAGES = ROOT / "docs" / "research" / "images"
DPI = 130


def write_page(cases: Cases) -> None:
    """Write the page and its figures."""
    digits = [case for case in cases if case["group"] in ("shared", "conflicting")]
    sentiment = [case for case in cases if case["group"] == "sentiment"]
    edges = [case for case in cases if case["group"] in ("one-class", "one-client")]
    main = [*digits, *sentiment]
    IMAGES.mkdir(exist_ok=True)
    for name, draw in (
        ("regimes", draw_regimes), ("fine-tuning", draw_tuning), ("weights", draw_weights)
    ):  # fmt: skip
        (IMAGES / f"merge-quality-{name}.png").write_bytes(png_of(draw(main), DPI))
    seeds = {name: len({case["seed"] for case in group})
             for name, group in (("digits", digits), ("sentiment", sentiment))}  # fmt: skip
    PAGE.write_text(
        rendered(
            Path(__file__).with_name("page.md.jinja"),
            tables=tables,
            digits=digits,
            sentiment=sentiment,
            main=main,
            edges=edges,
            seeds=seeds,
            num_regimes=len(by(digits, regime_of)),
        )
    )
