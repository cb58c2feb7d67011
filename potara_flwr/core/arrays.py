"""Arrays by name, and groups of them: those whose names begin alike, with a slash after that."""

from __future__ import annotations

from collections.abc import Mapping

from numpy.typing import NDArray

Arrays = dict[str, NDArray]


def within(group: str, arrays: Mapping[str, NDArray]) -> Arrays:
    """Return arrays under names that begin with ``group/``."""
    return {f"{group}/{name}": array for name, array in arrays.items()}


def below(group: str, arrays: Mapping[str, NDArray]) -> Arrays:
    """Return the arrays whose names begin with ``group/``, without that."""
    start = f"{group}/"
    return {name[len(start) :]: at for name, at in arrays.items() if name.startswith(start)}


def members(arrays: Mapping[str, NDArray]) -> dict[str, Arrays]:
    """Return arrays with names ``member/name`` by member."""
    found: dict[str, Arrays] = {}
    for place, array in arrays.items():
        member, _, name = place.partition("/")
        found.setdefault(member, {})[name] = array
    return found
