import types

import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.data import learnable
from borrow_det.data.groups import make_groups

SPLIT = types.SimpleNamespace(name="train")


def record(*objects, size=(100, 100), corners=()):
    """Returns a record of objects (label, side in pixels, ignored)."""
    labels, sides, ignored = zip(*objects, strict=True) if objects else ((), (), ())
    sides = np.array(sides, float)
    corners = np.reshape(corners or [(0, 0)] * len(sides), (-1, 2)).T
    return {
        "height": size[0],
        "width": size[1],
        "labels": np.array(labels, int),
        "bbox": np.stack([*corners, sides, sides], axis=-1).astype(float),
        "area": sides**2,
        "is_crowd": np.zeros(len(sides), bool),
        "is_difficult": np.array(ignored, bool),
    }


@pytest.fixture
def config():
    config = base.get_config()
    config.input_size = (200, 200)
    config.dataset.canvas = (2000, 2000)
    return config


def observed(config, *records, groups=None):
    found = None if groups is None else make_groups(groups)
    objects = learnable.LearnableObjects(config, found)
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
    # Pasted copies are small, and have a lender.
    config.borrow.enabled, config.augment.paste = True, 0.5
    assert observed(config, record((0, 40, False))).notices(SPLIT) == []
    assert observed(config, record()).notices(SPLIT) != []


def counts(objects):
    return objects.small, objects.with_lender


def test_with_tiles_objects_are_small_at_their_own_scale(config):
    config.augment.tile = True
    # A tile of 200 x 200 pixels: 32 pixels are small, which are 3.2 of the input.
    large = {"size": (2000, 2000)}
    assert counts(observed(config, record((0, 32, False), **large))) == (1, 0)
    assert counts(observed(config, record((0, 33, False), **large))) == (0, 0)
    # A smaller image fills the input, as without tiles.
    assert counts(observed(config, record((0, 16, False)))) == (1, 0)
    assert counts(observed(config, record((0, 17, False)))) == (0, 0)
    # A lower one is resized in one direction: 22 x 22 are 44 x 22 pixels.
    low = {"size": (100, 2000)}
    assert counts(observed(config, record((0, 22, False), **low))) == (1, 0)
    assert counts(observed(config, record((0, 23, False), **low))) == (0, 0)
    # A canvas of half the image halves the scale.
    config.dataset.canvas = (3000, 1000)
    assert counts(observed(config, record((0, 64, False), **large))) == (1, 0)
    assert counts(observed(config, record((0, 65, False), **large))) == (0, 0)
    config.augment.enabled = False  # No tiles, then: 33 are 3.3 pixels.
    assert counts(observed(config, record((0, 33, False), **large))) == (1, 0)


@pytest.mark.parametrize(("distance", "found"), [(150, 1), (189, 1), (190, 0)])
def test_without_references_lenders_are_in_the_same_tile(config, distance, found):
    config.augment.tile = True
    # The centers are 10 pixels farther apart than the corners.
    for corners in ([(0, 0), (distance, 0)], [(0, 0), (0, distance)]):
        objects = record(
            (0, 20, False), (0, 40, False), size=(1000, 1000), corners=corners
        )
        assert counts(observed(config, objects)) == (1, found)


@pytest.mark.parametrize(("side", "found"), [(199, 0), (200, 1)])
def test_lenders_in_the_overview_are_larger_by_the_ratio_of_scales(config, side, found):
    config.augment.tile = True
    # The overview is a fifth of the image: 200 pixels are 40, twice those of the tile.
    image = record(
        (0, 20, False),
        (0, side, False),
        size=(1000, 1000),
        corners=[(0, 0), (700, 700)],
    )
    assert counts(observed(config, image)) == (1, 0)
    config.references.kind = "overview"
    assert counts(observed(config, image)) == (1, found)


def test_lenders_in_the_group_are_in_other_images_of_it(config):
    config.references.kind = "group"
    small, large = record((0, 10, False)), record((0, 20, False), (1, 90, False))
    crowd, other = record((0, 90, True)), record((1, 90, False))
    images = (small, large, small, crowd, other)
    assert counts(observed(config, *images, groups="abbcc")) == (2, 1)
    assert counts(observed(config, *images, groups="abacb")) == (2, 0)
    assert counts(observed(config, *images, groups="aaaaa")) == (2, 2)
    # Lenders of the same image count, too.
    pair = record((0, 8, False), (0, 16, False), (0, 32, False))
    assert counts(observed(config, pair, groups="a")) == (2, 2)
    # Images of another size: 200 of 1000 pixels are 40 of the input.
    tiny = record((0, 200, False), size=(1000, 1000))
    assert counts(observed(config, small, tiny, groups="aa")) == (1, 1)
    tiny = record((0, 199, False), size=(1000, 1000))
    assert counts(observed(config, small, tiny, groups="aa")) == (1, 0)


def test_an_image_is_no_reference_of_itself(config):
    config.references.kind = "group"
    config.augment.tile = True
    # The lender is beyond the tile, and twice as large in a reference.
    image = record(
        *((0, 20, False), (0, 200, False)),
        size=(1000, 1000),
        corners=[(0, 0), (700, 700)],
    )
    assert counts(observed(config, image, groups="a")) == (1, 0)
    assert counts(observed(config, image, image, groups="ab")) == (2, 0)
    assert counts(observed(config, image, image, groups="aa")) == (2, 2)


def test_the_line_names_the_place_of_lenders(config):
    image = record((0, 10, False))

    def place(**arguments):
        (line,) = observed(config, image, **arguments).notices(SPLIT)
        return line.partition(" have a lender ")[2].partition(", so ")[0]

    assert place() == "in their image at the input size of 200 x 200 pixels"
    config.references.kind = "group"
    assert place(groups="a") == (
        "in their image or group at the input size of 200 x 200 pixels"
    )
    config.augment.tile = True
    of_tiles = "in tiles of 200 x 200 pixels (augment.tile)"
    assert place(groups="a") == f"in their tile or group {of_tiles}"
    config.references.kind = "overview"
    assert place() == f"in their tile or the overview {of_tiles}"
    config.references.kind = "none"
    assert place() == f"in their tile {of_tiles}"


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
