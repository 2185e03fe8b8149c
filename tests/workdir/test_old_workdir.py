"""Work directories of earlier versions: they resume, and detect."""

import json
import shutil

import jax
import numpy as np
import pytest

from borrow_det import train
from borrow_det.errors import InputError
from borrow_det.inference.detector import Detector
from borrow_det.workdir import metadata


@pytest.fixture
def old_workdir(tiny_run, tmp_path):
    """A run with the names of fields and values that were in use at first."""
    folder = shutil.copytree(tiny_run.workdir, tmp_path / "W")
    fields = json.loads((folder / "config.json").read_text())
    fields["evaluation"]["source_scale"] = fields["evaluation"].pop("lender_scale")
    fields["loss"]["ignored"] = "spared"
    for younger in ("remat", "first_stage"):
        del fields[younger]
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def test_renamed_fields_and_values_are_read(old_workdir, tiny_run):
    config = metadata.load_config(old_workdir)
    assert config.evaluation.lender_scale == 2.0
    assert config.loss.ignored == "ignored"
    assert "source_scale" not in config.evaluation
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
    with jax.numpy_dtype_promotion("standard"):
        metrics = train.train_and_evaluate(config, old_workdir)
    assert "resuming at step 4" in capsys.readouterr().out
    assert np.isfinite(metrics["val"]["AP"])
    assert (old_workdir / "checkpoints" / "6").is_dir()
    stored = json.loads((old_workdir / "config.json").read_text())
    assert stored["evaluation"]["lender_scale"] == 2.0
    assert stored["loss"]["ignored"] == "ignored"


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
