"""docs/research/results.md and its figures, from the stored runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from potara_flwr.comparison.differences import Row
from potara_flwr.comparison.drawings import accuracy_against_bytes
from potara_flwr.methods import METHODS
from potara_flwr.results.drawing import png_of
from simulations.markdown import rendered
from simulations.method_quality import tables
from simulations.method_quality.stored import Store
from simulations.method_quality.studies import TRANSPORT_BENCHMARK, TUNING_SEED

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "research" / "results.md"
IMAGES = ROOT / "docs" / "research" / "images"


def draw(store: Store, rows: Sequence[Row]) -> None:
    """Draw the figure of a benchmark."""
    # In one order in all figures, so that a method has the same colour in each.
    ordered = sorted(rows, key=lambda row: list(METHODS).index(str(row.group.settings["method"])))
    file = IMAGES / f"results-{store.name}.png"
    file.write_bytes(png_of(accuracy_against_bytes(ordered)))


def remark(store: Store, rows: Sequence[Row]) -> str:
    """Say what makes the numbers of a benchmark weaker than they look: how many seeds there are,
    and how the learning rates were chosen.
    """
    if not rows:
        return f"- {tables.TITLES[store.name]}: not run."
    seeds = len(rows[0].group.runs)
    rates = "one of a grid for each method" if tables.is_tuned(store) else "the preset's for all"
    runs = f"{seeds} seeds" if seeds != 1 else "one seed, so there is no spread"
    return f"- {tables.TITLES[store.name]}: {runs}; learning rate: {rates}."


def write_page(stores: Sequence[Store]) -> None:
    """Write the page and its figures."""
    transport = next(store for store in stores if store.name == TRANSPORT_BENCHMARK)
    transports = tables.transports_of(transport)
    methods = {store.name: tables.methods_of(store) for store in stores}
    remarks = [remark(store, methods[store.name]) for store in stores]
    IMAGES.mkdir(exist_ok=True)
    for store in stores:
        if methods[store.name]:
            draw(store, methods[store.name])
    PAGE.write_text(
        rendered(
            Path(__file__).with_name("page.md.jinja"),
            tables=tables,
            stores=stores,
            methods=methods,
            transport=transport,
            transports=transports,
            tuned=[store for store in stores if tables.is_tuned(store)],
            remarks=remarks if transports else [*remarks, "- Transports: not run."],
            tuning_seed=TUNING_SEED,
        )
    )
