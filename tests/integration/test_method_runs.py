"""Every method through the real apps in one process: the exchange table against the messages."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from clients import same_bits
from recording import finished
from rich.console import Console

from potara_flwr.client.store import ClientStore
from potara_flwr.methods import METHODS, Method, Update
from potara_flwr.methods.base import single
from potara_flwr.models.adapter import kind_of
from potara_flwr.models.lora import load_adapter
from potara_flwr.results.report import write_report
from potara_flwr.results.tables import client_table, summary_table
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.local_steps import evaluate

pytestmark = pytest.mark.integration

AN_ARRAY, A_MESSAGE = 800, 1500
"""Bytes beyond the numbers, at most: an array's name, shape and type; the records."""
KEPT = {
    "fedsa_lora": {"own"},
    "feddpa_t": {"local"},
    "ditto": {"personal"},
    "apfl": {"personal", "alpha"},
    "pf2lora": {"own"},
    "fedalt": {"individual", "mixer"},
}


def states_of(settings, folder, grid):
    """Return the state of every client after the last round."""
    key, bench = f"{grid.run.run_id:020d}", Workbench(settings)
    return [
        ClientStore(folder / "state", key, client, settings, bench.client(client)).state(until=100)
        for client in range(3)
    ]


@pytest.fixture
def run(tiny, tmp_path):
    """Run with a method; return settings, folder, results and what was sent."""

    def go(method, overrides=None, name="run"):
        place = {"run.results": str(tmp_path / name), "method": method, "data.test-samples": 20}
        settings = tiny({**place, **(overrides or {})})
        return finished(settings)

    return go


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("method", METHODS)
def test_a_run_sends_what_the_exchange_table_says_and_reports_what_it_has(run_of, method, tmp_path):
    settings, folder, results, grid = run_of(method)
    row, initial = METHODS[method], Workbench(settings).model.initial
    shared = {name for name in initial if kind_of(name) in row.shared}
    least = 4 * sum(initial[name].numel() for name in shared)
    most = least + AN_ARRAY * len(shared) + A_MESSAGE

    # What is sent, both ways, in every message that holds tensors.
    rounds = row.rounds(settings)
    assert len(results["rounds"]) == rounds
    down, up = grid.down, grid.up
    assert {kind for kind, *_ in up} == ({"train"} if rounds else set())
    assert len(up) == 3 * rounds
    for arrays in [*down.values(), *up.values()]:
        assert set(arrays) == shared
    for message in results["communication"]["messages"]:
        if message["kind"] != "describe":
            assert least <= message["bytes_down"] <= most
        if message["kind"] == "train":
            assert least <= message["bytes_up"] <= most
    assert (
        sum(m["bytes_up"] for m in results["communication"]["messages"])
        == (results["communication"]["bytes_up"])
    )

    # What stays on the clients, on their disks and nowhere else.
    assert not any(context.state for context in grid.contexts.values())
    for state in states_of(settings, folder, grid):
        assert state.round == (rounds if method in KEPT else 0)
        assert set(state.personal) == KEPT.get(method, set())
    assert bool([*folder.rglob("round-*")]) == (method in KEPT)

    # What is reported: the same steps for every method, and the adapters that there are.
    assert results["method"] == method
    assert results["refused"] == results["missing"] == []
    assert results["summary"]["optimizer_steps"] == {"mean": 8.0, "total": 24}
    for client in results["clients"]:
        rules = set(client.get("weights", ()))
        assert set(client["accuracy"]) == set(client["loss"]) == {*row.adapters} | rules
        assert bool(rules) == (method == "potara") == ("traces" in client)
        in_rounds = sum(at["training_seconds"][client["client"]] for at in results["rounds"])
        after = client["seconds"].get("local_training") or 0.0
        assert client["seconds"]["training"] == pytest.approx(in_rounds + after)
        weighed = method[:6] in ("potara", "feddpa", "apfl")
        assert ("weight" in client["personalized"]) == weighed
    assert set(results["seconds"]) == {"gathering", "rounds", "personalization"}
    assert (folder / "federated").is_dir() == ("federated" in row.adapters)
    write_report(results, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert row.title in page
    assert ("The oracle sees" in page) == (method == "potara")
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(client_table(results), summary_table(results))
    text = console.export_text()
    assert "personalized" in text or method == "potara"
    assert ("regret" in text) == (method == "potara")


@pytest.mark.parametrize("method", METHODS)
def test_the_personalized_adapter_scores_what_the_results_say(run, method):
    settings, folder, results, _ = run(method)
    bench = Workbench(settings)
    for client in results["clients"]:
        place = folder / "clients" / str(client["client"])
        card = (place / "README.md").read_text()
        assert METHODS[method].title in card
        if METHODS[method].source:
            assert METHODS[method].source in card
        if method in ("fedalt", "feddpa_f", "feddpa_t"):  # two adapters, weighted as they run
            assert not (place / "adapter_model.safetensors").exists()
            assert (place / "local" / "adapter_model.safetensors").is_file()
            assert (place / "mixer.safetensors").is_file() == (method == "fedalt")
            continue
        score = evaluate(bench.model, bench.task, load_adapter(place),
                         bench.client(client["client"]).test)  # fmt: skip
        assert score.loss == pytest.approx(client["personalized"]["loss"])
        assert score.accuracy == client["personalized"]["accuracy"]


def test_fedit_ends_with_potaras_federated_adapter(run):
    same = {"federation.baseline-rounds": 2}
    _, potara, *_ = run("potara", same, "potara")
    _, fedit, *_ = run("fedit", same, "fedit")
    federated = load_adapter(potara / "federated")
    assert same_bits(load_adapter(fedit / "federated"), federated)
    assert same_bits(load_adapter(fedit / "clients" / "1"), federated)


def test_a_run_with_a_method_is_equal_to_the_bit_again(run):
    for method in ("fedalt", "feddpa_t", "dare"):
        overrides = {"federation.fraction-train": 0.7, "lora.dropout": 0.2}
        first, again = (run(method, overrides, f"{method}-{i}")[2] for i in range(2))
        assert first["digest"] == again["digest"]


def test_fedalt_sends_each_client_the_mean_of_the_others(run):
    *_, grid = run("fedalt", {"federation.transport": "float32"})
    for client in range(3):
        others = [grid.up["train", "1", other] for other in range(3) if other != client]
        for kind, server_round in (("evaluate", "1"), ("train", "2")):
            for name, array in grid.down[kind, server_round, client].items():
                expected = (others[0][name].astype(float) + others[1][name]) / 2
                np.testing.assert_allclose(array, expected, rtol=1e-6, atol=1e-7)


def test_a_client_alone_has_no_rest_of_the_world(run):
    alone = {"data.num-clients": 1, "data.alpha": 100.0, "federation.transport": "float32"}
    settings, _, _, grid = run("fedalt", alone)
    initial = Workbench(settings).model.initial
    for arrays in grid.down.values():
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, initial[name].numpy())


def test_exact_aggregation_runs_and_says_how_exact_it_was(run):
    _, folder, results, _ = run("fedit", {"federation.aggregation": "exact"}, "exact")
    errors = [record["aggregation_error"] for record in results["rounds"]]
    assert all(0 < error < 1 for error in errors)
    apart = run("fedit", name="factors")
    assert all(record["aggregation_error"] is None for record in apart[2]["rounds"])
    assert not same_bits(load_adapter(folder / "federated"), load_adapter(apart[1] / "federated"))
    # B is averaged where A is the same everywhere: exact already.
    ffa, plain = (
        run("ffa_lora", {"federation.aggregation": way}, f"ffa-{way}")
        for way in ("exact", "factors")
    )
    assert [record["aggregation_error"] for record in ffa[2]["rounds"]] == [0.0] * 4
    assert same_bits(load_adapter(ffa[1] / "federated"), load_adapter(plain[1] / "federated"))


@pytest.mark.parametrize("transport", ["float16", "bfloat16", "int8"])
@pytest.mark.parametrize("method", ["potara", "fedalt"])
def test_what_is_sent_is_small_and_read_alike_on_both_sides(run, method, transport):
    settings, folder, results, grid = run(method, {"federation.transport": transport}, "small")
    assert results["refused"] == []
    size = 1 if transport == "int8" else 2
    initial = Workbench(settings).model.initial
    shared = [name for name in initial if METHODS[method].sends(name, settings)]
    for arrays in [*grid.down.values(), *grid.up.values()]:
        assert all(arrays[name].itemsize == size for name in shared)
        assert set(arrays) - set(shared) == ({"scales"} if transport == "int8" else set())
    for state in states_of(settings, folder, grid):
        assert set(state.residuals) == (set(shared) if transport == "int8" else set())
    exact = run(method, {"federation.transport": "float32"}, "exact")
    assert results["communication"]["bytes_up"] < exact[2]["communication"]["bytes_up"]
    if method == "potara":
        bench = Workbench(settings)
        federated = load_adapter(folder / "federated")
        for client in results["clients"]:
            test = bench.client(client["client"]).test
            score = evaluate(bench.model, bench.task, federated, test)
            assert score.loss == client["loss"]["federated"]
        reference = load_adapter(exact[1] / "federated")
        moved = sum((reference[n] - initial[n]).square().sum() for n in reference).sqrt()
        missed = sum((reference[n] - federated[n]).square().sum() for n in reference).sqrt()
        assert 0 < missed < 0.5 * moved


def test_a_reply_of_another_encoding_is_refused_before_it_is_read(run, monkeypatch):
    from potara_flwr import client_app
    from potara_flwr.client.participant import encode_update

    def write(client, adapter, received, residuals):
        settings = client.settings
        if client.data.client == 1:
            federation = settings.federation.model_copy(update={"transport": "float32"})
            client.settings = settings.model_copy(update={"federation": federation})
        sent = encode_update(client, adapter, received, residuals)
        client.settings = settings
        return sent

    monkeypatch.setattr(client_app, "encode_update", write)
    results = run("fedit", {"federation.transport": "bfloat16"})[2]
    assert {item["client"] for item in results["refused"]} == {1}
    assert all("is float32" in item["reason"] for item in results["refused"])
    assert torch.isfinite(torch.tensor(results["summary"]["mean"]["loss"]["federated"]))


@pytest.mark.usefixtures("no_pictures")
def test_a_method_is_a_few_functions_and_one_row(run, monkeypatch):
    def train_with_own_head(client, received, server_round):
        start = received | client.personal.get("head", {})
        adapter, loss = client.train_in_round(start, server_round)
        client.personal["head"] = {
            name: adapter[name] for name in adapter if kind_of(name) == "head"
        }
        return Update(adapter, loss)

    mine = Method(
        title="FedPer",
        source="1912.00818",
        shared=("A", "B"),
        keeps="its head",
        summary="Clients share the factors; each keeps a head of its own.",
        adapters=("initial",),
        personalize=lambda client, received: single(client, received | client.personal["head"]),
        train_round=train_with_own_head,
    )
    monkeypatch.setitem(METHODS, "fedper", mine)
    _, folder, results, grid = run("fedper", {"run.report": True})
    heads = [load_adapter(folder / "clients" / str(client)) for client in range(3)]
    name = "base_model.model.classifier.weight"
    assert not torch.equal(heads[0][name], heads[1][name])
    assert all(kind_of(sent) != "head" for arrays in grid.up.values() for sent in arrays)
    assert results["summary"]["optimizer_steps"]["mean"] == 8.0
    assert "FedPer (arXiv 1912.00818)" in (folder / "report.html").read_text()
