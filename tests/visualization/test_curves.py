"""Learning curves of a run."""

import json

import numpy as np
import PIL.Image

from borrow_det.visualization import curves


def test_panels_show_losses_learning_rate_and_metrics_of_splits(tmp_path, monkeypatch):
    records = [
        {"step": 1, "loss": 4.0, "loss/matching": None, "learning_rate": 0.1},
        {"step": 2, "loss": 2.0, "loss/matching": 1.0, "images_per_second": 7.0},
        {"step": 2, "validation/AP": 0.5, "validation/AP50_small": None},
        {"step": 2, "validation/AP/cat": 0.1, "train[:16]/AR_100": 0.25},
        {"step": 2, "val/top1": 0.5, "val/loss": 1.5},
    ]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    drawn = {}
    monkeypatch.setattr(
        curves, "_plot", lambda axes, title, panel: drawn.update({title: panel})
    )
    panels = curves.learning_curves(path, tmp_path / "curves.png")
    assert panels == ["loss", "learning rate", "validation", "train[:16]", "val"]
    assert drawn == {
        "loss": {
            "loss": [(1, 4.0), (2, 2.0)],
            "loss/matching": [(2, 1.0)],
            "val/loss": [(2, 1.5)],
        },
        "learning rate": {"learning_rate": [(1, 0.1)]},
        "validation": {"AP": [(2, 0.5)]},
        "train[:16]": {"AR_100": [(2, 0.25)]},
        "val": {"top1": [(2, 0.5)]},
    }
    monkeypatch.undo()
    curves.learning_curves(path, tmp_path / "curves.png")
    assert np.array(PIL.Image.open(tmp_path / "curves.png")).std() > 5


def test_without_panels_no_file_is_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "images_per_second": 2.0}\n')
    assert curves.learning_curves(path, tmp_path / "curves.png") == []
    assert not (tmp_path / "curves.png").exists()
