"""docs/research/merge-quality.md and its figures, from the measures."""

from __future__ import annotations

from pathlib import Path

from potara_flwr.core.markdown import table
from potara_flwr.merging.rules import RULES
from potara_flwr.results.drawing import png_of
from potara_flwr.settings.schema import Settings
from simulations.markdown import rendered
from simulations.merge_quality import tables
from simulations.merge_quality.drawings import draw_regimes, draw_tuning, draw_weights
from simulations.merge_quality.statistics import Cases, by, over_seeds, points, regime_of

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "research" / "merge-quality.md"
README = ROOT / "README.md"
START, END = "<!-- table:start -->", "<!-- table:end -->"
DEFAULT_SAMPLES, DEFAULT_ROUNDS = Settings().data.train_samples, Settings().federation.rounds
IMAGES = ROOT / "docs" / "research" / "images"
DPI = 130


def readme_table(cases: Cases) -> str:
    """Return the README's table: every adapter and rule in the regimes of the default."""
    regimes = by(
        [
            case
            for case in cases
            if case["group"] in ("shared", "conflicting")
            and (case["samples"], case["rounds"]) == (DEFAULT_SAMPLES, DEFAULT_ROUNDS)
        ],
        regime_of,
    )
    regimes = dict(reversed(regimes.items()))  # warm before cold, as the default is
    names = {
        "initial": "initial",
        "federated": "federated",
        "tuned": "federated, then fine-tuned",
        "local": "local",
        **{rule: rule for rule in RULES},
        "oracle": "oracle",
    }
    rows = [
        [words, *(over_seeds(c, points(name)).words() for c in regimes.values())]
        for name, words in names.items()
    ]
    return table(["adapter", *(f"{group}, {start}" for group, start, *_ in regimes)], rows)


def write_readme(cases: Cases) -> None:
    """Put the table between the README's marks."""
    before, _, rest = README.read_text().partition(START)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{START}\n{readme_table(cases)}\n{END}{after}")


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
