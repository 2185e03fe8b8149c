import types

import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.data import learnable

SPLIT = types.SimpleNamespace(name="train")


def record(*objects, size=(100, 100)):
    """Returns a record of objects (label, side in pixels, ignored)."""
    labels, sides, ignored = zip(*objects, strict=True) if objects else ((), (), ())
    sides = np.array(sides, float)
    return {
        "height": size[0],
        "width": size[1],
        "labels": np.array(labels, int),
        "bbox": np.stack([np.zeros_like(sides)] * 2 + [sides] * 2, axis=-1),
        "area": sides**2,
        "is_crowd": np.zeros(len(sides), bool),
        "is_difficult": np.array(ignored, bool),
    }


@pytest.fixture
def config():
    config = base.get_config()
    config.input_size = (200, 200)
    return config


def observed(config, *records):
    objects = learnable.LearnableObjects(config)
    for one in records:
        objects.observe(one)
    return objects


def test_lenders_have_the_class_and_twice_the_side_in_the_same_image(config):
    objects = observed(
        config,
        # Sides double at the input size: 15 pixels are small, 17 are not.
        record((0, 10, False), (0, 20, False), (1, 15, False), (0, 17, False)),
        record((1, 30, False)),
        record((1, 10, True), (1, 30, False)),
    )
    assert (objects.objects, objects.learnable) == (7, 6)
    assert (objects.small, objects.with_lender) == (2, 1)
    assert objects.notices(SPLIT) == []


def test_a_training_set_without_lenders_is_announced(config):
    objects = observed(config, record((0, 10, False), (1, 40, False)), record())
    assert objects.notices(SPLIT) == [
        "train: 0 of 1 small objects have a lender in their image at the input size of "
        "200 x 200 pixels, so there is nothing to borrow; borrow-det inspect shows the "
        "sizes"
    ]
    objects = observed(config, record((0, 40, False)))
    (line,) = objects.notices(SPLIT)
    assert line.startswith("train: no object is small at the input size of 200 x 200")
    config.borrow.enabled = False
    assert observed(config, record((0, 40, False))).notices(SPLIT) == []


def test_a_training_set_without_learnable_objects_is_announced(config):
    objects = observed(config, record((0, 10, True), (0, 50, True)))
    assert objects.notices(SPLIT) == [
        "train has no object to learn from: it has 2 objects, all of them crowds, "
        "difficult or ignored; a run learns the background only"
    ]
    assert observed(config, record()).notices(SPLIT) == [
        "train has no object to learn from: it has no object; a run learns the "
        "background only"
    ]
