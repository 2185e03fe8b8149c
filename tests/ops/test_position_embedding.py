"""Interpolated position embeddings against Pillow's bicubic resizing."""

import numpy as np
import pytest
from PIL import Image

from borrow_det.ops import position_embedding


@pytest.fixture
def embedding():
    return np.random.default_rng(0).normal(size=(14 * 14, 2)).astype(np.float32)


@pytest.mark.parametrize("grid", [(20, 33), (7, 5), (14, 9)])
def test_another_grid_is_pillows_bicubic(embedding, grid):
    found = position_embedding.resample(embedding, grid)
    for channel in range(2):
        image = Image.fromarray(embedding[:, channel].reshape(14, 14))
        resized = image.resize(grid[::-1], Image.Resampling.BICUBIC)
        np.testing.assert_allclose(
            np.asarray(found)[:, channel], np.asarray(resized).ravel(), atol=1e-5
        )


def test_the_same_grid_keeps_the_embeddings(embedding):
    assert position_embedding.resample(embedding, (14, 14)) is embedding
