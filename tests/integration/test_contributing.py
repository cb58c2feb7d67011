"""What CONTRIBUTING.md shows works as it stands: its merge rule and its method, each in a run."""

import re
from pathlib import Path

import pytest
from clients import same_bits

from potara_flwr.in_process import run_in_process
from potara_flwr.merging.rules import RULES
from potara_flwr.methods import METHODS, Method
from potara_flwr.models.adapter import kind_of
from potara_flwr.models.lora import load_adapter
from potara_flwr.results.folder import read_results

pytestmark = pytest.mark.integration

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


def shown(section: str) -> tuple[str, str]:
    """Return the file and the registry's line that a section shows."""
    text = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    file, line = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return file, line


def registered(section: str, registry: dict, name: str, **names) -> dict:
    """Return a registry as it is with the line, with what the file defines and ``names``."""
    file, line = shown(section)
    scope = {name: registry, **names}
    exec(compile(file, f"CONTRIBUTING.md, {section}", "exec"), scope)
    exec(line.replace("...,", f"**{name},"), scope)
    return scope[name]


@pytest.fixture
def run(tiny, tmp_path):
    def go(**overrides):
        place = {"run.results": str(tmp_path / "run"), "data.test-samples": 20}
        folder = run_in_process(tiny(place | overrides))
        return folder, read_results(folder)

    return go


def test_the_rule_that_is_shown_chooses_a_single_adapter(run, monkeypatch):
    rules = registered("Add a merge rule", RULES, "RULES")
    monkeypatch.setitem(RULES, "lower-loss", rules["lower-loss"])
    _, results = run(**{"merge.rule": "lower-loss", "merge.fallback": False})
    for client in results["clients"]:
        weight = client["personalized"]["weight"]
        assert weight == client["weights"]["lower-loss"]
        assert weight in (0.0, 1.0)
        single = "federated" if weight else "local"
        assert client["personalized"]["accuracy"] == client["accuracy"][single]
        assert client["loss"]["lower-loss"] == client["loss"][single]


def test_the_method_that_is_shown_shares_factors_and_keeps_heads(run, monkeypatch):
    methods = registered("Add a method", METHODS, "METHODS", Method=Method)
    assert list(methods) == [*METHODS, "fedper"]
    monkeypatch.setitem(METHODS, "fedper", methods["fedper"])
    folder, results = run(method="fedper")
    adapters = [load_adapter(folder / "clients" / str(client)) for client in range(3)]
    parts = [
        {is_head: {k: at for k, at in adapter.items() if (kind_of(k) == "head") is is_head}
         for is_head in (True, False)}
        for adapter in adapters
    ]  # fmt: skip
    for one, other in ((0, 1), (1, 2), (2, 0)):
        assert same_bits(parts[one][False], parts[other][False])
        assert not same_bits(parts[one][True], parts[other][True])
    assert results["summary"]["optimizer_steps"]["total"] == 24
    assert results["refused"] == results["missing"] == []
