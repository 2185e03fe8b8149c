"""Work directories of earlier versions: they resume, and detect."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from borrow_det import evaluate, train
from borrow_det.errors import InputError
from borrow_det.inference.detector import Detector
from borrow_det.workdir import metadata
from tests.workdir import first_fields


@pytest.fixture
def old_workdir(tiny_run, tmp_path):
    """A run with the names of fields and values that were in use at first."""
    folder = shutil.copytree(tiny_run.workdir, tmp_path / "W")
    fields = first_fields.only(json.loads((folder / "config.json").read_text()))
    fields["evaluation"]["source_scale"] = fields["evaluation"].pop("lender_scale")
    fields["loss"]["ignored"] = "spared"
    fields["dataset"]["name"] = "coco_folder"
    # Otherwise it would have been trained with another value.
    fields["borrow"]["heads"] = tiny_run.config.borrow.heads
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def test_renamed_fields_and_values_are_read(old_workdir, tiny_run):
    config = metadata.load_config(old_workdir)
    assert config.evaluation.lender_scale == 2.0
    assert config.loss.ignored == "ignored"
    assert "source_scale" not in config.evaluation
    assert (config.dataset.name, config.dataset.bad_images) == ("folder", "error")
    assert metadata.differences(config, tiny_run.config) == {}


def test_a_differing_value_is_named_by_the_new_field(old_workdir, tiny_run):
    fields = json.loads((old_workdir / "config.json").read_text())
    fields["evaluation"]["source_scale"] = 3.0
    fields["loss"]["ignored"] = "positive"
    (old_workdir / "config.json").write_text(json.dumps(fields))
    config = metadata.load_config(old_workdir)
    assert metadata.differences(config, tiny_run.config) == {
        "evaluation.lender_scale": (3.0, 2.0),
        "loss.ignored": ("positive", "ignored"),
    }


def test_old_run_resumes_with_more_steps(old_workdir, tiny_run, capsys):
    config = tiny_run.config.copy_and_resolve_references()
    config.num_steps = config.eval_every = 6
    config.schedule.extend = "continue"
    with jax.numpy_dtype_promotion("standard"):
        metrics = train.train_and_evaluate(config, old_workdir)
    assert "resuming at step 4" in capsys.readouterr().out
    assert np.isfinite(metrics["val"]["AP"])
    assert (old_workdir / "checkpoints" / "6").is_dir()
    stored = json.loads((old_workdir / "config.json").read_text())
    assert stored["evaluation"]["lender_scale"] == 2.0
    assert stored["loss"]["ignored"] == "ignored"


def test_old_run_is_evaluated(old_workdir, tiny_run, tmp_path):
    done = evaluate.evaluate_run(old_workdir, "val", output=tmp_path / "again")
    assert done.metrics["AP"] == tiny_run.metrics["val"]["AP"]


def test_old_run_with_a_root_category_as_a_class_resumes(old_workdir, tiny_run):
    # The run as if its second class had been that of Roboflow's root.
    folder = pathlib.Path(tiny_run.config.dataset.path)
    config = tiny_run.config.copy_and_resolve_references()
    config.num_steps = config.eval_every = 5
    config.schedule.extend = "restart"
    path = old_workdir / "dataset.json"
    dataset = json.loads(path.read_text())
    copy = shutil.copytree(folder, old_workdir.parent / "fewer")
    for file in (copy / "annotations").glob("*.json"):
        coco = json.loads(file.read_text())
        (root,) = (c for c in coco["categories"] if c["id"] == 5)
        coco["categories"].remove(root)
        coco["annotations"] = [a for a in coco["annotations"] if a["category_id"] != 5]
        file.write_text(json.dumps(coco))
    config.dataset.path = str(copy)
    with jax.numpy_dtype_promotion("standard"):
        metrics = train.train_and_evaluate(config, old_workdir)
    assert np.isfinite(metrics["val"]["AP"])
    written = json.loads(path.read_text())
    for name in ("class_names", "category_ids"):
        assert written[name] == dataset[name]


def test_old_run_detects_as_before(old_workdir, tiny_run):
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    old, new = (
        Detector.load(folder)(image) for folder in (old_workdir, tiny_run.workdir)
    )
    np.testing.assert_array_equal(old.boxes, new.boxes)
    np.testing.assert_array_equal(old.scores, new.scores)


def test_an_older_architecture_is_still_refused(old_workdir, tiny_run):
    config = tiny_run.config.copy_and_resolve_references()
    config.borrow.channels = 4
    with pytest.raises(InputError, match=r"borrow\.channels=8"):
        train.prepare_run(config, old_workdir)
