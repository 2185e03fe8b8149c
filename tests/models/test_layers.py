"""Images enter a network in the form that its weights want."""

import numpy as np

from borrow_det.models.layers import PixelStatistics

IMAGE = np.float32([[[[10, 20, 30], [12, 28, 45]]]])


def test_rgb_is_shifted_and_scaled():
    found = PixelStatistics("RGB", (10.0, 20.0, 30.0), (2.0, 4.0, 5.0))(IMAGE)
    np.testing.assert_array_equal(found, [[[[0, 0, 0], [1, 2, 3]]]])


def test_bgr_weights_get_bgr_images():
    found = PixelStatistics("BGR", (30.0, 20.0, 10.0), (5.0, 4.0, 2.0))(IMAGE)
    np.testing.assert_array_equal(found, [[[[0, 0, 0], [3, 2, 1]]]])


def test_gray_is_the_rgb_colour_that_becomes_zero():
    for order, mean in (("RGB", (1.0, 2.0, 3.0)), ("BGR", (3.0, 2.0, 1.0))):
        normalization = PixelStatistics(order, mean, (1.0, 1.0, 1.0))
        assert normalization.gray == (1, 2, 3)
        np.testing.assert_array_equal(
            normalization(np.float32([normalization.gray])), [[0, 0, 0]]
        )
