"""Lenders of small objects against brute force."""

import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.tools.inspect import lenders
from borrow_det.tools.inspect.objects import Objects

INPUT = (200, 400)  # Not square, so that the axes cannot be mixed up.


def random_boxes(rng, count):
    sides = rng.choice([4, 8, 16, 31, 32, 64], (count, 2)) / 256
    start = rng.uniform(0, 1 - sides)
    return np.concatenate([start, start + sides], axis=1).astype(np.float32)


def objects_of(boxes, labels, images):
    """The objects of a split; the fields that lenders do not need are empty."""
    found = [
        lenders.in_image(boxes[images == i], labels[images == i], 2.0, INPUT)
        for i in range(images.max() + 1)
    ]
    has_lender, distance = (np.concatenate(part) for part in zip(*found, strict=True))
    return Objects(
        *(boxes, labels, images, has_lender, distance),
        annotated=np.zeros((0, 4)),
        numbers=np.zeros(0, np.int64),
        num_images=int(images.max()) + 1,
        ignored=0,
        without_area=0,
        most_boxes=0,
    )


def side(box):
    return np.sqrt(np.prod(box[2:].astype(float) - box[:2]))


def lends(boxes, labels, other, k):
    larger = side(boxes[other]) >= 2 * side(boxes[k]) * (1 - 1e-5)
    return larger and labels[other] == labels[k]


@pytest.mark.parametrize("count", [0, 1, 7, 80])
def test_lenders_of_an_image_and_their_distance_are_those_of_all_pairs(count):
    rng = np.random.default_rng(count)
    boxes, labels = random_boxes(rng, count), rng.integers(0, 3, count)
    has_lender, distance = lenders.in_image(boxes, labels, 2.0, INPUT)
    assert has_lender.shape == distance.shape == (count,)
    centers = (boxes[:, :2].astype(float) + boxes[:, 2:]) / 2 * INPUT
    for k in range(count):
        apart = [
            np.abs(centers[n] - centers[k]).max()
            for n in range(count)
            if lends(boxes, labels, n, k)
        ]
        assert has_lender[k] == bool(apart)
        if apart:
            assert distance[k] == pytest.approx(min(apart), abs=1e-3)
        else:
            assert np.isnan(distance[k])


def test_lenders_of_a_group_are_in_its_other_images():
    rng = np.random.default_rng(1)
    boxes, labels = random_boxes(rng, 300), rng.integers(0, 2, 300).astype(np.int32)
    images = np.sort(rng.integers(0, 30, 300)).astype(np.int32)
    groups = [None if i % 5 == 0 else str(i % 7) for i in range(30)]
    found = lenders.in_group(objects_of(boxes, labels, images), groups, 2.0)
    for k in range(300):
        others = [
            n
            for n in range(300)
            if images[n] != images[k]
            and groups[images[k]] is not None
            and groups[images[n]] == groups[images[k]]
            and lends(boxes, labels, n, k)
        ]
        assert found[k] == bool(others)
    assert 0 < found.sum() < 300


def test_figures_count_small_objects_by_place_of_the_lender():
    # Image 0 has a lender of its own small object; images 1 and 2 are a group.
    boxes = np.array(
        [
            *([0.1, 0.1, 0.12, 0.12], [0.5, 0.1, 0.6, 0.2]),
            *([0.1, 0.1, 0.12, 0.12], [0.5, 0.5, 0.6, 0.6]),
        ],
        np.float32,
    )
    labels = np.zeros(4, np.int32)
    objects = objects_of(boxes, labels, np.array([0, 0, 1, 2], np.int32))
    small = np.array([True, False, True, False])
    config = base.get_config()
    found = lenders.measure(objects, small, ["a", "b", "b"], "video", config)
    half = {"objects": 1, "share": 0.5}
    assert (found["small"], found["groups"], found["group_field"]) == (2, 1, "video")
    assert found["in_image"] == found["in_group"] == half
    assert found["in_image_or_group"] == {"objects": 2, "share": 1.0}
    # The centers are 0.44 apart along y, 88 pixels: beyond 54, not beyond 114.
    assert found["distance"] == pytest.approx([88.0] * 3, abs=0.01)
    assert [(f["field"], f["objects"]) for f in found["fields"]] == [
        *((108, 0), (228, 1), (340, 1), (468, 1)),
    ]


def test_fields_are_those_of_the_trunk_and_the_heads_of_the_config():
    config = base.get_config()
    config.model.stages = (1, 1, 1, 1, 1)
    assert lenders.receptive_fields(config)[0] == ("conv4_3", 54)
    config.head.depth = 4  # Four more convolutions at a stride of 8.
    assert lenders.receptive_fields(config)[0] == ("conv4_3", 54 + 4 * 2 * 8)
    config.model.trunk = "ssd300"
    config.anchors.strides = (8, 16, 32, 64, 100, 300)
    assert [name for name, _ in lenders.receptive_fields(config)][1] == "conv_fc7"
