"""The exchange table in words, for the docs (``python -m potara_flwr.methods.docs_table``)."""

from __future__ import annotations

import sys

from potara_flwr.core.markdown import table
from potara_flwr.methods import METHODS, Method

SIZES = {"A": "r·d_in", "B": "r·d_out", "head": "h"}
"""Numbers of a kind of tensor: the factors of one adapted module, and the whole head."""


def exchange_table() -> str:
    """Return the table of ``docs/reference/methods.md``, one row a method."""
    header = (
        "`method`", "what it does", "sent, down and up", "numbers sent a round, each way",
        "stays on the client", "rounds", "steps of a client", "source",
    )  # fmt: skip
    rows = [
        [f"`{name}`", f"{method.title}: {method.summary}", ", ".join(method.shared) or "nothing",
         _numbers(method), method.keeps or "–", _rounds(method), _steps(method),
         f"arXiv {method.source}" if method.source else "–"]
        for name, method in METHODS.items()
    ]  # fmt: skip
    return table(header, rows) + "\n"


def _numbers(method: Method) -> str:
    """Return how many numbers are sent in a round, each way: factors in every module, the head."""
    factors = " + ".join(SIZES[kind] for kind in method.shared if kind != "head")
    parts = [f"m·({factors})" if "+" in factors else f"m·{factors}"] if factors else []
    return " + ".join([*parts, *(["h"] if "head" in method.shared else [])]) or "0"


def _rounds(method: Method) -> str:
    if method.trainings == 0:
        return "0"
    if method.local_phase:
        return "R"
    return "(R·E + S) / E" if method.trainings == 1 else f"(R·E + S) / {method.trainings}E"


def _steps(method: Method) -> str:
    if method.trainings == 0:
        return "R·E + S alone"
    if method.local_phase:
        return "E a round, S after them"
    return "E a round" if method.trainings == 1 else f"{method.trainings} × E a round"


if __name__ == "__main__":
    sys.stdout.write(exchange_table())
