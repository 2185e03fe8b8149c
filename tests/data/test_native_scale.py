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


@pytest.mark.parametrize(
    ("tile", "canvas", "announced"),
    [
        (False, (300, 250), False),
        (True, (300, 250), True),
        (True, (100, 101), True),
        (True, (100, 100), False),
    ],
)
def test_measurements_in_entire_images_are_announced_with_tiles(
    tile, canvas, announced, config
):
    config.input_size, config.dataset.canvas = (100, 100), canvas
    config.augment.tile = tile
    expected = (
        "objects are measured in entire images of 100 x 100 pixels, and augment.tile "
        "trains on tiles, where they are larger: to measure them there, set "
        f"augment.tile=False and input_size={canvas} (dataset.canvas)"
    )
    found = native_scale.notices_of_measurement(config)
    assert found == ([expected] if announced else [])


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
