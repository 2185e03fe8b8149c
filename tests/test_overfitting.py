"""Learning is proven, not asserted: a narrow network learns 16 photographs by heart."""

import json
import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_overfits_sixteen_aquarium_images(shared, tmp_path):
    """Takes minutes. Evaluated on the very images it was trained on."""
    config = (
        f"configs/folder.py:path={shared / 'data' / 'aquarium'},"
        "train=train[:16],val=train[:16],size=320,width=0.125,steps=200,batch=8"
    )
    overrides = {
        "dataset.data_dir": tmp_path / "tfds",
        "dataset.max_boxes": 60,
        "model.stages": (1, 1, 2, 2, 2),
        "anchors.sizes": (20.0, 40.0, 80.0, 160.0),
        "borrow.channels": 32,
        "augment.enabled": False,
        "optimizer.learning_rate": 3e-3,
        "schedule.warmup_steps": 20,
        "eval_every": 200,
    }
    # A process of its own: the tests' programs are compiled without optimisation.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    subprocess.run(
        [
            *(sys.executable, "-m", "borrow_det.main"),
            *(f"--config={config}", f"--workdir={tmp_path / 'run'}"),
            *(f"--config.{field}={value}" for field, value in overrides.items()),
        ],
        env=environment,
        check=True,
    )
    [figures] = (tmp_path / "run" / "evaluations").glob("*/200.json")
    assert json.loads(figures.read_text())["AP50"] >= 0.9
