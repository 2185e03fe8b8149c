"""The benchmark of references: its rows at a small size, and memory by hand."""

import json

import jax
import numpy as np
import pytest

from benchmarks import ours, references
from borrow_det.tasks.detection import DetectionTask

pytestmark = pytest.mark.benchmarks


@pytest.fixture
def rows(capsys, monkeypatch):
    """Function that measures rows of a tiny network and returns them by name."""
    full_size = references.make_config

    def tiny(*args):
        config = full_size(*args)
        config.model.width = 1 / 32
        return config

    monkeypatch.setattr(references, "make_config", tiny)

    def rows(*patterns):
        flags = [f"--rows={','.join(patterns)}", "--models=narrow", "--rounds=2"]
        sizes = ["--size=64", "--memory_size=64"]
        assert references.main(["references", *flags, *sizes]) == 0
        first, *lines = map(json.loads, capsys.readouterr().out.splitlines())
        assert first["flags"]["size"] == 64
        return {line.pop("row"): line for line in lines}

    return rows


def test_tiles_with_an_overview_are_compared_with_tiles_without(rows):
    found = rows("detect/*")
    assert list(found) == ["detect/narrow/whole", "detect/narrow/nowhole"]
    for row in found.values():
        assert row["image"] == [166, 166]
        assert row["ms"].keys() == {"tiles", "overview"}
        assert row["over_tiles"].keys() == {"overview"}
        assert min(row["detections"].values()) > 0


@pytest.mark.parametrize("pattern", ["forward/narrow/maps", "train/narrow"])
def test_each_number_of_references_is_compared_with_none(rows, monkeypatch, pattern):
    monkeypatch.setattr(references, "COUNTS", (0, 2))
    (row,) = rows(pattern).values()
    assert row["ms"].keys() == {"0", "2"}
    assert row["over_0"].keys() == {"2"}
    assert "without" not in row


def test_images_and_their_maps_are_the_same_references():
    task = DetectionTask(references.make_config("narrow", 64), ours.CLASSES)
    variables = ours.draw_variables(task)
    image = ours.noise(1, 64).astype(np.float32)
    outputs = [
        jax.jit(lambda r: references._outputs(task, variables, image, r))(
            references.draw_references(task, variables, 64, given, count)
        )
        for given, count in (("images", 2), ("maps", 2), ("maps", 0))
    ]
    of_images, of_maps, alone = outputs
    for images, maps in zip(of_images, of_maps, strict=True):
        np.testing.assert_allclose(images, maps, rtol=0, atol=1e-4)
    # Classes are predicted with what is borrowed, boxes without.
    assert np.abs(of_maps[0] - alone[0]).max() > 1e-2
    np.testing.assert_allclose(of_maps[1], alone[1], rtol=0, atol=1e-4)


def test_the_memory_of_a_ring_is_that_of_the_deeper_maps_of_its_images(rows):
    (row,) = rows("memory/*").values()
    # Of 64 pixels at 1/32 of the width: 4 x 4 x 16, 2 x 2 x 32 and 16.
    values = 16 * 16 + 4 * 32 + 16
    assert row["values_of_a_reference"] == values
    ring = 8 * values * 4 / 2**20
    assert row["ring_MiB"] == row["held_MiB"] == pytest.approx(ring, abs=0.005)
    assert row["reference_MiB"] == pytest.approx(ring / 8, abs=0.005)
    assert row["program_MiB"]["ring"] > row["program_MiB"]["none"] + ring


def test_full_maps_take_what_the_documentation_states():
    task = DetectionTask(references.make_config("full", 512), ours.CLASSES)
    shapes = jax.eval_shape(
        lambda variables, image: task.maps(variables, image)[1:],
        jax.eval_shape(task.init, jax.random.key(0)),
        jax.ShapeDtypeStruct((1, 512, 512, 3), np.float32),
    )
    assert sum(level.size for level in shapes) == 819_200


def test_nine_tiles_cover_the_image():
    for size in (64, 192, 300, 512):
        assert references.tiled_image(size).shape[0] == int(2.6 * size)


def test_unknown_models_are_refused():
    with pytest.raises(ValueError, match="--models is 'wide'"):
        references.main(["references", "--models=wide"])
