"""The mathematics of the paper is ready in a notebook without a model library."""

import subprocess
import sys

from potara_flwr import merging

CODE = """
import sys
import potara_flwr.merging
import potara_flwr.strategies.averages
print(*({"flwr", "peft", "transformers", "datasets", "pydantic", "hydra"} & set(sys.modules)))
"""


def test_the_mathematics_loads_neither_flower_nor_a_model_library():
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_the_room_shows_what_a_notebook_needs():
    assert all(hasattr(merging, name) for name in merging.__all__)
    assert {
        "variance_traces", "GradientMoments", "segment_between", "RULES", "Evidence", "diagnose"
    } <= set(merging.__all__)  # fmt: skip
