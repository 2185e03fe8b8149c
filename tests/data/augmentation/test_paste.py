"""Pasted copies: pixels and boxes against loops, their places, rows and rates."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.data.augmentation import detection as augment
from borrow_det.data.augmentation import paste, tiles
from tests.data.augmentation.paste_loops import blended, lends, meets, planned

COUNT = 32
CANVAS = (80, 104)
INPUT = (72, 96)
FILL = (9.0, 9.0, 9.0)
KEY = jax.random.key(13)
PLAIN = {"expand": 0.0, "crop": False, "flip": 0.0, "photometric": 0.0}
SETTINGS = {
    "nothing else": PLAIN,
    "windows": {"crop_tries": 5, "min_crop": 0.6, "max_expand": 1.5},
    "tiles": {"tile": True, "tile_zoom": (0.9, 1.3), "tile_whole": 0.2},
}


def settings(**changes):
    """Returns config.augment with many copies and changes."""
    many = {"paste": 1.0, "paste_count": 4, "paste_sides": (3.0, 13.0)}
    return types.SimpleNamespace(**base.get_config().augment.to_dict() | many | changes)


@pytest.fixture(scope="module")
def batch():
    """Images of noise with six boxes: small, large, ignored and absent ones.

    The boxes of the fourth row are large, and those of the last two are absent.
    """
    rng = np.random.default_rng(3)
    size = rng.integers((60, 80), np.add(CANVAS, 1), (COUNT, 2)).astype(np.int32)
    side = rng.uniform((0.05, 0.2, 0.2, 0.3), (0.2, 0.5, 0.4, 0.6), (COUNT, 2, 4))
    side = np.pad(side, ((0, 0), (0, 0), (0, 2)), constant_values=0.2)
    side = side.swapaxes(1, 2)
    low = rng.uniform(0, 1 - side)
    return {
        "image": rng.integers(0, 256, (COUNT, *CANVAS, 3), np.uint8),
        "image_size": size,
        "boxes": np.concatenate([low, low + side], axis=-1).astype(np.float32),
        "labels": rng.integers(0, 5, (COUNT, 6)).astype(np.int32),
        "box_mask": np.tile([True] * 4 + [False] * 2, (COUNT, 1)),
        "ignore": np.tile([False, False, True, False, False, False], (COUNT, 1)),
    }


def augmented(batch, first_index=0, key=KEY, overview=False, **changes):
    options = settings(**changes)

    @jax.jit
    def call(batch):
        return augment.augment_batch(
            key, batch, options, INPUT, first_index, fill=FILL, overview=overview
        )

    return jax.tree.map(np.asarray, call(batch))


@functools.cache
def samples(count):
    """Returns the draws of all examples for a number of copies, as NumPy arrays."""
    indices = jnp.arange(COUNT)
    keys = jax.vmap(functools.partial(jax.random.fold_in, KEY))(indices)
    draw = functools.partial(paste.draw, augment=settings(paste_count=count))
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(draw))(keys))


def windows(batch, options):
    """Returns the window of each example, float64 [COUNT, 4]."""

    @jax.jit
    @jax.vmap
    def window(index, size, boxes, objects):
        key = jax.random.fold_in(KEY, index)
        draws, place = augment.draw(key, options), (size, boxes, objects, options)
        if not options.tile:
            return augment.choose_window(draws, *place)
        chosen = tiles.choose_tile(tiles.draw(key), *place, INPUT)
        flip = draws.place[4] < options.flip
        return jnp.where(flip, augment.mirrored(chosen), chosen)

    objects = batch["box_mask"] & ~batch["ignore"]
    place = batch["image_size"], batch["boxes"], objects
    return np.asarray(window(np.arange(COUNT, dtype=np.int32), *place), np.float64)


def example_of(batch, i):
    return {name: value[i] for name, value in batch.items()}


@pytest.mark.parametrize("others", SETTINGS)
def test_pixels_boxes_and_labels_equal_those_of_loops(batch, others):
    options = settings(**SETTINGS[others])
    before = augmented(batch, **SETTINGS[others], paste=0.0)
    after = augmented(batch, **SETTINGS[others])
    number, flips = 0, 0
    for i, window in enumerate(windows(batch, options)):
        example, found = example_of(before, i), example_of(after, i)
        draws = jax.tree.map(lambda x, i=i: x[i], samples(4))
        copies = planned(draws, example, example_of(batch, i), window, options)
        free = np.flatnonzero(~example["box_mask"])
        image, copied = example["image"], np.zeros(INPUT, bool)
        boxes, labels, mask = (
            example[name].copy() for name in ("boxes", "labels", "box_mask")
        )
        for row, (g, flip, box) in zip(free, copies, strict=False):
            scale = np.array([*INPUT, *INPUT])
            boxes[row], labels[row], mask[row] = box / scale, labels[g], True
            original = example["boxes"][g] * scale
            one = blended(example["image"], original, box, flip, options)
            inside = np.zeros(INPUT, bool)
            y0, x0, y1, x1 = box.astype(int)
            inside[y0:y1, x0:x1] = True
            image = np.where(inside[..., None], one, image)
            copied |= inside
            number, flips = number + 1, flips + flip
        np.testing.assert_allclose(found["image"], image, atol=0.02)
        # The pixels of no copy are those of before, to the bit.
        np.testing.assert_array_equal(
            found["image"][~copied], example["image"][~copied]
        )
        np.testing.assert_array_equal(found["box_mask"], mask)
        np.testing.assert_allclose(found["boxes"], boxes, atol=1e-6)
        np.testing.assert_array_equal(found["labels"], labels)
        np.testing.assert_array_equal(found["ignore"], example["ignore"])
    assert number > COUNT / 2
    assert 0 < flips < number


def copies_in(batch, **changes):
    """Returns (example before, example after, rows of copies) of each example."""
    before, after = (
        augmented(batch, **changes | {"paste": 0.0}),
        augmented(batch, **changes),
    )
    pairs = ((example_of(before, i), example_of(after, i)) for i in range(COUNT))
    return [(old, new, new["box_mask"] & ~old["box_mask"]) for old, new in pairs]


@pytest.mark.parametrize("others", SETTINGS)
def test_copies_meet_no_object_and_have_a_lender(batch, others):
    rows = ((0, 0), (0, 6))  # Room for all copies.
    wide = {
        "boxes": np.pad(batch["boxes"], (*rows, (0, 0))),
        **{
            name: np.pad(batch[name], rows) for name in ("labels", "box_mask", "ignore")
        },
    }
    found = copies_in(batch | wide, paste_count=8, paste_scale=2.5, **SETTINGS[others])
    number = 0
    for i, (old, new, rows) in enumerate(found):
        copies = new["boxes"][rows] * [*INPUT, *INPUT]
        np.testing.assert_allclose(copies, np.round(copies), atol=1e-4)
        copies = np.round(copies)
        boxes = old["boxes"] * [*INPUT, *INPUT]
        # Ignored objects count, and those whose center is outside the window.
        taken = list(boxes[wide["box_mask"][i]])
        objects = old["box_mask"] & ~old["ignore"]
        for copy, label in zip(copies, new["labels"][rows], strict=True):
            assert not any(meets(copy, box) for box in taken)
            taken.append(copy)
            same = boxes[objects & (old["labels"] == label)]
            assert any(lends(box, copy[2:] - copy[:2], 2.5) for box in same)
        number += len(copies)
    assert number > 2 * COUNT


def test_copies_are_in_the_image_and_not_in_the_fill(batch):
    white = {**batch, "image": np.full_like(batch["image"], 255)}
    options = {"expand": 1.0, "max_expand": 3.0, "crop": False, "photometric": 0.0}
    found = copies_in(white, paste_sides=(2.0, 4.0), **options)
    number = 0
    for old, new, rows in found:
        for box in new["boxes"][rows]:
            y0, x0, y1, x1 = np.round(box * [*INPUT, *INPUT]).astype(int)
            np.testing.assert_allclose(old["image"][y0:y1, x0:x1], 255, atol=0.02)
            number += 1
    assert number > COUNT / 2
    assert max((old["image"] == 9).mean() for old, *_ in found) > 0.5


@pytest.mark.parametrize("others", ["windows", "tiles"])
def test_examples_without_copies_are_those_of_a_run_that_pastes_none(batch, others):
    without = augmented(batch, paste=0.0, **SETTINGS[others])
    half = augmented(batch, paste=0.5, **SETTINGS[others])
    chosen = samples(4).chance < 0.5
    assert 0 < chosen.sum() < COUNT
    for name in without:
        np.testing.assert_array_equal(half[name][~chosen], without[name][~chosen])
    changed = (half["image"] != without["image"]).any(axis=(1, 2, 3))
    assert changed.sum() > chosen.sum() / 2


def test_copies_are_a_function_of_the_key_and_the_index_of_the_example(batch):
    whole, again = augmented(batch, **PLAIN), augmented(batch, **PLAIN)
    last = {name: value[20:] for name, value in batch.items()}
    part = augmented(last, first_index=20, **PLAIN)
    other = augmented(batch, key=jax.random.key(14), **PLAIN)
    for name in ("image", "boxes", "labels", "box_mask"):
        np.testing.assert_array_equal(again[name], whole[name])
        np.testing.assert_allclose(part[name], whole[name][20:], atol=1e-3)
        assert (other[name] != whole[name]).any()


@pytest.mark.parametrize("free", [0, 1, 2])
def test_copies_take_free_rows_only(batch, free):
    full = {**batch, "box_mask": np.ones((COUNT, 6), bool)}
    full["box_mask"][:, [1, 4][:free]] = False
    numbers = set()
    for old, new, rows in copies_in(full, **PLAIN):
        assert set(np.flatnonzero(rows)) <= {1, 4}
        kept = old["box_mask"]
        for name in ("boxes", "labels", "ignore"):
            np.testing.assert_array_equal(new[name][kept], old[name][kept])
        assert (old["image"] != new["image"]).any() == rows.any()
        numbers.add(rows.sum())
    # The first copy takes the first row; without a free row there is none.
    assert numbers <= set(range(free + 1))
    assert max(numbers) == free


@pytest.mark.parametrize("case", ["small", "ignored", "none"])
def test_without_an_original_nothing_changes(batch, case):
    rows = {"small": {"paste_sides": (60.0, 60.0)}, "ignored": {}, "none": {}}[case]
    changes = {
        "small": {},
        "ignored": {"ignore": batch["box_mask"]},
        "none": {"box_mask": np.zeros_like(batch["box_mask"])},
    }[case]
    for old, new, _ in copies_in(batch | changes, **PLAIN | rows):
        for name in old:
            np.testing.assert_array_equal(new[name], old[name])


def test_references_have_no_copies(batch):
    options = {"overview": True, **PLAIN}
    before, after = augmented(batch, paste=0.0, **options), augmented(batch, **options)
    assert (before["image"] != after["image"]).any()
    for name in before:
        if name.startswith("reference_"):
            np.testing.assert_array_equal(after[name], before[name])


@functools.partial(jax.jit, static_argnames=("flip", "edge", "sides"))
def pasted_at(image, original, box, *, flip=False, edge=0.0, sides=(3.0, 13.0)):
    """Blends one copy of a box into an image; boxes in pixels."""
    copies = paste.Copies(
        jnp.asarray(box)[None],
        jnp.zeros(1, jnp.int32),
        jnp.array([flip]),
        jnp.array([True]),
    )
    options = settings(paste_count=1, paste_edge=edge, paste_sides=sides)
    return paste.blend_copies(image, original[None], copies, options)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(1).uniform(0, 255, (*INPUT, 3)).astype(np.float32)


def test_copies_at_the_edges_of_the_image_equal_loops(noise):
    original = np.float32([10, 20, 40, 64])
    height, width = INPUT
    places = [(0, 0), (0, width - 11), (height - 7, 0), (height - 7, width - 11)]
    for y, x in [*places, (30, width - 12), (height - 8, 40)]:
        box = np.float32([y, x, y + 7, x + 11])
        found = pasted_at(noise, original, box, edge=0.2)
        expected = blended(noise, original, box, False, settings(paste_edge=0.2))
        np.testing.assert_allclose(found, expected, atol=0.02)


def test_a_copy_of_the_largest_side_fills_a_low_input(noise):
    low = noise[:9]
    box = np.float32([0, 4, 3, 13])
    original = np.float32([0, 30, 9, 57])
    found = pasted_at(low, original, box, sides=(9.0, 30.0), edge=0.1)
    expected = blended(low, original, box, False, settings(paste_edge=0.1))
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_a_copy_is_the_mean_of_its_pixels_in_an_image_of_equal_blocks():
    # Blocks of 4 x 4 pixels of one color, whose triangles reach into their neighbors.
    colors = np.arange(6 * 8, dtype=np.float32).reshape(6, 8)
    image = np.tile(np.kron(colors, np.ones((4, 4)))[..., None], 3).astype(np.float32)
    original, box = np.float32([4, 4, 20, 28]), np.float32([20, 2, 24, 8])
    found = np.asarray(pasted_at(image, original, box))[20:24, 2:8, 0]
    # The colors are linear in the position, so that the neighbors cancel out.
    np.testing.assert_allclose(found, colors[1:5, 1:7], atol=1e-3)
    flipped = np.asarray(pasted_at(image, original, box, flip=True))[20:24, 2:8, 0]
    np.testing.assert_allclose(flipped, colors[1:5, 6:0:-1], atol=1e-3)


def test_a_mirrored_copy_is_the_mirrored_copy_of_a_mirrored_image(noise):
    original, box = np.float32([10, 20, 40, 64]), np.float32([50, 3, 57, 14])
    plain = np.asarray(pasted_at(noise, original, box))[50:57, 3:14]
    flipped = np.asarray(pasted_at(noise, original, box, flip=True))[50:57, 3:14]
    np.testing.assert_allclose(flipped, plain[:, ::-1], atol=0.02)
    assert np.abs(flipped - plain).max() > 10


def test_the_soft_edge_blends_by_its_formula():
    image = np.zeros((40, 60, 3), np.float32)
    image[:, 30:] = 100
    original, box = np.float32([5, 38, 25, 58]), np.float32([10, 4, 20, 14])
    found = np.asarray(pasted_at(image, original, box, edge=0.25))
    # Centers are at 0.05, 0.15, ..., 0.95 of the side.
    weights = np.array([0.2, 0.6, 1, 1, 1, 1, 1, 1, 0.6, 0.2])
    expected = image.copy()
    expected[10:20, 4:14] = 100 * (weights[:, None] * weights)[..., None]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    hard = np.asarray(pasted_at(image, original, box, edge=0.0))
    np.testing.assert_allclose(hard[10:20, 4:14], 100, atol=1e-3)
    assert hard[:, :30].sum() == pytest.approx(100 * 100 * 3, rel=1e-5)


@functools.cache
def many_copies(**changes):
    """Returns the copies of 2000 draws in an empty input with two large objects."""
    options = settings(**changes)
    draw = functools.partial(paste.draw, augment=options)
    boxes = jnp.array([[0, 0, 64, 96], [0, 0, 64, 32]], jnp.float32)

    @jax.jit
    @jax.vmap
    def choose(key):
        none = jnp.zeros((1, 4), jnp.float32)
        area = jnp.array([0.0, 0.0, *INPUT])
        objects = jnp.ones(2, bool)
        return paste.choose_copies(draw(key), boxes, objects, none, area, options)

    return jax.tree.map(np.asarray, choose(jax.random.split(KEY, 2000)))


def test_rates_sizes_originals_and_places_are_those_of_the_fields():
    copies = many_copies(paste=0.4, paste_sides=(4.0, 16.0), paste_flip=0.3)
    numbers = copies.present.sum(axis=1)
    assert (numbers > 0).mean() == pytest.approx(0.4, abs=0.04)
    counts = np.bincount(numbers[numbers > 0], minlength=5)[1:] / (numbers > 0).sum()
    np.testing.assert_allclose(counts, 0.25, atol=0.06)
    boxes, original = copies.boxes[copies.present], copies.originals[copies.present]
    flips = copies.mirrored[copies.present]
    assert flips.mean() == pytest.approx(0.3, abs=0.04)
    assert original.mean() == pytest.approx(0.5, abs=0.04)
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    assert (sides.min(), sides.max()) == (4, 16)
    assert (sides < 8).mean() == pytest.approx(np.log(7.5 / 4) / np.log(4), abs=0.04)
    shapes = boxes[:, 2:] - boxes[:, :2]
    ratio = np.where(original == 0, 64 / 96, 32 / 64)
    shorter = np.where(original == 0, shapes[:, 0], shapes[:, 1])
    np.testing.assert_array_equal(shorter, np.round(sides * ratio.astype(np.float32)))
    assert boxes.min() == 0
    np.testing.assert_array_equal(boxes[:, 2:].max(axis=0), INPUT)
    center = boxes[:, :2] / (np.array(INPUT) - shapes)
    np.testing.assert_allclose(center.mean(axis=0), 0.5, atol=0.03)
