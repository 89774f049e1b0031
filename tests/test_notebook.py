"""The notebook of first steps: it is kept without outputs, and runs from start to end."""

import json

import pytest
from paths import ROOT

NOTEBOOK = ROOT / "examples" / "first_steps.ipynb"


def test_outputs_are_not_kept():
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 5
    assert not any(cell["outputs"] or cell["execution_count"] for cell in code)


@pytest.mark.slow
def test_it_trains_and_draws():
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    import nbformat

    notebook = nbformat.read(NOTEBOOK, 4)
    check = nbformat.v4.new_code_cell("assert after > before + 3, (before, after)")
    notebook.cells.append(check)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    drawn = [cell for cell in notebook.cells if "image/png" in json.dumps(cell)]
    assert len(drawn) == 2
