"""A part of an image is resampled as if it had been cut out."""

import functools

import jax
import numpy as np
import pytest

from borrow_det.data.augmentation.resampling import ENTIRE, read_part, read_window

CANVAS = (40, 48)
SIZE = (36, 41)


@pytest.mark.parametrize("input_size", [(12, 16), (32, 32), (60, 20)])
@pytest.mark.parametrize("part", [(0, 0, 36, 41), (5, 9, 29, 41), (30, 2, 36, 8)])
def test_a_part_equals_its_cut(part, input_size):
    generator = np.random.default_rng(0)
    image = np.zeros((*CANVAS, 3), np.uint8)
    image[: SIZE[0], : SIZE[1]] = generator.integers(0, 256, (*SIZE, 3))
    top, left, bottom, right = part
    cut = np.zeros((*CANVAS, 3), np.uint8)
    size = np.array([bottom - top, right - left], np.int32)
    cut[: size[0], : size[1]] = image[top:bottom, left:right]
    whole = jax.jit(functools.partial(read_window, input_size=input_size))
    expected, _ = whole(cut, size, np.array(ENTIRE, np.float32))
    read = jax.jit(functools.partial(read_part, input_size=input_size))
    found = read(image, np.array([top, left], np.int32), size)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_part_without_pixels_is_finite():
    zero = np.zeros(2, np.int32)
    found = read_part(np.full((*CANVAS, 3), 9, np.uint8), zero, zero, (4, 4))
    np.testing.assert_array_equal(found, 0)
