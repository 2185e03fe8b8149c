"""Random samples of augmentation: SSD's rules for windows, and colors of colorsys."""

import colorsys
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.data.augmentation import detection as augment
from borrow_det.data.augmentation import photometric

KEYS = 2000  # Examples drawn for.


def settings(**changes):
    """Returns config.augment with changes, as a namespace that may be traced."""
    return types.SimpleNamespace(**{**base.get_config().augment.to_dict(), **changes})


@functools.cache
def draws_of_many():
    """Returns KEYS samples of `augment.draw`."""
    keys = jax.random.split(jax.random.key(1), KEYS)
    draws = jax.jit(jax.vmap(lambda key: augment.draw(key, settings())))(keys)
    return jax.tree.map(np.asarray, draws)


@jax.jit
def offers_of(draws, boxes, objects, image_size, window):
    """Returns the offers of the crop for KEYS samples: [KEYS, M, 4] and [KEYS, M]."""

    def offers(draws):
        return augment.crop_offers(
            draws, window, image_size, boxes, objects, settings()
        )

    return jax.vmap(offers)(draws)


def numpy_iou(windows, boxes):
    low = np.maximum(windows[:, None, :2], boxes[None, :, :2])
    high = np.minimum(windows[:, None, 2:], boxes[None, :, 2:])
    overlap = np.prod(np.maximum(high - low, 0), axis=-1)
    area_a, area_b = (np.prod(x[:, 2:] - x[:, :2], axis=-1) for x in (windows, boxes))
    return overlap / (area_a[:, None] + area_b[None] - overlap)


def test_crops_follow_the_rules_of_ssd():
    boxes = np.float32([[0, 0, 1, 1], [0.5, 0.5, 0.6, 0.7], [-0.1, -0.1, 0.2, 0.2]])
    objects = np.array([True, True, False])  # No crop may count on the third.
    height, width = 40, 60
    outer = np.float32([-0.125, -0.05, 1.125, 1.2])
    size = np.int32([height, width])
    offers, offered = map(
        np.array, offers_of(draws_of_many().crops, boxes, objects, size, outer)
    )
    ious = base.get_config().augment.crop_ious
    assert offers.shape[1] == len(ious) + 2
    np.testing.assert_allclose(offers[:, -1], np.tile(outer, (KEYS, 1)))
    assert offered[:, -2:].all()
    center = (boxes[:2, :2] + boxes[:2, 2:]) / 2
    for threshold, crops, there in zip(
        [*ious, 0], offers[:, :-1].swapaxes(0, 1), offered.T, strict=False
    ):
        crops = crops[there]
        assert len(crops) > 20, threshold
        assert (numpy_iou(crops, boxes[:2]).max(axis=1) >= threshold - 1e-5).all()
        inside = (center[None] >= crops[:, None, :2]) & (
            center[None] <= crops[:, None, 2:]
        )
        assert inside.all(axis=-1).any(axis=1).all()
        assert (crops[:, :2] >= outer[:2] - 1e-5).all()
        assert (crops[:, 2:] <= outer[2:] + 1e-5).all()
        side = crops[:, 2:] - crops[:, :2]
        assert (side >= 0.3 * 1.25 - 1e-5).all()  # min_crop of the outer side
        ratio = side[:, 1] * width / (side[:, 0] * height)
        assert (ratio > 0.5 - 1e-4).all()
        assert (ratio < 2 + 1e-4).all()


def offered_share(box, is_object):
    """Returns each sampler's rate of offers, for an image with this box three times."""
    boxes, objects = np.float32([box] * 3), np.array([is_object] * 3)
    whole, size = np.float32([0, 0, 1, 1]), np.int32([50, 50])
    _, offered = offers_of(draws_of_many().crops, boxes, objects, size, whole)
    return np.mean(offered, axis=0)


def test_samplers_without_a_fitting_candidate_make_no_offer():
    # A small object: no crop of at least 0.3 x 0.3 overlaps it by 0.1.
    share = offered_share([0.4, 0.4, 0.45, 0.45], True)
    np.testing.assert_array_equal(share[:5], 0)
    assert share[5] > 0.99
    assert share[6] == 1


def test_images_without_objects_have_unrestricted_crops():
    share = offered_share([0, 0, 1, 1], False)
    np.testing.assert_array_equal(share, [0, 0, 0, 0, 0, 1, 1])


@functools.partial(jax.jit, static_argnames="crop")
def windows_of(draws, box, crop, expand, flip):
    """Returns windows of an image with one object: [KEYS, 4]."""
    size, objects = jnp.array([50, 50], jnp.int32), jnp.array([True])

    def window(draws):
        changes = {"crop": crop, "expand": expand, "flip": flip}
        return augment.choose_window(
            draws, size, box[None], objects, settings(**changes)
        )

    return jax.vmap(window)(draws)


def test_expansion_and_flip_have_their_probabilities():
    box = np.float32([0.4, 0.4, 0.6, 0.6])
    window = np.array(windows_of(draws_of_many(), box, False, 0.5, 0.5))
    flipped = window[:, 1] > window[:, 3]
    assert flipped.mean() == pytest.approx(0.5, abs=0.04)
    window[flipped] = window[flipped][:, [0, 3, 2, 1]]
    extent = window[:, 2:] - window[:, :2]
    np.testing.assert_allclose(extent[:, 0], extent[:, 1], atol=1e-5)
    expanded = extent[:, 0] > 1
    assert expanded.mean() == pytest.approx(0.5, abs=0.04)
    ratio = extent[expanded, 0]
    assert ratio.max() < 4
    assert ratio.mean() == pytest.approx(2.5, abs=0.1)  # uniform from 1 to 4
    # The image lies anywhere in the canvas, and whole.
    place = -window[expanded, :2] / (ratio[:, None] - 1)
    assert place.min() > -1e-5
    assert place.max() < 1 + 1e-5
    np.testing.assert_allclose(place.mean(axis=0), 0.5, atol=0.03)
    np.testing.assert_array_equal(
        window[~expanded], np.tile([0, 0, 1, 1], (sum(~expanded), 1))
    )


def test_offers_are_chosen_with_equal_probability():
    # A small object is met by `any` and `whole` alone: every second one is a crop.
    whole = np.float32([0, 0, 1, 1])
    small = np.float32([0.4, 0.4, 0.45, 0.45])
    window = np.array(windows_of(draws_of_many(), small, True, 0.0, 0.0))
    share = np.mean((window == whole).all(axis=1))
    assert share == pytest.approx(1 / 2, abs=0.04)
    # One as large as the image overlaps a crop by the crop's own area, so that nearly
    # always all seven samplers offer.
    window = np.array(windows_of(draws_of_many(), whole, True, 0.0, 0.0))
    share = np.mean((window == whole).all(axis=1))
    assert share == pytest.approx(1 / 7, abs=0.03)


shift_colors = jax.jit(photometric.shift_colors)


@pytest.mark.parametrize("hue", [0.0, 18.0, -18.0, 200.0])
@pytest.mark.parametrize("saturation", [0.0, 0.5, 1.0, 1.5])
def test_shifted_colors_equal_those_of_colorsys(saturation, hue):
    rng = np.random.default_rng(0)
    colors = rng.uniform(0, 255, (60, 3)).astype(np.float32)
    primaries = np.array(list(np.ndindex(2, 2, 2))) * 255.0
    greys = np.full((2, 3), [[0.5], [128]])
    colors = np.concatenate([colors, primaries, greys]).astype(np.float32)
    got = shift_colors(colors.T, saturation, hue)
    for color, result in zip(colors, np.array(got).T, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(float(c) / 255 for c in color))
        expected = colorsys.hsv_to_rgb((h + hue / 360) % 1, min(s * saturation, 1), v)
        np.testing.assert_allclose(result, np.array(expected) * 255, atol=0.01)


NEUTRAL = {
    "brightness": 0.0,
    "contrast": (1.0, 1.0),
    "saturation": (1.0, 1.0),
    "hue": 0.0,
}


@jax.jit
def compiled_distort(draws, color, changes):
    def distort(draws):
        return photometric.distort(draws, color[:, None, None], settings(**changes))

    return jax.vmap(distort)(draws)[..., 0, 0]


def distorted(color, photometric, **changes):
    """Returns KEYS distortions of one color, [KEYS, 3], with only the given changes."""
    changes = {**NEUTRAL, **changes, "photometric": photometric}
    return np.array(
        compiled_distort(draws_of_many().colors, np.float32(color), changes)
    )


def test_distortions_have_their_ranges_and_probabilities():
    bright = distorted([100, 100, 100], 0.5, brightness=32.0)
    np.testing.assert_allclose(bright[:, 0], bright[:, 2], atol=1e-4)
    shift = bright[:, 0] - 100
    changed = np.abs(shift) > 1e-4
    assert changed.mean() == pytest.approx(0.5, abs=0.04)
    assert np.abs(shift).max() < 32
    assert shift.max() > 30
    assert shift.min() < -30

    ratio = distorted([100, 100, 100], 1.0, contrast=(0.5, 1.5))[:, 1] / 100
    assert ratio.mean() == pytest.approx(1, abs=0.02)
    assert 0.5 <= ratio.min() < 0.52
    assert 1.48 < ratio.max() <= 1.5

    # Red turns towards yellow or magenta: 18 of the 60 degrees to either.
    hue = distorted([200, 0, 0], 1.0, hue=18.0)
    np.testing.assert_allclose(hue[:, 0], 200, atol=1e-3)
    assert 58 < hue[:, 1].max() <= 60
    assert 58 < hue[:, 2].max() <= 60

    saturation = distorted([200, 100, 100], 1.0, saturation=(0.5, 1.5))
    assert 50 <= saturation[:, 1].min() < 52
    assert 148 < saturation[:, 2].max() <= 150


def test_contrast_changes_before_or_after_saturation_and_hue():
    # 1.5 x contrast, 2 x saturation; what is cut at 255, and when, tells the order.
    # First: (255, 150, 75) -> (255, 106.25, 0). Last: (200, 66.7, 0) -> (255, 100, 0).
    out = distorted([200, 100, 50], 1.0, contrast=(1.5, 1.5), saturation=(2.0, 2.0))
    first = np.abs(out - [255, 106.25, 0]).max(axis=1) < 0.01
    last = np.abs(out - [255, 100, 0]).max(axis=1) < 0.01
    assert (first | last).all()
    assert first.mean() == pytest.approx(0.5, abs=0.04)


def test_colors_do_not_change_with_probability_zero():
    defaults = vars(settings())
    out = distorted([200, 100, 50], 0.0, **{name: defaults[name] for name in NEUTRAL})
    np.testing.assert_allclose(out, np.tile([200, 100, 50], (KEYS, 1)), atol=1e-3)
