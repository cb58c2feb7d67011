"""docs/research/results.md, its figures, and README's table, from the stored runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from potara_flwr.comparison.differences import Row
from potara_flwr.comparison.drawings import accuracy_against, accuracy_against_bytes
from potara_flwr.results.drawing import png_of
from simulations.markdown import rendered
from simulations.method_quality import tables
from simulations.method_quality.stored import Store
from simulations.method_quality.studies import (
    CIFAR10,
    DIGITS,
    FRESH,
    PAPER,
    REFERENCE,
    ROUNDS_BENCHMARK,
    SENTIMENT,
    TRANSPORT_BENCHMARK,
    TUNING_SEED,
)

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "research" / "results.md"
README = ROOT / "README.md"
IMAGES = ROOT / "docs" / "research" / "images"
START, END = "<!-- table:start -->", "<!-- table:end -->"
README_TITLES = {
    CIFAR10: "CIFAR-10, DINOv2",
    DIGITS[0]: "digits, shared",
    DIGITS[1]: "digits, conflicting",
    SENTIMENT: "sentiment, MiniLM",
}
README_METHODS = (
    "potara", PAPER, "fedit_ft", "local", "fedit", "feddpa_f", "fedsa_lora", "fedalt", "ditto",
)  # fmt: skip


def draw(store: Store, rows: Sequence[Row]) -> None:
    """Draw the figure of a benchmark."""
    # In one order in all figures, so that a method has the same colour in each.
    entries = list(store.benchmark.entries)
    ordered = sorted(rows, key=lambda row: entries.index(str(row.group.settings["method"])))
    file = IMAGES / f"results-{store.name}.png"
    file.write_bytes(png_of(accuracy_against_bytes(ordered)))


def remark(store: Store, rows: Sequence[Row]) -> str:
    """Say what makes the numbers of a benchmark weaker than they look: how many seeds there are,
    how the learning rates were chosen, and what was not run.
    """
    if not rows:
        return f"- {store.benchmark.title}: not run."
    seeds, tuned = list(rows[0].group.runs), tables.tuned_entries(store)
    runs = f"{len(seeds)} seeds" if len(seeds) != 1 else "one seed, so there is no spread"
    lacking = tables.not_run(store)
    rates = "the preset's for all"
    if tuned:
        rest = [e for e in store.benchmark.entries if e not in (*tuned, *lacking)]
        rates = "one of a grid for each method"
        rates += f", but the preset's for {', '.join(rest)}" if rest else ""
    words = f"; not run: {', '.join(lacking)}" if lacking else ""
    numbers = ", ".join(map(str, seeds))
    return f"- {store.benchmark.title}: {runs} ({numbers}); learning rate: {rates}{words}."


def write_page(stores: Sequence[Store]) -> None:
    """Write the page and its figures."""
    transport = next(store for store in stores if store.name == TRANSPORT_BENCHMARK)
    transports = tables.transports_of(transport)
    of_rounds = next(store for store in stores if store.name == ROUNDS_BENCHMARK)
    rounds = tables.rounds_of(of_rounds)
    methods = {store.name: tables.methods_of(store) for store in stores}
    run = [store for store in stores if methods[store.name]]
    remarks = [remark(store, methods[store.name]) for store in stores]
    IMAGES.mkdir(exist_ok=True)
    for store in run:
        draw(store, methods[store.name])
    if rounds:
        (IMAGES / "results-rounds.png").write_bytes(png_of(accuracy_against("rounds")(rounds)))
    PAGE.write_text(
        rendered(
            Path(__file__).with_name("page.md.jinja"),
            tables=tables,
            run=run,
            methods=methods,
            potara={store.name: tables.groups_of(store)[REFERENCE] for store in run},
            transport=transport,
            transports=transports,
            rounds=rounds,
            of_rounds=of_rounds,
            tuned=[store for store in stores if tables.tuned_entries(store)],
            remarks=[
                *remarks,
                *["- Transports: not run."][: not transports],
                *["- Rounds: not run."][: not rounds],
            ],
            tuning_seed=TUNING_SEED,
            fresh=FRESH,
        )
    )


def write_readme(stores: Sequence[Store]) -> None:
    """Put the table between README's marks."""
    before, _, rest = README.read_text().partition(START)
    after = rest.partition(END)[2]
    table = tables.readme_table(stores, README_TITLES, README_METHODS)
    README.write_text(f"{before}{START}\n{table}\n{END}{after}")
