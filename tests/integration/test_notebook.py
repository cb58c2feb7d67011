"""The notebook runs from its start to its end, and prints what it shows."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from own_processes import HANGING

pytestmark = pytest.mark.integration

NOTEBOOK = Path(__file__).parents[2] / "docs" / "guides" / "lambda.ipynb"


def test_the_notebook_prints_what_it_shows(tmp_path):
    shown = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(shown)
    ran = NotebookClient(
        nbformat.read(NOTEBOOK, as_version=4),
        timeout=HANGING,
        resources={"metadata": {"path": tmp_path}},
    ).execute()
    assert len(printed(ran)) > 10
    assert printed(ran) == printed(shown)
    assert sum("image/png" in output.get("data", {}) for output in outputs(ran)) == 1
    assert list(tmp_path.iterdir()) == []


def outputs(notebook) -> list:
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def printed(notebook) -> list[str]:
    """Lines of text, whatever the pieces in which a busy machine delivers them."""
    texts = (
        output.get("text") or f"{output['data']['text/plain']}\n" for output in outputs(notebook)
    )
    return "".join(texts).splitlines()
