"""The notebook of the documentation runs from its first cell to its last; needs nbclient and ipykernel."""

import os
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs/notebooks/first_steps.ipynb"
LEFT_OUT = {"install", "network"}


def tags(cell):
    return set(cell.metadata.get("tags", []))


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not tags(cell) & LEFT_OUT]
    (parameters,) = (cell for cell in notebook.cells if "parameters" in tags(cell))
    parameters.source = "ITERATIONS = 4"
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "datasets"))
    done = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for file in ("batch/batch.png", "notebook/model_final.pth", "evaluation/report.html", "drawn/overview.png"):
        assert (tmp_path / "output" / file).is_file(), file
    images = [out for cell in done.cells for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
    assert len(images) == 2


def test_the_notebook_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    nbformat.validate(notebook)
