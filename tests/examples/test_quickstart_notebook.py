"""The notebook examples/quickstart.ipynb runs, and equals its text form."""

import os
import shutil

import jupytext
import nbclient
import pytest

from tests.conftest import ROOT

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"
TEXT = ROOT / "examples" / "quickstart.py"


@pytest.fixture(scope="module")
def executed(scenes, tmp_path_factory):
    """The notebook after its execution in an empty folder, with a tiny config."""
    folder = tmp_path_factory.mktemp("notebook")
    shutil.copytree(scenes, folder / "scenes")
    annotations = folder / "scenes" / "annotations"
    for split in ("validation", "swapped", "alone"):
        shutil.copy(annotations / "val.json", annotations / f"{split}.json")
    config = ROOT / "tests" / "examples" / "tiny_quickstart.py"
    notebook = jupytext.read(NOTEBOOK)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "QUICKSTART_CONFIG": f"{config}:{folder / 'scenes'}",
        "QUICKSTART_WORKDIR": "runs/tiny",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "jax"),
    }
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=environment)
    return folder, notebook


def printed(notebook):
    """The text that each code cell printed, by the first line of its source."""
    return {
        cell.source.splitlines()[0]: "".join(
            output.get("text", "") for output in cell.outputs
        )
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def pictures(notebook):
    """The number of pictures that the notebook displays."""
    return sum(
        "image/png" in output.get("data", {})
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def test_notebook_trains_and_evaluates(executed):
    folder, notebook = executed
    evaluations = folder / "runs" / "tiny" / "evaluations"
    for split in ("validation", "swapped", "alone"):
        assert (evaluations / split / "4.json").is_file()
    text = printed(notebook)["detector = Detector.load(workdir)"]
    assert text.startswith("Detector(step 4, 64 x 64 pixels: stripes_0")


def test_notebook_shows_detections_of_both_scenes(executed):
    _, notebook = executed
    assert pictures(notebook) >= 2
    text = printed(notebook)[
        "print(found.boxes.shape, found.scores.shape, found.labels.shape)"
    ]
    assert text.startswith("(20, 4) (20,) (20,)")


def test_notebook_explains(executed):
    folder, _ = executed
    assert (folder / "runs" / "tiny_explanations" / "explanations.json").is_file()


def test_notebook_and_its_text_are_in_sync():
    cells = [
        [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]
        for path in (NOTEBOOK, TEXT)
    ]
    assert cells[0] == cells[1]
