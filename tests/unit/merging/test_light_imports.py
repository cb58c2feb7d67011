"""The mathematics of the paper is ready in a notebook without a model library."""

import subprocess
import sys

CODE = """
import sys
import potara_flwr.merging
import potara_flwr.merging.diagnosis, potara_flwr.merging.rules
import potara_flwr.merging.segment, potara_flwr.merging.traces
import potara_flwr.strategies.averages
print(*({"flwr", "peft", "transformers"} & set(sys.modules)))
"""


def test_the_mathematics_loads_neither_flower_nor_a_model_library():
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []
