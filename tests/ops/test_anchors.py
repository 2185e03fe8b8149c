"""Numbers and places of anchors by hand and against a loop."""

import math
import types

import numpy as np
import pytest

from borrow_det.configs import base, ssd300_coco, ssd300_voc, ssd512_coco
from borrow_det.errors import InputError
from borrow_det.ops import anchors as anchor_ops

ROOT3 = 3**0.5


def config(**changes):
    return types.SimpleNamespace(**{**base.get_config().anchors.to_dict(), **changes})


def tiny(**changes):
    """Two levels on a 32 x 48 input: maps of 2 x 3 and 1 x 2."""
    fields = {
        "strides": (16, 32),
        "sizes": (8.0, 32.0),
        "aspect_ratios": ((1.0, 4.0), (1.0,)),
        "second_aspect_ratios": (1.0,),
        "second_last": "geometric",
    }
    return config(**{**fields, **changes})


def test_the_paper_has_6_6_6_and_4_anchors_per_position():
    assert anchor_ops.anchors_per_position(config()) == (6, 6, 6, 4)


# 512: maps of 64, 32, 16, 8 squared. 300: of 38, 19, 10, 5, rounded up.
@pytest.mark.parametrize(
    ("input_size", "count"),
    [
        ((512, 512), 6 * (64**2 + 32**2 + 16**2) + 4 * 8**2),
        ((300, 300), 6 * (38**2 + 19**2 + 10**2) + 4 * 5**2),
        ((256, 512), 6 * (32 * 64 + 16 * 32 + 8 * 16) + 4 * 4 * 8),
        ((200, 330), 6 * (25 * 42 + 13 * 21 + 7 * 11) + 4 * 4 * 6),
    ],
)
def test_the_number_of_anchors_by_hand(input_size, count):
    got = anchor_ops.make_anchors(config(), input_size)
    assert got.shape == (count, 4)
    assert got.dtype == np.float32
    if input_size == (512, 512):
        assert count == 32_512


def test_the_places_of_anchors_by_hand():
    got = anchor_ops.make_anchors(tiny(), (32, 48)) * [32, 48, 32, 48]
    # sqrt(8 * 32) = 16 is the first level's second size.
    expected = []
    for y, x in [(8, 8), (8, 24), (8, 40), (24, 8), (24, 24), (24, 40)]:
        expected.append([y - 4, x - 4, y + 4, x + 4])
        expected.append([y - 2, x - 8, y + 2, x + 8])  # four times as wide as high
        expected.append([y - 8, x - 8, y + 8, x + 8])
    # The last level's: sqrt(32 * side), side = sqrt(32 * 48).
    half = math.sqrt(32 * math.sqrt(32 * 48)) / 2
    for y, x in [(16, 16), (16, 48)]:
        expected.append([y - 16, x - 16, y + 16, x + 16])
        expected.append([y - half, x - half, y + half, x + half])
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_default_anchors_have_the_papers_sizes_and_shapes():
    side = 512
    shapes = anchor_ops.position_shapes(config(), (side, side))
    seconds = [math.sqrt(32 * 64), math.sqrt(64 * 128), math.sqrt(128 * 256), side]
    for level, (size, second) in enumerate(
        zip((32, 64, 128, 256), seconds, strict=True)
    ):
        ratios = (1, ROOT3, 3, 1 / ROOT3, 1 / 3) if level < 3 else (1, ROOT3, 1 / ROOT3)
        shape = shapes[level]
        np.testing.assert_allclose(shape[:-1, 1] / shape[:-1, 0], ratios, rtol=1e-6)
        np.testing.assert_allclose(shape[:-1].prod(axis=1), size**2, rtol=1e-6)
        np.testing.assert_allclose(shape[-1], [second, second], rtol=1e-6)


@pytest.mark.parametrize(
    ("last", "size"), [("side", 512), ("geometric", math.sqrt(256 * 512))]
)
def test_the_last_second_size_follows_the_field(last, size):
    sizes = (32.0, 64.0, 128.0, 256.0)
    got = anchor_ops.second_sizes(sizes, (512, 512), last)
    assert got[-1] == pytest.approx(size)
    # Not square: the square of equal area, 256 x 1024.
    assert anchor_ops.second_sizes(sizes, (256, 1024), last)[-1] == pytest.approx(size)


def test_the_next_size_is_the_inputs_side_or_the_field():
    sizes = (30.0, 264.0)
    found = [
        anchor_ops.second_sizes(sizes, (300, 300), "geometric", next_size)[-1]
        for next_size in (0.0, 315.0)
    ]
    assert found == pytest.approx([math.sqrt(264 * 300), math.sqrt(264 * 315)])


@pytest.mark.parametrize("field", ["second_last", "second_after", "clip"])
def test_unknown_values_raise_an_error_with_their_field(field):
    with pytest.raises(InputError, match=rf"anchors\.{field} is 'paper'"):
        anchor_ops.make_anchors(tiny(**{field: "paper"}), (32, 48))


def test_the_second_set_has_separate_ratios_or_is_left_out():
    with_two = tiny(second_aspect_ratios=(1.0, 4.0))
    assert anchor_ops.anchors_per_position(with_two) == (4, 3)
    shape = anchor_ops.position_shapes(with_two, (32, 48))[0]
    np.testing.assert_allclose(shape[2:], [[16, 16], [8, 32]])
    without = tiny(second_aspect_ratios=())
    assert len(anchor_ops.make_anchors(without, (32, 48))) == 2 * 6 + 2


def test_the_second_set_stands_last_or_second():
    ratios = {"second_aspect_ratios": (1.0, 9.0)}
    last = anchor_ops.position_shapes(tiny(**ratios), (32, 48))[0]
    second = anchor_ops.position_shapes(tiny(**ratios, second_after="first"), (32, 48))[
        0
    ]
    # First set 8 x 8, 4 x 16; second set 16 x 16 and, at 9:1, 16/3 x 48.
    np.testing.assert_allclose(last, [[8, 8], [4, 16], [16, 16], [16 / 3, 48]])
    np.testing.assert_allclose(second, [[8, 8], [16, 16], [16 / 3, 48], [4, 16]])


def test_clipping_is_a_choice():
    free = anchor_ops.make_anchors(tiny(), (32, 48))
    assert free.min() < 0
    assert free.max() > 1
    corners = anchor_ops.make_anchors(tiny(clip="boxes"), (32, 48))
    np.testing.assert_array_equal(corners, np.clip(free, 0, 1))
    sizes = anchor_ops.make_anchors(tiny(clip="sizes"), (32, 48))
    centers = (free[:, :2] + free[:, 2:]) / 2
    half = np.minimum(free[:, 2:] - free[:, :2], 1) / 2
    expected = np.concatenate([centers - half, centers + half], axis=1)
    np.testing.assert_allclose(sizes, expected, atol=1e-6)
    # Only the last level's second anchors, of 35 pixels, are higher than the image.
    assert (np.abs(sizes - free).max(axis=1) > 0.01).sum() == 2


def reference_anchors(side, steps, percents, last, ratios, limit=math.inf):
    """SSD's prior boxes by Caffe's loop, centres and sides in pixels: [A, 4]."""
    sizes = [side * percent / 100 for percent in percents] + [last]
    boxes = []
    for n, (step, level_ratios) in enumerate(zip(steps, ratios, strict=True)):
        count = math.ceil(side / step)
        shapes = [(sizes[n], sizes[n]), (math.sqrt(sizes[n] * sizes[n + 1]),) * 2]
        for ratio in level_ratios:
            wide = (sizes[n] / math.sqrt(ratio), sizes[n] * math.sqrt(ratio))
            shapes += [wide, wide[::-1]]
        for row in range(count):
            for column in range(count):
                for height, width in shapes:
                    center = ((row + 0.5) * step, (column + 0.5) * step)
                    boxes.append([*center, min(height, limit), min(width, limit)])
    return np.array(boxes)


SSD300_STEPS = (8, 16, 32, 64, 100, 300)
SSD300_RATIOS = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))


@pytest.mark.parametrize(
    ("settings", "count", "arguments"),
    [
        (
            ssd300_coco.get_config(),
            8732,
            (300, SSD300_STEPS, (7, 15, 33, 51, 69, 87), 315, SSD300_RATIOS),
        ),
        (
            ssd300_coco.get_config("reference=torchvision"),
            8732,
            (300, SSD300_STEPS, (7, 15, 33, 51, 69, 87), 315, SSD300_RATIOS, 300),
        ),
        (
            ssd300_voc.get_config(),
            8732,
            (300, SSD300_STEPS, (10, 20, 37, 54, 71, 88), 315, SSD300_RATIOS),
        ),
        (
            ssd512_coco.get_config(),
            24564,
            (
                512,
                (8, 16, 32, 64, 128, 256, 512),
                (4, 10, 26, 42, 58, 74, 90),
                542.72,
                ((2,), (2, 3), (2, 3), (2, 3), (2, 3), (2,), (2,)),
            ),
        ),
    ],
    ids=["ssd300_coco", "torchvision", "ssd300_voc", "ssd512_coco"],
)
def test_ssds_anchors_are_the_references(settings, count, arguments):
    side = arguments[0]
    found = anchor_ops.make_anchors(settings.anchors, (side, side)).astype(np.float64)
    assert len(found) == count
    centers, sides = (found[:, :2] + found[:, 2:]) / 2, found[:, 2:] - found[:, :2]
    found = np.concatenate([centers, sides], axis=1) * side
    np.testing.assert_allclose(found, reference_anchors(*arguments), atol=1e-4)


def test_the_first_and_the_last_anchor_of_ssd300_by_hand():
    anchors = anchor_ops.make_anchors(ssd300_coco.get_config().anchors, (300, 300))
    # 21 pixels about (4, 4); 261/sqrt(2) wide, 261 sqrt(2) high about (150, 150).
    np.testing.assert_allclose(anchors[0] * 300, [-6.5, -6.5, 14.5, 14.5], atol=1e-4)
    high, wide = 261 * math.sqrt(2) / 2, 261 / math.sqrt(2) / 2
    expected = [150 - high, 150 - wide, 150 + high, 150 + wide]
    np.testing.assert_allclose(anchors[-1] * 300, expected, atol=1e-4)


def test_centers_are_those_of_the_anchors():
    settings, size = tiny(), (40, 48)
    shapes = anchor_ops.level_shapes(size, settings.strides)
    assert shapes == ((3, 3), (2, 2))
    centers = anchor_ops.position_centers(shapes, settings.strides, size)
    anchors = anchor_ops.make_anchors(settings, size)
    per_position = np.repeat([3, 2], [9, 4])
    middle = (anchors[:, :2] + anchors[:, 2:]) / 2
    np.testing.assert_allclose(middle, np.repeat(centers, per_position, 0), atol=1e-6)
    # Position 5 of the first map is row 1, column 2.
    np.testing.assert_allclose(centers[5], [24 / 40, 40 / 48], atol=1e-6)
