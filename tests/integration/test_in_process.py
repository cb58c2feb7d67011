"""Whole runs of the real apps in one process, on a tiny random model."""

from __future__ import annotations

import json
import random

import pytest
import torch
from flwr.app import Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from peft import PeftModel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForImageClassification

from potara_flwr import client_app
from potara_flwr.core.errors import PotaraError, RunError, SettingsError
from potara_flwr.in_process import InProcessGrid, run_in_process
from potara_flwr.merging.rules import RULES
from potara_flwr.models.lora import load_adapter
from potara_flwr.results.folder import read_results
from potara_flwr.tasks import Digits
from potara_flwr.tasks import workbench as workbench_module
from potara_flwr.tasks.workbench import Workbench

pytestmark = pytest.mark.integration


class WatchedGrid(InProcessGrid):
    """Keeps every message, answers them in a random order, and can break clients."""

    def __init__(self, settings, *, order_seed=0, broken=None, lying=None, **kwargs):
        super().__init__(settings, **kwargs)
        self.rng = random.Random(order_seed)
        self.messages: list[Message] = []
        self.broken = broken or {}
        self.lying = lying or {}

    def pull_messages(self, message_ids):
        waiting = list(self._waiting.items())
        self.rng.shuffle(waiting)
        self._waiting = dict(waiting)
        return super().pull_messages(message_ids)

    def _answer(self, message):
        self.messages.append(message)
        breaks = self.broken.get(message.metadata.dst_node_id - 1)
        if breaks and message.metadata.message_type == breaks:
            self.app, app = broken_app, self.app
            reply = super()._answer(message)
            self.app = app
        else:
            reply = super()._answer(message)
        if message.metadata.message_type == self.lying.get(message.metadata.dst_node_id - 1):
            reply.content = RecordDict({"metrics": MetricRecord({"client": -1})})
        self.messages.append(reply)
        return reply


def broken_app(message, context):
    raise RuntimeError("this device is broken")


def run(settings_of, tmp_path, overrides=None, name="run", **kwargs):
    settings = settings_of({"run.results": str(tmp_path / name), **(overrides or {})})
    grid = WatchedGrid(settings, **kwargs)
    folder = run_in_process(settings, grid)
    return settings, folder, read_results(folder), grid


def files_of(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for part in ("federated", "clients")
        for file in sorted((folder / part).rglob("*.safetensors"))
    }


def test_a_run_writes_what_the_schema_says(tiny, tmp_path):
    settings, folder, results, _ = run(tiny, tmp_path, {"run.report": True})
    assert results["config"] == settings.computed()
    assert [record["round"] for record in results["rounds"]] == [1, 2]
    for record in results["rounds"]:
        assert record["clients"] == [0, 1, 2]
        assert record["bytes_down"] > record["bytes_up"] > 0  # evaluation sends the adapter again
    assert results["refused"] == results["missing"] == []
    assert [client["client"] for client in results["clients"]] == [0, 1, 2]
    for client in results["clients"]:
        a, b, c = (client["traces"][name] for name in ("federated", "local", "cross"))
        assert 0 <= c <= min(a, b)
        assert client["weights"]["variance-trace"] == pytest.approx((b - c) / (a + b - 2 * c))
        assert client["bound"]["merged"] == pytest.approx((a * b - c * c) / (a + b - 2 * c))
        assert set(client["weights"]) == {*RULES, "oracle"}
        assert set(client["accuracy"]) == {"initial", "federated", "local", *RULES, "oracle"}
        assert [point["weight"] for point in client["grid"]] == [i / 10 for i in range(11)]
        assert client["grid"][0]["accuracy"] == client["accuracy"]["local"]
        assert client["grid"][10]["loss"] == client["loss"]["federated"]
        assert client["accuracy"]["oracle"] == max(p["accuracy"] for p in client["grid"])
        assert client["num_calibration"] == 6
        chosen = client["personalized"]
        assert chosen["rule"] == "excess-loss"
        kept = chosen["fallback"] or "excess-loss"
        assert chosen["accuracy"] == client["accuracy"][kept]
        assert 0 <= client["diagnosis"]["low"] <= client["diagnosis"]["high"] <= 1
    summary = results["summary"]
    accuracies = [client["accuracy"]["local"] for client in results["clients"]]
    assert summary["mean"]["accuracy"]["local"] == pytest.approx(sum(accuracies) / 3)
    assert set(summary["regret"]) == {"personalized", *RULES}
    names = {file.name for file in folder.iterdir()}
    assert names == {"results.json", "report.html", "figures", "federated", "clients",
                     "checkpoint.safetensors", "state"}  # fmt: skip
    assert not list(folder.rglob("*.tmp"))


def test_bytes_add_up_and_count_every_message(tiny, tmp_path):
    _, _, results, grid = run(tiny, tmp_path)
    ledger = results["communication"]
    assert len(ledger["messages"]) == len(grid.messages) / 2 == 3 * (1 + 2 * 2 + 1)
    kinds = [message["kind"] for message in ledger["messages"]]
    assert kinds == ["describe"] * 3 + (["train"] * 3 + ["evaluate"] * 3) * 2 + ["personalize"] * 3
    for way in ("bytes_down", "bytes_up"):
        assert ledger[way] == sum(message[way] for message in ledger["messages"])
    downs = [m.content for m in grid.messages if not m.metadata.reply_to_message_id]
    measured = sum(len(o.deflate()) for c in downs for o in get_all_nested_objects(c).values())
    assert ledger["bytes_down"] == measured
    adapter_bytes = sum(tensor.numel() * 4 for tensor in Workbench(tiny()).model.initial.values())
    for message in ledger["messages"]:
        if message["kind"] == "train":
            assert adapter_bytes < message["bytes_up"] < adapter_bytes + 12_000


def test_saved_adapters_score_in_plain_peft_what_the_results_say(tiny, tmp_path):
    settings, folder, results, _ = run(tiny, tmp_path, {"merge.space": "delta"})
    bench = Workbench(settings)
    for client in results["clients"]:
        test = bench.client(client["client"]).test
        for part, accuracy in (
            ("", client["personalized"]["accuracy"]),
            ("local", client["accuracy"]["local"]),
            ("../../federated", client["accuracy"]["federated"]),
        ):
            base = AutoModelForImageClassification.from_pretrained(settings.task.model)
            place = folder / "clients" / str(client["client"]) / part
            model = PeftModel.from_pretrained(base, str(place.resolve())).eval()
            with torch.no_grad():
                logits = model(pixel_values=test["pixel_values"]).logits
                torch.testing.assert_close(logits, bench.model(load_adapter(place), test))
            assert (logits.argmax(-1) == test["labels"]).float().mean() == pytest.approx(accuracy)
            card = (place / "README.md").read_text()
            assert settings.task.model in card
            assert "PeftModel.from_pretrained" in card


def test_equal_seeds_give_equal_bits_whatever_the_order_of_replies(tiny, tmp_path):
    overrides = {"federation.fraction-train": 0.7, "lora.dropout": 0.2}
    runs = [
        run(tiny, tmp_path, overrides, name=f"run-{order}", order_seed=order) for order in range(3)
    ]
    other = run(tiny, tmp_path, {**overrides, "seed": 1}, name="other")
    first = runs[0]
    for again in runs[1:]:
        assert again[2]["digest"] == first[2]["digest"]
        assert files_of(again[1]) == files_of(first[1])
    assert len(files_of(first[1])) == 1 + 2 * 3
    assert other[2]["digest"] != first[2]["digest"]


def test_a_broken_client_is_named_and_the_run_goes_on(tiny, tmp_path):
    _, folder, results, _ = run(tiny, tmp_path, broken={1: "train", 2: "query.personalize"})
    reasons = [(item["client"], item["round"], item["kind"]) for item in results["refused"]]
    assert reasons == [(1, 1, "train"), (1, 2, "train"), (2, None, "personalize")]
    assert all("this device is broken" in item["reason"] for item in results["refused"])
    assert [client["client"] for client in results["clients"]] == [0, 1]
    assert not (folder / "clients" / "2").exists()


def test_a_client_that_answers_nonsense_is_named_and_the_run_goes_on(tiny, tmp_path):
    lying = {0: "query.describe", 1: "query.personalize", 2: "evaluate"}
    _, _, results, _ = run(tiny, tmp_path, lying=lying)
    (missing,) = results["missing"]
    assert (missing["client"], missing["kind"]) == (0, "describe")
    assert "node 1: its description is wrong: client: Input should be" in missing["reason"]
    refused = [(item["client"], item["round"], item["kind"]) for item in results["refused"]]
    assert refused == [(2, 1, "evaluate"), (2, 2, "evaluate"), (1, None, "personalize")]
    assert (
        "['accuracy', 'client', 'loss', 'num-examples', 'server-round']"
        in results["refused"][0]["reason"]
    )
    assert results["refused"][2]["reason"] == "answers round None, not 2"
    assert [client["client"] for client in results["clients"]] == [2]


def test_a_run_that_every_client_fails_fails(tiny, tmp_path):
    with pytest.raises(RunError, match="round 1: 0 of 3"):
        run(tiny, tmp_path, broken=dict.fromkeys(range(3), "train"))
    with pytest.raises(RunError, match="no client could be personalized"):
        run(tiny, tmp_path, name="b", broken=dict.fromkeys(range(3), "query.personalize"))
    with pytest.raises(RunError, match="none of the 3 clients"):
        run(tiny, tmp_path, name="c", broken=dict.fromkeys(range(3), "query.describe"))
    assert not (tmp_path / "run").exists()


def test_fewer_nodes_than_clients_run_and_the_missing_stand_in_the_results(tiny, tmp_path):
    _, _, results, _ = run(tiny, tmp_path, num_nodes=2)
    assert [client["client"] for client in results["clients"]] == [0, 1]
    assert [(item["client"], item["kind"]) for item in results["missing"]] == [(2, "describe")]


def test_more_nodes_than_clients_are_left_out_by_name(tiny, tmp_path):
    _, _, results, _ = run(tiny, tmp_path, num_nodes=4)
    assert len(results["clients"]) == 3
    assert [item["client"] for item in results["refused"]] == [3]


def test_zero_rounds_train_locally_only(tiny, tmp_path):
    _, folder, results, _ = run(tiny, tmp_path, {"federation.rounds": 0})
    assert results["rounds"] == []
    for client in results["clients"]:
        assert client["personalized"]["weight"] == 0.0
        assert "local adapter" in client["personalized"]["reason"]
        assert client["personalized"]["accuracy"] == client["accuracy"]["local"]
        assert client["accuracy"]["federated"] == client["accuracy"]["initial"]
        place = folder / "clients" / str(client["client"])
        files = [place / f / "adapter_model.safetensors" for f in ("", "local")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_a_single_class_client_works(tiny, tmp_path):
    overrides = {"data.alpha": 0.001, "data.num-clients": 6, "calibration.samples": 3}
    settings, _, results, _ = run(tiny, tmp_path, overrides)
    classes = []
    for client in range(6):
        data = Workbench(settings).client(client)
        parts = (data.train, data.calibration, data.test)
        classes.append(len(torch.cat([part["labels"] for part in parts]).unique()))
    assert min(classes) == 1
    assert len(results["clients"]) == 6


def test_the_base_model_and_the_data_are_loaded_once_a_process(tiny, tmp_path, monkeypatch):
    workbench_module._of_run.cache_clear()
    loads = []
    for name in ("load_base_model", "load_client"):
        original = getattr(Digits, name)

        def counted(self, *client, name=name, original=original):
            loads.append((name, *client))
            return original(self, *client)

        monkeypatch.setattr(Digits, name, counted)
    run(tiny, tmp_path)
    assert sorted(loads) == [
        ("load_base_model",),
        *(("load_client", client) for client in range(3)),
    ]


@pytest.mark.usefixtures("no_pictures")
def test_a_rule_is_one_function_and_one_registry_line(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(RULES, "mine", lambda evidence: 0.25)
    _, folder, results, _ = run(tiny, tmp_path, {"merge.rule": "mine", "merge.fallback": False,
                                                  "run.report": True})  # fmt: skip
    for client in results["clients"]:
        assert client["personalized"]["weight"] == client["weights"]["mine"] == 0.25
        federated, local, merged = (
            load_adapter(folder / place)
            for place in ("federated", f"clients/{client['client']}/local",
                          f"clients/{client['client']}")
        )  # fmt: skip
        for name, tensor in merged.items():
            torch.testing.assert_close(tensor, 0.25 * federated[name] + 0.75 * local[name])
    assert "mine" in (folder / "report.html").read_text()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("space", ["factors", "delta"])
def test_every_rule_can_make_the_adapter_that_is_saved(tiny, tmp_path, rule, space):
    overrides = {"merge.rule": rule, "merge.space": space, "merge.svd": space == "delta",
                 "merge.fallback": False, "local.start": "warm",
                 "federation.rounds": 1}  # fmt: skip
    _, folder, results, _ = run(tiny, tmp_path, overrides)
    for client in results["clients"]:
        assert client["personalized"]["rule"] == rule
        assert client["personalized"]["weight"] == client["weights"][rule]
        assert client["personalized"]["loss"] == client["loss"][rule]
        config = json.loads(
            (folder / "clients" / str(client["client"]) / "adapter_config.json").read_text()
        )
        assert config["r"] == 2
        assert (client["svd_error"] is None) == (space == "factors")


def test_a_merge_that_is_worse_than_an_adapter_falls_back_to_it(tiny, tmp_path):
    # A federated adapter that never trained, against a local one that did.
    overrides = {"merge.rule": "variance-trace", "federation.rounds": 1,
                 "train.local-steps": 1, "local.steps": 60, "calibration.samples": 60,
                 "data.train-samples": 0, "calibration.source": "held-out"}  # fmt: skip
    results = run(tiny, tmp_path, overrides)[2]
    fallen = [client for client in results["clients"] if client["personalized"]["fallback"]]
    assert results["summary"]["fallbacks"] == len(fallen) > 0
    for client in fallen:
        chosen = client["personalized"]
        assert chosen["fallback"] == "local"
        assert chosen["weight"] == 0.0
        assert chosen["accuracy"] == client["accuracy"]["local"]
        assert "the local adapter alone" in chosen["reason"]
        assert client["diagnosis"]["gain"] < -client["diagnosis"]["noise"]
    kept = run(tiny, tmp_path, {**overrides, "merge.fallback": False}, name="kept")[2]
    assert kept["summary"]["fallbacks"] == 0
    for client in kept["clients"]:
        assert client["personalized"]["weight"] == client["weights"]["variance-trace"]


def test_both_spaces_see_the_same_traces(tiny, tmp_path):
    factors = run(tiny, tmp_path, name="f")[2]["clients"]
    delta = run(tiny, tmp_path, {"merge.space": "delta"}, name="d")[2]["clients"]
    for left, right in zip(factors, delta, strict=True):
        assert left["traces"] == pytest.approx(right["traces"], rel=1e-4)
        assert left["accuracy"]["local"] == right["accuracy"]["local"]


def test_warm_starts_from_the_federated_adapter(tiny, tmp_path):
    _, folder, _, _ = run(tiny, tmp_path, {"local.start": "warm", "local.steps": 0})
    federated = load_adapter(folder / "federated")
    local = load_adapter(folder / "clients" / "0" / "local")
    assert all(torch.equal(tensor, local[name]) for name, tensor in federated.items())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"train.learning-rate": 1e30}, "(client 0: the loss is nan at step 2"),
        ({"calibration.samples": 2000}, "calibration.samples is 2000, more than client"),
        ({"data.test-fraction": 1e-4}, "client 0 has no test data"),
        ({"lora.target-modules": "query"}, "it has"),
        ({"task.model": "no/such/model"}, "task.model"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_half_written(tiny, tmp_path, overrides, words):
    with pytest.raises(PotaraError) as error:
        run(tiny, tmp_path, overrides)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not list(tmp_path.rglob("*.json"))


def test_a_folder_of_another_run_or_that_cannot_be_written_is_refused(tiny, tmp_path):
    _, folder, _, _ = run(tiny, tmp_path)
    before = files_of(folder)
    with pytest.raises(SettingsError, match="already used by another run"):
        run(tiny, tmp_path)
    assert files_of(folder) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be written"):
        run(tiny, tmp_path, name="file/below")


def test_stale_code_on_a_node_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(client_app, "code_version", lambda: "0123456789ab")
    with pytest.raises(SettingsError, match="stale code"):
        run(tiny, tmp_path)


def test_a_client_that_never_scores_leaves_its_metrics_out(tiny, tmp_path):
    _, _, results, _ = run(tiny, tmp_path, {"federation.fraction-evaluate": 0.0})
    assert all(record["loss"] is record["accuracy"] is None for record in results["rounds"])
    assert all(record["training_loss"] > 0 for record in results["rounds"])


def test_a_tracked_run_has_the_same_bits_and_its_curves(tiny, tmp_path):
    _, _, plain, _ = run(tiny, tmp_path, name="plain")
    _, folder, tracked, _ = run(tiny, tmp_path, {"run.tracker": "tensorboard"}, name="tracked")
    assert tracked["digest"] == plain["digest"]
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    for name in ("loss", "accuracy", "training_loss", "bytes_up"):
        curve = [(event.step, event.value) for event in events.Scalars(f"round/{name}")]
        expected = [(record["round"], pytest.approx(record[name])) for record in tracked["rounds"]]
        assert curve == expected
    (final,) = events.Scalars("final/accuracy/personalized")
    assert final.value == pytest.approx(tracked["summary"]["mean"]["accuracy"]["personalized"])


def test_a_tracked_run_that_cannot_begin_leaves_nothing(tiny, tmp_path):
    nowhere = {"task.model": str(tmp_path / "none"), "run.tracker": "tensorboard"}
    with pytest.raises(PotaraError, match=r"task\.model: there is no folder"):
        run_in_process(tiny({**nowhere, "run.results": str(tmp_path / "results")}))
    assert not (tmp_path / "results").exists()


def test_a_run_draws_no_report_where_none_is_wanted(tiny, tmp_path):
    _, folder, results, _ = run(tiny, tmp_path, {"run.report": False})
    assert len(results["clients"]) == 3
    names = {file.name for file in folder.iterdir()}
    assert "results.json" in names
    assert not names & {"report.html", "figures"}
