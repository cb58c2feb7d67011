"""Runs with clipping and noise: what is repeated, what stands in the results, what is shown."""

from __future__ import annotations

import io

import pytest
from clients import same_bits
from rich.console import Console

from potara_flwr import client_app
from potara_flwr.in_process import InProcessGrid, run_in_process
from potara_flwr.messages.transport import values_of
from potara_flwr.models.lora import load_adapter
from potara_flwr.results.folder import read_results
from potara_flwr.results.tables import summary_table
from potara_flwr.server.privacy import epsilon_of
from potara_flwr.strategies.averages import norm_of_change

pytestmark = pytest.mark.integration

PRIVATE = {
    "federation.weighting": "uniform",
    "federation.transport": "float32",
    "privacy.clipping-norm": 0.05,
    "privacy.noise-multiplier": 2.0,
}


class NormGrid(InProcessGrid):
    """Measures how far each client's reply is from what it was sent; client 1 may be broken."""

    def __init__(self, settings, broken=False):
        super().__init__(settings)
        self.norms = []
        self.broken = broken

    def _answer(self, message):
        app = self.app
        if self.broken and message.metadata.dst_node_id == 2:
            self.app = fail
        reply = super()._answer(message)
        self.app = app
        if message.metadata.message_type == "train" and reply.has_content():
            sent, update = (values_of(part.content["arrays"]) for part in (message, reply))
            self.norms.append(norm_of_change(sent, update))
        return reply


def fail(message, context):
    if message.metadata.message_type == "train":
        raise RuntimeError("broken")
    return client_app.app(message, context)


class DyingGrid(NormGrid):
    """Dies once the average of the second round is on its way to be evaluated."""

    def _answer(self, message):
        if (message.metadata.message_type, message.metadata.group_id) == ("evaluate", "2"):
            raise KeyboardInterrupt
        return super()._answer(message)


@pytest.fixture
def run(tiny, tmp_path):
    def go(name, overrides=None, kind=NormGrid, **kwargs):
        folder = tmp_path / name
        if "run.resume" in (overrides or {}):
            overrides = {"run.results": "", **overrides}
        changed = {"run.results": str(folder), "data.test-samples": 10}
        settings = tiny({**changed, **(overrides or {})})
        grid = kind(settings, **kwargs)
        folder = run_in_process(settings, grid)
        return folder, read_results(folder), grid.norms

    return go


def federated(folder):
    return load_adapter(folder / "federated")


@pytest.mark.usefixtures("no_pictures")
def test_what_clients_send_is_clipped_and_epsilon_is_told(run):
    folder, results, norms = run("private", PRIVATE | {"run.report": True})
    assert norms == pytest.approx([0.05] * 6, rel=1e-3)
    epsilon = epsilon_of(2.0, 2, 1e-5)
    assert results["privacy"] == {
        "clipping_norm": 0.05, "noise_multiplier": 2.0, "noise": "secret", "releases": 2,
        "delta": 1e-5, "epsilon": epsilon,
    }  # fmt: skip
    assert results["refused"] == []
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(summary_table(results))
    words = f"ε = {epsilon:.3g} at δ = 1e-05"
    assert words in console.export_text()
    assert words in (folder / "report.html").read_text()


@pytest.mark.usefixtures("no_pictures")
def test_seeded_noise_repeats_a_run_and_secret_noise_does_not(run):
    seeded = PRIVATE | {"privacy.noise": "seeded", "run.report": True}
    first, again = (run(name, seeded) for name in ("first", "again"))
    assert first[1]["digest"] == again[1]["digest"]
    assert "no privacy" in (first[0] / "report.html").read_text()
    secret, other = (run(name, PRIVATE)[0] for name in ("secret", "other"))
    assert not same_bits(federated(secret), federated(other))
    assert not same_bits(federated(secret), federated(first[0]))


def test_a_broken_client_does_not_skip_the_round(run):
    folder, results, norms = run("broken", PRIVATE, broken=True)
    assert len(norms) == 4
    assert {item["client"] for item in results["refused"]} == {1}
    untrained = run("untrained", {"federation.rounds": 0})[0]
    assert not same_bits(federated(folder), federated(untrained))


@pytest.mark.usefixtures("no_pictures")
def test_clipping_without_noise_bounds_nothing_and_says_so(run):
    clipped = PRIVATE | {"privacy.noise-multiplier": 0.0, "run.report": True}
    folder, results, _ = run("clipped", clipped)
    assert results["privacy"]["epsilon"] is None
    assert "no privacy" in (folder / "report.html").read_text()


def test_a_large_norm_changes_nothing_but_the_order_of_adding(run):
    """Uniform averaging, with and without the wrapper, of updates that need no clipping."""
    uniform = {"federation.weighting": "uniform", "federation.transport": "float32"}
    plain, _, _ = run("plain", uniform)
    wide, _, _ = run("wide", PRIVATE | {"privacy.clipping-norm": 1e3,
                                        "privacy.noise-multiplier": 0.0})  # fmt: skip
    assert norm_of_change(
        {name: tensor.numpy() for name, tensor in federated(plain).items()},
        {name: tensor.numpy() for name, tensor in federated(wide).items()},
    ) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("method", ["fedsa_lora", "ffa_lora", "ditto"])
def test_other_methods_clip_all_that_they_share(run, method):
    _, results, norms = run(method, PRIVATE | {"method": method})
    assert max(norms) <= 0.05 * (1 + 1e-3)
    assert results["refused"] == []
    assert results["privacy"]["releases"] == len(results["rounds"])


def test_a_client_that_is_seldom_asked_is_told_of_less(run):
    _, results, _ = run("half", PRIVATE | {"federation.fraction-train": 0.34,
                                           "federation.rounds": 3})  # fmt: skip
    asked = [client for record in results["rounds"] for client in record["clients"]]
    assert len(asked) == 3
    most = max(asked.count(client) for client in asked)
    assert results["privacy"]["releases"] == most
    assert results["privacy"]["epsilon"] == epsilon_of(2.0, most, 1e-5)


def test_a_round_whose_average_was_sent_before_an_interruption_is_told_of_twice(run, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run("interrupted", PRIVATE, kind=DyingGrid)
    with pytest.raises(KeyboardInterrupt):
        run("", PRIVATE | {"run.resume": str(tmp_path / "interrupted")}, kind=DyingGrid)
    _, results, _ = run("", PRIVATE | {"run.resume": str(tmp_path / "interrupted")})
    assert [record["round"] for record in results["rounds"]] == [1, 2]
    assert results["privacy"]["releases"] == 2 + 2
    assert results["privacy"]["epsilon"] == epsilon_of(2.0, 4, 1e-5)
