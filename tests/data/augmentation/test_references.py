"""References on the device change like their example, and are entire images."""

import types

import jax
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.data.augmentation import detection as augment
from borrow_det.data.augmentation import references

COUNT = 24
CANVAS = (60, 80)
INPUT = (32, 48)


@pytest.fixture(scope="module")
def batch():
    """Images of noise of several sizes; four boxes, of which the last is padding."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (COUNT, *CANVAS, 3), np.uint8)
    size = rng.integers((40, 50), np.add(CANVAS, 1), (COUNT, 2)).astype(np.int32)
    for pixels, (height, width) in zip(image, size, strict=True):
        pixels[height:], pixels[:, width:] = 255, 255
    low = rng.uniform(0, 0.7, (COUNT, 4, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.3, low.shape)], axis=-1)
    boxes[:, 2] = boxes[:, 1] * 0.001  # Too small to be seen.
    return {
        "image": image,
        "image_size": size,
        "boxes": boxes.astype(np.float32),
        "labels": np.tile(np.int32([2, 0, 1, 0]), (COUNT, 1)),
        "box_mask": np.tile([True, True, True, False], (COUNT, 1)),
        "ignore": np.tile([False, True, False, False], (COUNT, 1)),
    }


def transform(batch, overview=False, **changes):
    options = base.get_config().augment.to_dict() | changes

    @jax.jit
    def call(batch):
        return augment.augment_batch(
            jax.random.key(5),
            batch,
            types.SimpleNamespace(**options),
            INPUT,
            fill=(7.0, 8.0, 9.0),
            overview=overview,
        )

    return jax.tree.map(np.asarray, call(batch))


def entire(batch, **changes):
    """Returns the batch whose windows are entire images."""
    changes = {"tile": False, "expand": 0.0, "crop": False} | changes
    return transform(batch, **changes)


def as_references(batch, order):
    """Adds the images of a batch, in some orders, as references: N of each."""
    sources = dict(zip(references.FIELDS, list(batch), strict=False))
    mask = np.ones((COUNT, len(order)), bool)
    return {
        **batch,
        **{
            name: np.stack([batch[source][o] for o in order], axis=1)
            for name, source in sources.items()
        },
        "reference_mask": mask,
    }


@pytest.mark.parametrize("tile", [True, False])
def test_the_overview_is_the_entire_image_with_colors_and_mirroring_of_the_window(
    batch, tile
):
    found = transform(batch, overview=True, tile=tile, tile_whole=0.1)
    without = transform(batch, tile=tile, tile_whole=0.1)
    for name in without:  # The examples themselves do not change.
        np.testing.assert_array_equal(found[name], without[name])
    # An image whose window is entire has the same draws of colors and mirroring.
    expected = entire(batch)
    for name in ("image", "boxes", "box_mask", "ignore", "labels"):
        value = found[f"reference_{name}"]
        assert value.shape == (COUNT, 1, *expected[name].shape[1:])
        np.testing.assert_allclose(value[:, 0], expected[name], atol=2e-3)
    size = np.tile(np.int32(INPUT), (COUNT, 1, 1))
    np.testing.assert_array_equal(found["reference_size"], size)
    assert found["reference_mask"].shape == (COUNT, 1)
    assert found["reference_mask"].all()
    # Boxes of less than a pixel are left out, as in windows.
    kept = np.tile([True, True, False, False], (COUNT, 1))
    np.testing.assert_array_equal(found["reference_box_mask"][:, 0], kept)
    mirrored = found["reference_boxes"][:, 0, 0, 1] != batch["boxes"][:, 0, 1]
    assert 4 < mirrored.sum() < COUNT - 4


def test_boxes_of_the_overview_computed_by_hand(batch):
    found = transform(batch, overview=True, tile=True, flip=1.0)
    y0, x0, y1, x1 = np.moveaxis(batch["boxes"][:, :2], -1, 0)
    expected = np.stack([y0, 1 - x1, y1, 1 - x0], axis=-1)
    np.testing.assert_allclose(found["reference_boxes"][:, 0, :2], expected, atol=1e-6)


def test_pixels_of_the_overview_are_distorted_like_those_of_the_tile(batch):
    colors = np.random.default_rng(1).integers(0, 256, (COUNT, 1, 1, 3), np.uint8)
    plain = {**batch, "image": np.tile(colors, (1, *CANVAS, 1))}
    found = transform(plain, overview=True, tile=True, photometric=1.0)
    tile, overview = found["image"], found["reference_image"][:, 0]
    np.testing.assert_allclose(overview, tile, atol=0.02)
    np.testing.assert_allclose(tile - tile[:, :1, :1], 0, atol=0.02)
    changed = np.abs(tile[:, 0, 0] - colors[:, 0, 0]).max(axis=1) > 1
    assert changed.mean() > 0.9


def test_references_of_a_group_change_like_their_example(batch):
    order = [np.roll(np.arange(COUNT), shift) for shift in (5, 0)]
    found = transform(as_references(batch, order))
    for name in ("image", "boxes", "box_mask", "ignore", "labels"):
        for n, o in enumerate(order):
            # The images of the references in the places of the examples, and with the
            # examples' draws.
            other = {k: v[o] for k, v in batch.items()}
            np.testing.assert_allclose(
                found[f"reference_{name}"][:, n], entire(other)[name], atol=2e-3
            )
    without = transform(batch)
    for name in without:
        np.testing.assert_array_equal(found[name], without[name])


def test_without_augmentation_references_are_only_resized(batch):
    found = transform(batch, overview=True, enabled=False)
    for name in ("image", "boxes", "labels", "box_mask", "ignore"):
        np.testing.assert_array_equal(found[f"reference_{name}"][:, 0], found[name])
    order = [np.roll(np.arange(COUNT), 3)]
    group = transform(as_references(batch, order), enabled=False)
    for name in ("image", "boxes", "labels", "box_mask", "ignore"):
        np.testing.assert_array_equal(
            group[f"reference_{name}"][:, 0], found[name][order[0]]
        )
    assert group["reference_size"].tolist() == [[list(INPUT)]] * COUNT


def test_absent_references_stay_absent(batch):
    rows = as_references(batch, [np.arange(COUNT)])
    rows["reference_mask"] = np.arange(COUNT)[:, None] % 2 == 0
    rows["reference_box_mask"] &= rows["reference_mask"][..., None]
    found = transform(rows)
    np.testing.assert_array_equal(found["reference_mask"], rows["reference_mask"])
    assert not found["reference_box_mask"][1::2].any()
    assert found["reference_box_mask"][::2].any()
    present = transform(as_references(batch, [np.arange(COUNT)]))
    np.testing.assert_array_equal(found["reference_image"], present["reference_image"])
