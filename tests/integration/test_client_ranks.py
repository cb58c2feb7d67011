"""Whole runs in which clients train adapters of different ranks."""

from __future__ import annotations

import functools

import pytest
import torch
from clients import same_bits
from peft import PeftModel
from recording import SHORT, finished
from transformers import AutoModelForImageClassification

from potara_flwr.in_process import InProcessGrid, run_in_process
from potara_flwr.methods import METHODS
from potara_flwr.models.adapter import first_components, kind_of, lora_pairs
from potara_flwr.models.lora import load_adapter
from potara_flwr.offline import personalize_offline
from potara_flwr.results.folder import read_results
from potara_flwr.tasks.workbench import Workbench

pytestmark = pytest.mark.integration

RANKS = (2, 4, 8)
SOME = {"lora.ranks": "2,4,8", "lora.rank": 8, "local.start": "warm"}


@pytest.fixture(scope="module")
def run_with(tiny, tmp_path_factory):
    """Run once with some settings."""

    @functools.cache
    def go(**overrides):
        place = str(tmp_path_factory.mktemp("run") / "run")
        named = {name.replace("__", ".").replace("_", "-"): at for name, at in overrides.items()}
        shown = {"federation.transport": "float32", "data.test-samples": 20, "run.results": place}
        return finished(tiny({**SOME, **shown, **named}))

    return go


def ranks_in(adapter):
    """Return the ranks in an adapter, both of A and of B."""
    pairs = [(adapter[a].shape[0], adapter[b].shape[1]) for a, b in lora_pairs(adapter)]
    return {rank for pair in pairs for rank in pair}


def files_of(folder):
    """Return the bytes of every adapter that a run saves."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for part in ("federated", "clients")
        for file in sorted((folder / part).rglob("*.safetensors"))
    }


@pytest.mark.parametrize("aggregation", ["factors", "exact"])
@pytest.mark.parametrize("space", ["factors", "delta"])
def test_plain_peft_runs_every_clients_adapter(run_with, aggregation, space):
    settings, folder, results, _ = run_with(
        federation__aggregation=aggregation, merge__space=space, merge__fallback=False
    )
    assert not results["refused"]
    assert ranks_in(load_adapter(folder / "federated")) == {8}
    bench = Workbench(settings)
    for entry, rank in zip(results["clients"], RANKS, strict=True):
        test = bench.client(entry["client"]).test
        place = folder / "clients" / str(entry["client"])
        doubled = space == "delta" and 0 < entry["personalized"]["weight"] < 1
        for part, ranks, score in (
            ("", {rank * (1 + doubled)}, entry["personalized"]["accuracy"]),
            ("local", {rank}, entry["accuracy"]["local"]),
        ):
            adapter = load_adapter(place / part)
            assert ranks_in(adapter) == ranks
            base = AutoModelForImageClassification.from_pretrained(settings.task.model)
            model = PeftModel.from_pretrained(base, str(place / part)).eval()
            with torch.no_grad():
                logits = model(pixel_values=test["pixel_values"]).logits
                torch.testing.assert_close(logits, bench.model(adapter, test))
            right = (logits.argmax(-1) == test["labels"]).float().mean()
            assert right == pytest.approx(score)


@pytest.mark.parametrize("aggregation", ["factors", "exact"])
def test_a_client_is_sent_its_part_of_the_federated_adapter(run_with, aggregation):
    _, folder, _, grid = run_with(federation__aggregation=aggregation)
    federated = load_adapter(folder / "federated")
    for client, rank in enumerate(RANKS):
        sent = grid.down["personalize", "", client]
        assert ranks_in(sent) == {rank}
        assert same_bits(
            {name: torch.from_numpy(array) for name, array in sent.items()},
            first_components(federated, rank),
        )
        assert ranks_in(grid.up["train", "2", client]) == {rank}


def test_with_factors_only_who_has_a_component_changes_it(run_with):
    _, _, results, grid = run_with()
    weights = [entry["num_train"] + entry["num_calibration"] for entry in results["clients"]]
    updates = [grid.up["train", "1", client] for client in range(3)]
    after = grid.down["train", "2", 2]
    for name in after:
        axis = {"A": 0, "B": 1}.get(kind_of(name))
        if axis is None:
            continue
        for component in range(8):
            having = [client for client, rank in enumerate(RANKS) if rank > component]
            total = sum(weights[client] for client in having)
            mean = sum(
                weights[client] * updates[client][name].take(component, axis) for client in having
            )
            torch.testing.assert_close(
                torch.from_numpy(after[name].take(component, axis)),
                torch.from_numpy(mean / total), rtol=1e-5, atol=1e-7,
            )  # fmt: skip


def test_bytes_are_those_of_a_clients_own_rank(run_with):
    settings, _, results, _ = run_with()
    initial = Workbench(settings).model.initial
    for client, rank in enumerate(RANKS):
        numbers = sum(
            tensor.numel() if kind_of(name) == "head" else tensor.numel() * rank // 8
            for name, tensor in initial.items()
        )
        up = [
            message["bytes_up"]
            for message in results["communication"]["messages"]
            if (message["kind"], message["client"]) == ("train", client)
        ]
        assert len(up) == 2
        assert all(4 * numbers < size < 4 * numbers + 12_000 for size in up)


SENT_WHOLE = [name for name, row in METHODS.items() if ("A" in row.shared) == ("B" in row.shared)]


@pytest.mark.parametrize(
    ("method", "aggregation"),
    [(name, "factors") for name in METHODS] + [(name, "exact") for name in SENT_WHOLE],
)
def test_every_method_runs(tiny, tmp_path, method, aggregation):
    _, folder, results, _ = finished(tiny({
        **SHORT, **SOME, "method": method, "federation.aggregation": aggregation,
        "run.results": str(tmp_path / "run"),
    }))  # fmt: skip
    assert not results["refused"]
    assert len(results["clients"]) == 3
    for client, rank in enumerate(RANKS):
        for file in (folder / "clients" / str(client)).rglob("adapter_model.safetensors"):
            share = 1.5 if method == "pf2lora" else 1
            assert ranks_in(load_adapter(file.parent)) == {rank * share}


class Killed(BaseException):
    """The process is gone."""


class DyingGrid(InProcessGrid):
    """Dies before a client trains in round 2, when another has."""

    def _answer(self, message):
        if (message.metadata.group_id, message.metadata.dst_node_id) == ("2", 2):
            raise Killed
        return super()._answer(message)


@pytest.mark.parametrize(
    "overrides",
    [
        {"federation.aggregation": "factors", "federation.transport": "int8"},
        {"federation.aggregation": "exact", "federation.transport": "int8"},
        {"method": "fedalt", "federation.transport": "bfloat16"},
    ],
)
def test_a_run_that_died_goes_on_to_the_same_bits(tiny, tmp_path, overrides):
    settings = {**SHORT, **SOME, **overrides}
    killed = str(tmp_path / "killed")
    first = tiny({**settings, "run.results": killed})
    with pytest.raises(Killed):
        run_in_process(first, DyingGrid(first))
    folder = run_in_process(tiny({**settings, "run.resume": killed}))
    whole = run_in_process(tiny({**settings, "run.results": str(tmp_path / "whole")}))
    assert files_of(folder) == files_of(whole) != {}
    assert read_results(folder)["digest"] == read_results(whole)["digest"]


@pytest.mark.parametrize("aggregation", ["factors", "exact"])
def test_equal_ranks_give_the_bits_of_a_run_without(tiny, tmp_path, aggregation):
    folders = [
        finished(tiny({
            **SHORT, "federation.aggregation": aggregation, "federation.transport": "int8",
            "lora.rank": 4, "lora.ranks": ranks, "run.results": str(tmp_path / f"run{ranks}"),
        })).folder
        for ranks in ("", "4")
    ]  # fmt: skip
    assert files_of(folders[0]) == files_of(folders[1]) != {}


def test_a_client_alone_ends_with_the_bits_of_the_run(run_with, tmp_path):
    _, folder, _, _ = run_with(federation__aggregation="exact")
    for client in range(3):
        personalize_offline(folder, tmp_path / str(client), client=client)
        theirs = load_adapter(folder / "clients" / str(client))
        assert same_bits(load_adapter(tmp_path / str(client)), theirs)


@pytest.mark.parametrize("aggregation", ["factors", "exact"])
def test_what_small_ranks_lack_can_still_be_trained(tiny, tmp_path, aggregation):
    _, folder, results, _ = finished(tiny({
        **SHORT, **SOME, "federation.fraction-train": 0.3, "federation.aggregation": aggregation,
        "run.results": str(tmp_path / "run"),
    }))  # fmt: skip
    assert {len(at["clients"]) for at in results["rounds"]} == {1}
    federated = load_adapter(folder / "federated")
    assert ranks_in(federated) == {8}
    for a, _ in lora_pairs(federated):
        assert federated[a].norm(dim=1).min() > 1e-3  # from A = B = 0 no gradient leads away
