"""Options of an evaluation by tiles, and the merging of its views."""

import numpy as np
import pytest

from borrow_det.errors import InputError
from borrow_det.ops.nms import NmsOutput
from borrow_det.tasks.evaluation_tiles import EvaluationTiles, TileOptions


def test_a_canvas_for_tiles_holds_every_image(tiny_config):
    tiny_config.eval_batch_size = 8
    TileOptions("auto", 0.4).apply(tiny_config, [(64, 64), (100, 128), (128, 90)])
    assert tiny_config.dataset.canvas == (128, 128)
    assert tiny_config.eval_batch_size == 2  # The canvas has four times the pixels.
    assert tiny_config.evaluation.tiles == "auto"
    assert tiny_config.evaluation.tile_overlap == 0.4
    TileOptions("3x2").apply(tiny_config, [(3000, 4000)])
    assert tiny_config.eval_batch_size == 1


def test_entire_images_keep_the_canvas(tiny_config):
    tiny_config.evaluation.tiles = "auto"
    TileOptions("none").apply(tiny_config, [(600, 600)])
    assert tiny_config.evaluation.tiles == ""
    assert tiny_config.dataset.canvas == (64, 64)
    with pytest.raises(InputError, match="overlap is for tiles"):
        TileOptions("none", 0.1).apply(tiny_config, [(600, 600)])


def test_options_name_the_folder():
    assert TileOptions().suffix() == ""
    assert TileOptions("auto").suffix() == "_tiles_auto"
    assert TileOptions("2x3", 0.25).suffix() == "_tiles_2x3_overlap_0.25"
    assert not TileOptions()
    assert TileOptions(overlap=0.0)


def test_detections_of_views_are_merged_and_cut_to_the_best(tiny_config):
    """An object in the overlap of two tiles, one in each, and one that is cut off."""
    tiny_config.input_size, tiny_config.dataset.canvas = (40, 40), (40, 70)
    tiny_config.evaluation.tiles = "auto"
    tiny_config.evaluation.tile_overlap = 0.25
    tiny_config.nms.max_total = 3
    rule = EvaluationTiles.of(tiny_config)
    # Twice the canvas: 80 x 140 pixels. Tiles begin at columns 0 and 30 of the canvas.
    assert rule.views((80, 140))[0].tolist() == [
        *([0, 0, 40, 40], [0, 30, 40, 70]),
        [0, 0, 40, 70],
    ]
    boxes = np.zeros((3, 2, 4), np.float32)
    boxes[0] = [[0.25, 0.8, 0.5, 0.95], [0.0, 0.0, 0.25, 0.25]]
    boxes[1] = [[0.25, 0.05, 0.5, 0.2], [0.5, 0.5, 0.75, 0.75]]
    boxes[2, 0] = [0.0, 0.0, 1.0, 1.0]
    scores = np.array([[0.9, 0.6], [0.8, 0.7], [0.5, 0.0]], np.float32)
    mask = scores > 0
    empty = np.zeros((3, 2), np.int32)
    found = rule.merge(NmsOutput(boxes, scores, empty, mask, empty), (80, 140))
    np.testing.assert_allclose(found.scores, [0.9, 0.7, 0.6])
    pixels = found.boxes * np.tile([40, 70], 2)
    expected = [[10, 32, 20, 38], [20, 50, 30, 60], [0, 0, 10, 10]]
    np.testing.assert_allclose(pixels, expected, atol=1e-5)
