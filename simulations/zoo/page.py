"""The page of architectures, from how far each came."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import transformers

from potara_flwr.core.storage import write_whole
from simulations.markdown import rendered
from simulations.zoo.journey import Journey

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "reference" / "models.md"
DATA = DOCS / "research" / "data" / "zoo"
TITLES = {
    "image": "Image classification",
    "text": "Text classification",
    "causal": "Causal language models",
}
SIGNS = {"works": "works", "refused": "refused", "fails": "**fails**", "not built": "not tried"}


def stored() -> dict[str, dict[str, Any]]:
    """Return how far each architecture came, by kind, model type and class."""
    journeys: dict[str, dict[str, Any]] = {}
    for file in sorted(DATA.glob("*.json")):
        journeys |= {
            f"{file.stem}:{name}": one for name, one in json.loads(file.read_text()).items()
        }
    return journeys


def is_whole(one: dict[str, Any] | None) -> bool:
    """Say whether nothing is left to do of what is stored of an architecture."""
    return one is not None and (one["outcome"] != "works" or one.get("card", False))


def store(journey: Journey) -> None:
    """Store how far an architecture came."""
    file = DATA / f"{journey.kind}.json"
    known = json.loads(file.read_text()) if file.is_file() else {}
    known[f"{journey.model_type}:{journey.class_name}"] = journey.to_json()
    DATA.mkdir(parents=True, exist_ok=True)
    write_whole(file, (json.dumps(dict(sorted(known.items())), indent=1) + "\n").encode())


def page() -> str:
    """Return the page."""
    kinds = []
    for kind, title in TITLES.items():
        rows = sorted(
            (one for one in stored().values() if one["kind"] == kind),
            key=lambda one: (one["model_type"], one["class_name"]),
        )
        counts = Counter(one["outcome"] for one in rows)
        kinds.append((title, counts, [_row(one) for one in rows]))
    return rendered(
        Path(__file__).with_name("page.md.jinja"),
        kinds=kinds,
        version=transformers.__version__,
        without_card=[one["model_type"] for one in stored().values() if not is_whole(one)],
    )


def _row(one: dict[str, Any]) -> list[str]:
    """Return the cells of an architecture."""
    where = ", ".join(f"`{name}`" for name in one["targets"])
    if len(one["targets"]) > 6:
        where = f"{len(one['targets'])} kinds of modules"
    words = one["words"].replace("|", "\\|").replace("<", "‹").replace("`", "'")
    return [
        f"`{one['model_type']}`",
        one["class_name"],
        SIGNS[one["outcome"]],
        where,
        ", ".join(f"`{name}`" for name in one["head"]),
        one["gradients"],
        words,
    ]


def write_page() -> None:
    """Write the page to its place in docs."""
    write_whole(PAGE, page().encode())
