"""Windows for classification: distribution, limits and pixels."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.data.augmentation import classification as augment

AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)


def settings(**changes):
    return types.SimpleNamespace(**{**base.get_config().augment.to_dict(), **changes})


def windows(image_size, draws, area=AREA, aspect=ASPECT):
    """Returns the crops [N, 4] for N sets of samples [N, T, 4]."""
    size = jnp.array(image_size, jnp.int32)
    crop = jax.vmap(lambda d: augment.random_crop(d, size, area, aspect))
    return np.asarray(jax.jit(crop)(jnp.asarray(draws, jnp.float32)))


@pytest.mark.parametrize("image_size", [(100, 100), (60, 180), (333, 500)])
def test_areas_and_aspect_ratios_are_in_their_ranges(image_size):
    draws = np.random.default_rng(0).uniform(size=(4000, 10, 4))
    found = windows(image_size, draws)
    assert found.min() >= 0
    assert found.max() <= 1
    height, width = ((found[:, i + 2] - found[:, i]) * image_size[i] for i in (0, 1))
    share = height * width / np.prod(image_size)
    ratio = width / height
    assert ratio.min() > ASPECT[0] - 1e-3
    assert ratio.max() < ASPECT[1] + 1e-3
    assert share.min() > AREA[0] - 1e-3
    # Their whole range is drawn (a share of 1 fits square images alone).
    assert share.min() < 0.1
    assert share.max() > 0.4
    # The logarithm of the ratio is uniform: symmetric about that of 1, in the small
    # crops that always fit.
    small = np.log(ratio[share < 0.15])
    assert abs(small.mean()) < 0.02
    expected = np.log(4 / 3) / 3**0.5
    assert small.std() == pytest.approx(expected, abs=0.01)


def test_a_candidate_computed_by_hand():
    # Area 0.08 + 0.5 * 0.92 = 0.54, ratio 1 at 200 x 100: side 103.9, too wide; then
    # area 0.264, ratio 1: side 72.66, from a quarter of the room that is left.
    draws = [[0.5, 0.5, 0.0, 0.0], [0.2, 0.5, 0.25, 0.75], [0.0, 0.0, 0.0, 0.0]]
    (found,) = windows((200, 100), [draws])
    side = np.sqrt(0.264 * 200 * 100)
    y, x = 0.25 * (200 - side), 0.75 * (100 - side)
    expected = [y / 200, x / 100, (y + side) / 200, (x + side) / 100]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("image_size", "expected"),
    [
        ((100, 400), [0, 1 / 3, 1, 2 / 3]),  # 100 x 133 of it.
        ((400, 100), [1 / 3, 0, 2 / 3, 1]),
        ((100, 120), [0, 0, 1, 1]),
    ],
)
def test_the_center_is_cropped_if_no_candidate_fits(image_size, expected):
    # The whole area at another ratio than the image's never fits.
    draws = [[[0.999, 0.0, 0.5, 0.5], [0.999, 0.001, 0.5, 0.5]]]
    np.testing.assert_allclose(windows(image_size, draws)[0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("image_size", "input_size", "expected"),
    [
        ((256, 256), (224, 224), [1 / 16, 1 / 16, 15 / 16, 15 / 16]),
        # 512 x 256: the shorter side of 256 gives 224 of each.
        ((512, 256), (224, 224), [144 / 512, 16 / 256, 368 / 512, 240 / 256]),
        # An input of twice its height in width.
        ((256, 256), (100, 200), [72 / 256, 16 / 256, 184 / 256, 240 / 256]),
    ],
)
def test_the_center_is_a_share_of_the_shorter_side(image_size, input_size, expected):
    size = jnp.array(image_size, jnp.int32)
    found = augment.center_window(size, input_size, 0.875)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_center_has_the_pixels_of_the_image():
    canvas = np.zeros((40, 48, 3), np.uint8)
    image = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)
    canvas[:32, :40] = image
    size = jnp.array([32, 40], jnp.int32)
    found = augment.center_image(jnp.asarray(canvas), size, (28, 28), 0.875)
    np.testing.assert_allclose(found, image[2:30, 6:34], atol=0.02)


def test_images_are_flipped_with_the_given_probability():
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    size = jnp.array([16, 16], jnp.int32)
    options = settings(crop=False, photometric=0.0, flip=0.25, crop_tries=1)

    @jax.jit
    @jax.vmap
    def augmented(key):
        return augment.augment_image(key, jnp.asarray(image), size, options, (16, 16))

    found = np.asarray(augmented(jax.random.split(jax.random.key(0), 600)))
    straight = np.abs(found - image).max(axis=(1, 2, 3)) < 1e-3
    flipped = np.abs(found - image[:, ::-1]).max(axis=(1, 2, 3)) < 1e-3
    assert np.all(straight ^ flipped)
    assert flipped.mean() == pytest.approx(0.25, abs=0.05)


def test_colors_are_distorted_only_if_enabled():
    image = jnp.full((8, 8, 3), jnp.uint8(100))
    size = jnp.array([8, 8], jnp.int32)

    def augmented(photometric):
        options = settings(photometric=photometric)
        return augment.augment_image(jax.random.key(1), image, size, options, (8, 8))

    np.testing.assert_allclose(augmented(0.0), 100, atol=1e-3)
    assert np.abs(np.asarray(augmented(1.0)) - 100).max() > 1
