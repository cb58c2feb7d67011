"""One run of each method to its end, for all the tests that look at such a run."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
from recording import SHORT, Finished, finished

from potara_flwr.settings.schema import Settings


@pytest.fixture(scope="session")
def run_of(
    tiny: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Finished]:
    """Run a method once; a tensor on its way has the bytes that the clients' files have."""

    @functools.cache
    def go(method: str) -> Finished:
        place = str(tmp_path_factory.mktemp(method) / "run")
        shown = {"federation.transport": "float32", "data.test-samples": 20}
        return finished(tiny({**shown, "run.results": place, "method": method}))

    return go


@pytest.fixture(scope="session")
def int8_run_of(
    tiny: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Finished]:
    """Run a method once for three rounds, with dropout, sent as int8."""

    @functools.cache
    def go(method: str) -> Finished:
        place = str(tmp_path_factory.mktemp(method) / "run")
        shown = {"federation.transport": "int8", "run.results": place, "method": method}
        return finished(tiny({**SHORT, **shown}))

    return go
