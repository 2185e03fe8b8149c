"""Learning is proven, not asserted: a narrow network learns 16 photographs by heart."""

import json
import os
import subprocess
import sys

import pytest

# Towers, one head for all levels, focal loss and GIoU, as in configs/coco_modern.py.
MODERN = {
    "head.depth": 4,
    "head.shared": True,
    "head.channels": 32,
    "anchors.aspect_ratios": ((1.0, 2.0, 0.5),) * 4,
    "loss.classification": "focal",
    "loss.box": "giou",
    "loss.localization": 2.0,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("heads", "steps"), [({}, 200), (MODERN, 300)], ids=["ssd", "modern"]
)
def test_overfits_sixteen_aquarium_images(shared, tmp_path, heads, steps):
    """Takes minutes. Evaluated on the very images it was trained on."""
    config = (
        f"configs/folder.py:path={shared / 'data' / 'aquarium'},"
        f"train=train[:16],val=train[:16],size=320,width=0.125,steps={steps},batch=8"
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
        "eval_every": steps,
        **heads,
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
    [figures] = (tmp_path / "run" / "evaluations").glob(f"*/{steps}.json")
    assert json.loads(figures.read_text())["AP50"] >= 0.9
