"""Images of splits with tiles that the canvas shrinks are announced."""

import pytest

from borrow_det.configs import base
from borrow_det.data import native_scale, sources
from borrow_det.tasks.detection_evaluator import DetectionEvaluator


@pytest.fixture
def config():
    config = base.get_config()
    config.dataset.canvas = (100, 200)
    return config


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(100, 200), (1, 1)], ""),
        (
            [(100, 200), (101, 7)],
            "train: 1 of 2 images is larger than dataset.canvas=(100, 200) (height, "
            "width) and shrunk to fit before tiles are cut, so that small objects are "
            "smaller; the largest has 101 x 7 pixels, and dataset.canvas=(101, 200) "
            "holds all",
        ),
        (
            [(300, 20), (50, 250), (20, 20)],
            "train: 2 of 3 images are larger than dataset.canvas=(100, 200) (height, "
            "width) and shrunk to fit before tiles are cut, so that small objects are "
            "smaller; the largest has 50 x 250 pixels, and dataset.canvas=(300, 250) "
            "holds all",
        ),
    ],
)
def test_images_larger_than_the_canvas_are_counted(sizes, expected, config):
    images = [{"height": height, "width": width} for height, width in sizes]
    found = native_scale.notices("train", images, config)
    assert found == ([expected] if expected else [])


def test_only_splits_with_tiles_are_checked(drawn_config):
    drawn_config.dataset.canvas = (48, 64)
    split = sources.load(drawn_config.dataset, "train[:4]")

    def notices():
        trained = DetectionEvaluator.check_training_split(split, drawn_config)[1]
        evaluated = DetectionEvaluator(split, drawn_config).notices()
        return [
            [line for line in lines if "dataset.canvas" in line]
            for lines in (trained, evaluated)
        ]

    assert notices() == [[], []]
    drawn_config.augment.tile = True
    (line,), none = notices()
    assert none == []
    assert line.startswith("train[:4]: 4 of 4 images are larger than dataset.canvas=")
    assert line.endswith("64 x 64 pixels, and dataset.canvas=(64, 64) holds all")
    drawn_config.augment.tile, drawn_config.evaluation.tiles = False, "auto"
    assert notices() == [[], [line]]
