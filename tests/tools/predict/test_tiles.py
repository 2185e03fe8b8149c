"""The tiles of the predict tool, with a detector that finds blobs exactly."""

import numpy as np
import pytest

from tests.tools.predict.blobs import CANVAS, boxes, run, save, scene


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tiles=3x3"],
        ["--tiles=auto"],
        ["--tile_size=64"],
        ["--tile_size=48x64", "--overlap=0.5"],
        ["--tiles=auto", "--batch=1"],
    ],
)
# Boxes across a tile's border, in a corner of four tiles, inside one, larger than all.
@pytest.mark.parametrize(
    "box", [[40, 20, 30, 9], [45, 45, 25, 25], [4, 5, 6, 7], [20, 30, 110, 12]]
)
def test_an_object_in_several_tiles_is_found_once_and_exactly(
    tmp_path, detector, arguments, box
):
    path = save(tmp_path / "a.png", scene(120, 150, red=box))
    assert run(tmp_path / "out", *arguments, "--nowhole", "--nopictures", path) == 0
    assert boxes(tmp_path / "out") == [box]


def test_the_entire_image_is_an_additional_view(tmp_path, detector):
    # Tiles of 60 without overlap each contain a part; the entire image, shrunk by two
    # to the canvas, contains the object.
    path = save(tmp_path / "a.png", scene(120, 120, red=[40, 40, 40, 40]))
    tiles = ["--tile_size=60", "--overlap=0", "--nopictures", "--batch=3"]
    assert run(tmp_path / "parts", *tiles, "--nowhole", path) == 0
    assert len(boxes(tmp_path / "parts")) == 4
    detector.tolerance = 80
    assert run(tmp_path / "whole", *tiles, path) == 0
    (box,) = boxes(tmp_path / "whole")
    np.testing.assert_allclose(box, [40, 40, 40, 40], atol=2)
    assert detector.shapes == [(3, *CANVAS, 3)] * 4


def test_images_that_a_tile_covers_are_one_view(tmp_path, detector):
    path = save(tmp_path / "a.png", scene(50, 64, red=[1, 2, 3, 4]))
    assert run(tmp_path / "out", "--tiles=auto", "--batch=1", path) == 0
    assert len(detector.shapes) == 1


@pytest.mark.parametrize(
    ("input_size", "views"),
    [
        ((32, 64), 4),  # Rows from 0, 16 and 32 overlap by the 0.2 asked for; whole.
        ((64, 64), 1),
        ((128, 128), 1),  # A larger tile would be shrunk to the canvas.
    ],
)
def test_automatic_tiles_are_not_shrunk_to_the_input(
    tmp_path, detector, monkeypatch, input_size, views
):
    monkeypatch.setattr(detector, "input_size", input_size)
    path = save(tmp_path / "a.png", scene(64, 64, red=[20, 20, 8, 8]))
    assert run(tmp_path / "out", "--tiles=auto", "--batch=1", path) == 0
    assert len(detector.shapes) == views
    assert boxes(tmp_path / "out") == [[20, 20, 8, 8]]
    large = save(tmp_path / "b.png", scene(64, 100, red=[20, 20, 8, 8]))
    detector.shapes.clear()
    assert run(tmp_path / "b", "--tiles=auto", "--batch=1", large) == 0
    assert len(detector.shapes) == {4: 7, 1: 3}[views]
