"""Augmentation of detection: painted boxes move with the pixels.

The channels of the test images show the origin of each pixel: red is the box, blue is
the image, and green is the padding of the canvas, which must have no influence.
"""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.data.augmentation import detection as augment
from borrow_det.data.augmentation import resampling

COUNT = 48  # Examples per batch, each with another transformation.
CANVAS = 64
INPUT = (48, 80)


def settings(**changes):
    """Returns config.augment with changes, as a namespace that may be traced."""
    return types.SimpleNamespace(**{**base.get_config().augment.to_dict(), **changes})


@functools.partial(jax.jit, static_argnames=("crop", "photometric", "input_size"))
def compiled(batch, expand, flip, fill, first_index, *, crop, photometric, input_size):
    changes = {"expand": expand, "crop": crop, "flip": flip, "photometric": photometric}
    key = jax.random.key(7)
    return augment.augment_batch(
        key, batch, settings(**changes), input_size, first_index, fill=fill
    )


def transform(
    batch,
    *,
    expand=0.0,
    flip=0.0,
    fill=(0.0, 0.0, 0.0),
    first_index=0,
    crop=False,
    photometric=0.0,
    input_size=INPUT,
):
    """Augments a batch with only the given changes enabled; returns NumPy arrays."""
    options = {"crop": crop, "photometric": photometric, "input_size": input_size}
    out = compiled(batch, expand, flip, fill, first_index, **options)
    return jax.tree.map(np.asarray, out)


resize = jax.jit(resampling.resize_batch, static_argnames="input_size")
move_boxes = jax.jit(resampling.move_boxes, static_argnums=2)


@pytest.fixture(scope="module")
def batch():
    """Images of different sizes with one box each.

    The second "box" is the entire image and masked out, the third is an ignored copy of
    the first, and the fourth is ignored, too, so that crops may cut it.
    """
    rng = np.random.default_rng(0)
    image = np.zeros((COUNT, CANVAS, CANVAS, 3), np.uint8)
    image[..., 1] = 255
    size = rng.integers(30, CANVAS + 1, (COUNT, 2))
    boxes = np.zeros((COUNT, 4, 4), np.float32)
    boxes[:, 1], boxes[:, 3] = [0, 0, 1, 1], [0, 0, 0.3, 0.3]
    for i, (height, width) in enumerate(size):
        low = rng.integers(0, (height - 12, width - 12))
        high = np.minimum(low + rng.integers(12, 28, 2), (height, width))
        image[i, :height, :width] = [0, 0, 255]
        image[i, low[0] : high[0], low[1] : high[1], 0] = 255
        boxes[i, [0, 2]] = np.array([*low, *high]) / [height, width, height, width]
    return {
        "image": image,
        "image_size": size.astype(np.int32),
        "boxes": boxes,
        "box_mask": np.tile([True, False, True, True], (COUNT, 1)),
        "ignore": np.tile([False, False, True, True], (COUNT, 1)),
        "image_id": np.arange(COUNT, dtype=np.int32),
    }


def painted_span(channel, axis):
    """Returns the first and last edge of painted pixels along an axis."""
    where = np.flatnonzero(channel.max(axis=1 - axis) > 127.5)
    return where[0], where[-1] + 1


STEPS = {
    "resize": {},
    "flip": {"flip": 1.0},
    "expand": {"expand": 1.0},
    "crop": {"crop": True},
    "all": {"expand": 0.5, "crop": True, "flip": 0.5},
    "all, smaller": {"expand": 0.5, "crop": True, "flip": 0.5, "input_size": (40, 36)},
}


@pytest.mark.parametrize("step", STEPS)
def test_boxes_enclose_the_same_pixels_after_augmentation(batch, step):
    out = transform(batch, **STEPS[step])
    height, width = STEPS[step].get("input_size", INPUT)
    scale = np.array([height, width, height, width])
    found = 0
    for i in range(COUNT):
        if not out["box_mask"][i, 0]:
            continue
        box = out["boxes"][i, 0] * scale
        if min(box[2:] - box[:2]) < 3:
            continue  # Too thin to have a core that is more than half red.
        red = out["image"][i, ..., 0]
        for axis in (0, 1):
            low, high = painted_span(red, axis)
            assert low == pytest.approx(box[axis], abs=1), (i, axis)
            assert high == pytest.approx(box[axis + 2], abs=1), (i, axis)
        found += 1
    assert found >= COUNT // 2
    kept = out["box_mask"]
    # The only object is what every crop must hold; the other is not asked for.
    assert kept[:, 0].all()
    # The ignored copy goes where the box goes.
    np.testing.assert_array_equal(out["boxes"][:, 2], out["boxes"][:, 0])
    np.testing.assert_array_equal(out["ignore"][:, 2:], kept[:, 2:])
    assert kept[:, 3].all() == (not STEPS[step].get("crop", False))
    np.testing.assert_array_equal(kept[:, 2], kept[:, 0])
    assert not kept[:, 1].any()


@pytest.mark.parametrize("step", STEPS)
def test_padding_has_no_weight_and_coverage_is_exact(batch, step):
    out = transform(batch, **STEPS[step])
    assert out["image"].dtype == np.float32
    assert np.abs(out["image"][..., 1]).max() == 0
    # All blue there is, is the area of the image's own box in the result.
    box = out["boxes"][:, 1].astype(np.float64)
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    blue = np.mean(out["image"][..., 2], axis=(1, 2), dtype=np.float64) / 255
    np.testing.assert_allclose(blue, area, atol=2e-5)
    assert (area.min() < 0.5) == ("expand" in STEPS[step])


def test_other_fields_of_a_batch_do_not_change(batch):
    out = transform(batch)
    np.testing.assert_array_equal(out["image_id"], batch["image_id"])
    np.testing.assert_array_equal(out["image_size"], np.tile(INPUT, (COUNT, 1)))
    np.testing.assert_allclose(out["boxes"], batch["boxes"], atol=1e-6)


def test_an_example_does_not_depend_on_its_batch(batch):
    options = {"expand": 0.5, "crop": True, "flip": 0.5}
    whole = transform(batch, **options)
    half = COUNT // 2
    turned = jax.tree.map(lambda x: np.concatenate([x[half:], x[:half]]), batch)
    # The second half comes first, but keeps its indices in the global batch.
    part = transform(turned, **options, first_index=half)
    for name in ("image", "boxes", "box_mask", "ignore"):
        np.testing.assert_array_equal(part[name][:half], whole[name][half:])
    assert not np.array_equal(part["boxes"][half:, 0], whole["boxes"][:half, 0])


def test_a_flip_mirrors_the_image(batch):
    plain, mirrored = transform(batch), transform(batch, flip=1.0)
    np.testing.assert_allclose(mirrored["image"], plain["image"][:, :, ::-1], atol=0.01)


def test_the_fill_is_not_distorted(batch):
    out = transform(batch, expand=1.0, photometric=1.0, fill=(10.0, 20.0, 30.0))
    scale = np.array([*INPUT, *INPUT])
    filled = 0
    for image, box in zip(out["image"], out["boxes"][:, 1] * scale, strict=True):
        y, x = np.mgrid[: INPUT[0], : INPUT[1]]
        outside = (y + 1 < box[0]) | (y > box[2]) | (x + 1 < box[1]) | (x > box[3])
        np.testing.assert_allclose(image[outside] - [10, 20, 30], 0, atol=1e-5)
        filled += outside.sum()
    assert filled > 1000
    assert np.isfinite(out["image"]).all()
    assert out["image"].min() >= 0
    assert out["image"].max() <= 255


reference = jax.jit(jax.image.resize, static_argnums=(1, 2))


@pytest.mark.parametrize("size", [(40, 24), (100, 17)])
def test_resizing_equals_jax_image_resize(size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 64, 48, 3), dtype=np.uint8)
    got = resize(image, np.int32([[64, 48], [50, 31]]), input_size=size)
    for i, valid in enumerate([image[0], image[1, :50, :31]]):
        shape = (*size, 3)
        expected = reference(valid.astype(np.float32), shape, "linear")
        np.testing.assert_allclose(got[i], expected, atol=1e-3)


def test_cropping_equals_jax_image_scale_and_translate(batch):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (COUNT, CANVAS, CANVAS, 3), dtype=np.uint8)
    size = np.full((COUNT, 2), CANVAS, np.int32)
    before = np.tile(np.float32([0.4, 0.4, 0.6, 0.6]), (COUNT, 4, 1))
    full = {**batch, "image": noise, "image_size": size, "boxes": before}
    out = transform(full, crop=True)
    # The window, back from what it made of a box that is not clipped.
    before, after = before[:, 0], out["boxes"][:, 0]
    extent = (before[:, 2:] - before[:, :2]) / (after[:, 2:] - after[:, :2])
    start = before[:, :2] - after[:, :2] * extent
    known = (after > 0).all(axis=1) & (after < 1).all(axis=1)
    assert np.sum(known & (extent < 0.9).any(axis=1)) > 5

    def reference(image, start, extent):
        scale = jnp.array(INPUT, jnp.float32) / (extent * CANVAS)
        shift = -start * CANVAS * scale
        shape = (*INPUT, 3)
        return jax.image.scale_and_translate(
            image.astype(jnp.float32), shape, (0, 1), scale, shift, "linear"
        )

    expected = jax.jit(jax.vmap(reference))(noise, start, extent)
    np.testing.assert_allclose(out["image"][known], np.array(expected)[known], atol=0.1)


def test_without_augmentation_images_are_only_resized(batch):
    @jax.jit
    def augment_batch(batch):
        key = jax.random.key(0)
        options = settings(enabled=False)
        return augment.augment_batch(key, batch, options, INPUT, fill=(0, 0, 0))

    out = augment_batch(batch)
    np.testing.assert_allclose(out["image"], transform(batch)["image"], atol=0.01)
    for name in ("boxes", "box_mask", "ignore"):
        np.testing.assert_array_equal(out[name], batch[name])
    np.testing.assert_array_equal(out["image_size"], np.tile(INPUT, (COUNT, 1)))


def test_padding_of_a_batch_is_finite(batch):
    empty = jax.tree.map(np.zeros_like, batch)
    out = transform(empty, expand=0.5, crop=True, flip=0.5)
    assert all(np.isfinite(x).all() for x in out.values())
    resized = resize(empty["image"], empty["image_size"], input_size=(8, 8))
    np.testing.assert_array_equal(resized, np.zeros((COUNT, 8, 8, 3)))


# Box in the image; box in the window [.25, .25, .75, .75]; whether it stays.
MOVED = [
    ([0.25, 0.25, 0.75, 0.75], [0, 0, 1, 1], True),
    ([0.5, 0.375, 0.625, 0.5], [0.5, 0.25, 0.75, 0.5], True),
    # Reaches out, centre inside: clipped.
    ([0.125, 0.5, 0.5, 1.0], [0, 0.5, 0.5, 1], True),
    # Reaches in, centre outside: gone, however much of it is seen.
    ([0.0, 0.25, 0.4375, 0.75], [0, 0, 0.375, 1], False),
    ([0.5, 0.8, 0.6, 0.9], [0.5, 1, 0.7, 1], False),
    # Side of 1/40: 1.6 pixels of 64 in the window, and 0.8 for the next.
    ([0.5, 0.5, 0.5125, 0.625], [0.5, 0.5, 0.525, 0.75], True),
    ([0.5, 0.5, 0.50625, 0.625], [0.5, 0.5, 0.5125, 0.75], False),
]


@pytest.mark.parametrize("flip", [False, True])
def test_moved_boxes_computed_by_hand(flip):
    before, after, stays = (np.array(column) for column in zip(*MOVED, strict=True))
    window = np.float32([0.25, 0.25, 0.75, 0.75])
    if flip:
        window, after = window[[0, 3, 2, 1]], after[:, [0, 3, 2, 1]]
        after[:, [1, 3]] = 1 - after[:, [1, 3]]
    got, kept = move_boxes(before.astype(np.float32), jnp.asarray(window), (64, 64))
    np.testing.assert_allclose(got, after, atol=1e-6)
    np.testing.assert_array_equal(kept, stays)
