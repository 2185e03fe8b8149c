"""Random tiles: their scale, place and rates, and the pixels and boxes in them."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.data.augmentation import detection as augment
from borrow_det.data.augmentation import tiles

KEYS = 2000
INPUT = (32, 48)
SIZE = (90, 131)


def settings(**changes):
    """Returns config.augment with tiles and changes."""
    defaults = {"tile": True, "tile_whole": 0.0, "flip": 0.0, "photometric": 0.0}
    options = base.get_config().augment.to_dict() | defaults | changes
    return types.SimpleNamespace(**options)


@functools.partial(jax.jit, static_argnames=("names", "count"))
def compiled(boxes, objects, size, values, *, names, count):
    options = settings(**dict(zip(names, values, strict=True)))

    def window(key):
        draws = tiles.draw(key)
        return tiles.choose_tile(draws, size, boxes, objects, options, INPUT)

    return jax.vmap(window)(jax.random.split(jax.random.key(3), count))


def windows(boxes=((0, 0, 1, 1),), objects=(True,), size=SIZE, count=KEYS, **changes):
    """Returns `count` windows in pixels of the image, float64 [count, 4]."""
    arrays = np.float32(boxes), np.array(objects), np.int32(size)
    values = tuple(jnp.float32(value) for value in changes.values())
    found = compiled(*arrays, values, names=tuple(changes), count=count)
    return np.asarray(found, np.float64) * [*size, *size]


def test_tiles_are_uniform_over_the_pixels_of_the_image_without_objects():
    found = windows(objects=[False], tile_zoom=(1.0, 1.0))
    np.testing.assert_allclose(found, np.round(found), atol=1e-4)
    start, side = found[:, :2], found[:, 2:] - found[:, :2]
    np.testing.assert_allclose(side, np.tile(INPUT, (KEYS, 1)), atol=1e-4)
    for axis in (0, 1):
        room = SIZE[axis] - INPUT[axis]
        counts = np.bincount(np.round(start[:, axis]).astype(int), minlength=room + 1)
        assert len(counts) == room + 1
        expected = KEYS / (room + 1)
        assert np.abs(counts - expected).max() < 6 * np.sqrt(expected)
        assert counts[[0, -1]].min() > 0


def test_the_logarithm_of_the_zoom_is_uniform():
    found = windows(objects=[False], size=(400, 600), tile_zoom=(0.5, 2.0))
    side = found[:, 2:] - found[:, :2]
    np.testing.assert_allclose(side[:, 1], 1.5 * side[:, 0], atol=1.5)
    zoom = INPUT[0] / side[:, 0]
    assert 0.49 < zoom.min() < 0.51
    assert 1.95 < zoom.max() < 2.05
    for share in (0.25, 0.5, 0.75):
        assert np.quantile(zoom, share) == pytest.approx(4**share / 2, rel=0.08)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((20, 200), (20, 48)), ((70, 30), (32, 30)), ((9, 7), (9, 7))],
)
def test_tiles_do_not_leave_a_smaller_image(size, expected):
    found = windows(size=size, tile_zoom=(1.0, 1.0), count=100)
    np.testing.assert_allclose(
        found[:, 2:] - found[:, :2], np.tile(expected, (100, 1)), atol=1e-4
    )
    assert found.min() >= 0
    assert (found[:, 2:] <= np.array(size) + 1e-4).all()


# Boxes in pixels: in the middle, at a border, in a corner, with a center at the border.
PLACES = [
    (40, 60, 50, 66),
    (0, 50, 3, 60),
    (80, 120, 90, 131),
    (89, 130, 91, 132),
    (32, 48, 32, 48),
]


@pytest.mark.parametrize("place", PLACES)
def test_tiles_around_an_object_are_uniform_among_those_with_its_center(place):
    box = np.array(place) / [*SIZE, *SIZE]
    found = windows([box], tile_objects=1.0, tile_zoom=(1.0, 1.0))
    center = np.array([place[0] + place[2], place[1] + place[3]]) / 2
    for axis in (0, 1):
        length, side = SIZE[axis], INPUT[axis]
        fits = [
            start
            for start in range(length - side + 1)
            # A tile that ends or starts at the center may hold it or not, by rounding.
            if start < center[axis] < start + side
            or (start == length - side and center[axis] == length)
        ]
        starts = np.round(found[:, axis]).astype(int)
        counts = np.bincount(starts, minlength=length)
        assert set(np.flatnonzero(counts)) == set(fits)
        expected = KEYS / len(fits)
        assert np.abs(counts[fits] - expected).max() < 6 * np.sqrt(expected)


def test_all_objects_are_chosen_equally_often_and_others_never():
    # Two objects in corners of the image, one tile around each; and two other boxes.
    boxes = np.zeros((6, 4))
    boxes[1], boxes[4] = [0, 0, 0.1, 0.1], [0.9, 0.9, 1, 1]
    boxes[[2, 5]] = [0.4, 0.4, 0.6, 0.6]
    objects = np.isin(np.arange(6), [1, 4])
    found = windows(boxes, objects, size=(200, 300), tile_objects=1.0)
    first = (found[:, :2] < [20, 30]).all(axis=1)
    second = (found[:, 2:] > [180, 270]).all(axis=1)
    np.testing.assert_array_equal(first, ~second)
    assert first.mean() == pytest.approx(0.5, abs=0.04)


def test_shares_of_tiles_around_objects_and_of_entire_images():
    box = np.array([45, 60, 47, 62]) / [*SIZE, *SIZE]
    found = windows([box], tile_objects=0.6, tile_whole=0.2, tile_zoom=(1.0, 1.0))
    entire = (found[:, 2:] - found[:, :2] > np.array(SIZE) - 1e-3).all(axis=1)
    assert entire.mean() == pytest.approx(0.2, abs=0.04)
    rest = found[~entire]
    holds = ((rest[:, :2] < [46, 61]) & (rest[:, 2:] > [46, 61])).all(axis=1)
    # By chance, the center is in 31 of 59 rows of tiles, and in 47 of 84 columns.
    chance = 31 / 59 * 47 / 84
    assert holds.mean() == pytest.approx(0.6 + 0.4 * chance, abs=0.04)


@pytest.fixture
def batch():
    """Sixteen images of noise with a box in whole pixels each, and an ignored one."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (16, 96, 140, 3), np.uint8)
    low = rng.integers(0, (80, 120), (16, 2, 2))
    pixels = np.concatenate([low, low + rng.integers(4, 10, (16, 2, 2))], axis=-1)
    return {
        "image": image,
        "image_size": np.tile(np.int32(SIZE), (16, 1)),
        "boxes": (pixels / [*SIZE, *SIZE]).astype(np.float32),
        "box_mask": np.ones((16, 2), bool),
        "ignore": np.tile([False, True], (16, 1)),
    }


def augmented(batch, **changes):
    options = settings(tile_zoom=(1.0, 1.0), **changes)

    @jax.jit
    def call(batch):
        key = jax.random.key(11)
        return augment.augment_batch(key, batch, options, INPUT, fill=(9.0, 9.0, 9.0))

    return jax.tree.map(np.asarray, call(batch))


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_tile_with_zoom_one_has_the_pixels_of_the_image(batch, flip):
    found = augmented(batch, flip=flip)
    keys = [jax.random.fold_in(jax.random.key(11), i) for i in range(16)]
    size = np.int32(SIZE)
    for i, key in enumerate(keys):
        objects = np.array([True, False])  # The ignored one is none.
        window = tiles.choose_tile(
            tiles.draw(key),
            size,
            batch["boxes"][i],
            objects,
            settings(tile_zoom=(1.0, 1.0)),
            INPUT,
        )
        y0, x0, y1, x1 = np.round(np.asarray(window) * [*SIZE, *SIZE]).astype(int)
        expected = batch["image"][i, y0:y1, x0:x1].astype(np.float32)
        boxes = batch["boxes"][i] * [*SIZE, *SIZE] - [y0, x0, y0, x0]
        boxes = np.clip(boxes / [*INPUT, *INPUT], 0, 1)
        if flip:
            expected = expected[:, ::-1]
            boxes = boxes[:, [0, 3, 2, 1]] * [1, -1, 1, -1] + [0, 1, 0, 1]
        np.testing.assert_allclose(found["image"][i], expected, atol=0.02)
        kept = found["box_mask"][i]
        np.testing.assert_allclose(found["boxes"][i][kept], boxes[kept], atol=1e-5)
        center = (batch["boxes"][i, :, :2] + batch["boxes"][i, :, 2:]) / 2 * SIZE
        inside = (center > [y0, x0]) & (center < [y1, x1])
        np.testing.assert_array_equal(kept, inside.all(axis=1))


def test_tiles_have_the_colors_and_mirroring_of_the_same_run_without_tiles(batch):
    gray = {**batch, "image": np.full_like(batch["image"], 90)}
    options = {"flip": 0.5, "photometric": 0.5, "expand": 0.0, "crop": False}
    with_tiles = augmented(gray, tile_whole=1.0, **options)
    without = augmented(gray, tile=False, **options)
    for name in ("image", "boxes", "box_mask"):
        np.testing.assert_array_equal(with_tiles[name], without[name])
    assert np.ptp(without["image"][:, 0, 0, 0]) > 20


def test_an_object_with_a_center_between_pixels_stays_in_its_tile():
    sides = np.random.default_rng(0).integers(2, 60, (500, 2))
    size = np.int32([217, 331])
    options = settings(tile_objects=1.0)

    @jax.jit
    @jax.vmap
    def kept(key, box):
        valid = jnp.ones(1, bool)
        draws = tiles.draw(key)
        window = tiles.choose_tile(draws, size, box, valid, options, INPUT)
        return augment.move_boxes(box, window, INPUT)[1]

    low = np.random.default_rng(1).integers(0, size - sides + 1)
    boxes = np.concatenate([low, low + sides], axis=1) / [*size, *size]
    keys = jax.random.split(jax.random.key(0), 500)
    assert np.asarray(kept(keys, boxes[:, None].astype(np.float32))).all()
