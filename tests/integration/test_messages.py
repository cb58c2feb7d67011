"""What is in the messages of every method, and what is not: data, gradients, what stays local."""

from __future__ import annotations

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from safetensors.torch import load_file

from potara_flwr.merging.rules import GRID, RULES
from potara_flwr.messages.reports import Description, Report
from potara_flwr.messages.transport import values_of
from potara_flwr.methods import METHODS
from potara_flwr.models.adapter import kind_of
from potara_flwr.models.lora import load_adapter
from potara_flwr.strategies.rest_of_world import RestOfWorld
from potara_flwr.tasks.workbench import Workbench
from potara_flwr.training.gradients import per_sample_gradients

pytestmark = pytest.mark.integration

DOWN = {
    "describe": {"config": {"code-version"}},
    "train": {"config": {"server-round", "run-key"}},
    "evaluate": {"config": {"server-round", "run-key"}},
    "personalize": {"config": {"server-round", "run-key"}},
}
"""What goes down besides the shared arrays."""
SCORED = {"initial", "federated", "local", "oracle", *RULES}


def names_of(schema) -> set[str]:
    """The dotted names that what a client says may have, by its schema."""
    names = set()
    for name, field in schema.model_fields.items():
        if name in ("accuracy", "loss", "weights"):
            names |= {f"{name}.{scored}" for scored in SCORED}
        else:
            inner = next((kind for kind in getattr(field.annotation, "__args__", ())
                          if hasattr(kind, "model_fields")), field.annotation)  # fmt: skip
            fields = getattr(inner, "model_fields", None)
            names |= {f"{name}.{key}" for key in fields} if fields else {name}
    return names


UP = {
    "train": {"server-round", "num-examples", "loss", "seconds"},
    "evaluate": {"server-round", "num-examples", "loss", "accuracy"},
    "describe": names_of(Description) - {"fault"},
}
"""The numbers that come up."""
MOST_NUMBERS = 120
"""In a reply, besides the shared arrays, however many samples a client has."""


def wire(kept) -> bytes:
    """Every byte of every content, as Flower sends them."""
    contents = [part.content for _, *pair in kept for part in pair]
    return b"".join(
        item.deflate() for content in contents for item in get_all_nested_objects(content).values()
    )


@pytest.mark.parametrize("method", METHODS)
def test_messages_hold_the_shared_tensors_and_numbers_of_the_schema_only(run_of, method):
    settings, _, results, grid = run_of(method)
    kept = grid.kept
    assert results["refused"] == []
    initial = Workbench(settings).model.initial
    shared = {
        name: tuple(tensor.shape)
        for name, tensor in initial.items()
        if METHODS[method].sends(name, settings)
    }
    assert {kind_of(name) for name in shared} == set(METHODS[method].shared)
    in_rounds = {"train", "evaluate"} if METHODS[method].trainings else set()
    assert {kind for kind, *_ in kept} == {"describe", "personalize"} | in_rounds
    for kind, message, reply in kept:
        assert_holds(message.content, shared if kind != "describe" else None)
        others = {name: set(part) for name, part in message.content.config_records.items()}
        assert others == DOWN[kind]
        assert_holds(reply.content, shared if kind == "train" else None)
        assert set(reply.content.metric_records) == {"metrics"}
        numbers = reply.content["metrics"]
        texts = set(reply.content.config_records.get("config", {}))
        if kind == "personalize":
            assert set(numbers) | texts <= names_of(Report) | {"server-round"}
        else:
            assert set(numbers) == UP[kind]
            assert not texts
        sizes = [len(value) if isinstance(value, list) else 1 for value in numbers.values()]
        assert max(sizes) <= len(GRID)
        assert sum(sizes) <= MOST_NUMBERS


def assert_holds(content, shared):
    """Check that there is one array record, of the shared tensors; or none."""
    assert all(isinstance(part, ArrayRecord | MetricRecord | ConfigRecord)
               for part in content.values())  # fmt: skip
    assert set(content.array_records) == (set() if shared is None else {"arrays"})
    if shared is not None:
        arrays = values_of(content["arrays"])
        assert {name: array.shape for name, array in arrays.items()} == shared


@pytest.mark.parametrize("method", METHODS)
def test_no_sample_and_no_tensor_of_a_client_alone_is_in_any_message(run_of, method):
    settings, folder, _, grid = run_of(method)
    kept = grid.kept
    sent = wire(kept)
    bench = Workbench(settings)
    received = [values_of(message.content["arrays"])
                for kind, message, _ in kept if kind == "personalize"]  # fmt: skip
    public = {array.tobytes() for arrays in received for array in arrays.values()}
    public |= {tensor.numpy().tobytes() for tensor in bench.model.initial.values()}
    if METHODS[method].strategy is RestOfWorld:  # the individual factors are what is sent
        public |= {
            array.tobytes()
            for kind, _, reply in kept if kind == "train"
            for array in values_of(reply.content["arrays"]).values()
        }  # fmt: skip
    secrets = []
    for client in range(3):
        data = bench.client(client)
        for part in (data.train, data.calibration, data.test):
            secrets += [image.numpy().tobytes() for image in part["pixel_values"]]
            secrets.append(part["labels"].numpy().tobytes())
        place = folder / "clients" / str(client)
        files = [*place.rglob("*.safetensors")]
        assert files
        own = [tensor for file in files for tensor in load_file(file).values()]
        hidden = {t.numpy().tobytes() for t in own if t.numel() >= 4 and t.any()} - public
        ends_with_received = METHODS[method].adapters == ("initial", "federated") and not (
            METHODS[method].keeps or METHODS[method].local_phase
        )
        assert bool(hidden) != ends_with_received
        secrets += hidden
    assert len(secrets) > 40
    for secret in secrets:
        assert secret not in sent
    if METHODS[method].trainings:
        assert all(array.tobytes() in sent for arrays in received for array in arrays.values())


def test_no_gradient_of_a_sample_is_in_any_message(run_of):
    settings, folder, _, grid = run_of("potara")
    sent = wire(grid.kept)
    bench = Workbench(settings)
    for client in range(3):
        for place in ("federated", f"clients/{client}/local", f"clients/{client}"):
            adapter = load_adapter(folder / place)
            data = bench.client(client)
            found = per_sample_gradients(bench.model, bench.task, adapter, data.calibration)
            for gradients in found.gradients.values():
                for gradient in gradients:
                    for dtype in (torch.float32, torch.float64):
                        assert gradient.to(dtype).cpu().numpy().tobytes() not in sent
