"""The config of a run of seconds: `--config=tests/tiny_config.py:FOLDER` of scenes."""

import pathlib
from typing import Any

import ml_collections

from borrow_det.configs import base

_TILES = {
    "augment.tile": True,
    "augment.tile_zoom": (1.5, 2.0),
    "evaluation.tiles": "2x2",
}
# Fields of runs with references, by kind. Groups of the scenes: three images and nine,
# so that some references are absent.
REFERENCES: dict[str, dict[str, Any]] = {
    "none": {},
    "overview": {**_TILES, "references.kind": "overview"},
    "group": {
        **_TILES,
        "references.kind": "group",
        "references.count": 3,
        "references.field": "_(1?)",
    },
}


def get_config(folder: str) -> ml_collections.ConfigDict:
    """The run on a folder of 64-pixel scenes (tests/conftest.py makes one)."""
    config = base.get_config()
    config.num_steps = 4
    config.batch_size = 4
    config.eval_batch_size = 4
    config.input_size = (64, 64)
    config.log_every = 2
    config.eval_every = 4
    config.checkpoint_every = 2
    config.dataset.name = "folder"
    config.dataset.path = folder
    config.dataset.data_dir = str(pathlib.Path(folder) / "prepared")
    config.dataset.eval_splits = ("val",)
    config.dataset.canvas = (64, 64)
    config.dataset.max_boxes = 12
    config.model.width = 1 / 32
    config.model.stages = (1, 1, 1, 1, 1)
    config.model.norm = "group"
    config.model.group_size = 4
    config.borrow.levels = (0,)
    config.borrow.channels = 8
    config.anchors.sizes = (7.0, 14.0, 28.0, 56.0)
    config.anchors.aspect_ratios = ((1.0, 2.0, 0.5),) * 4
    config.nms.max_per_class = 40
    config.nms.max_total = 20
    config.augment.crop_tries = 5
    config.optimizer.learning_rate = 2e-3
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 0
    config.report.num_pictures = 2
    return config
