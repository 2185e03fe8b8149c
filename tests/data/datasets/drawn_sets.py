"""Splits of scale_pairs and the sets like it, and what holds in all of them."""

import numpy as np

from borrow_det.configs import base
from borrow_det.data import sources
from borrow_det.data.datasets import scale_pairs_scenes
from borrow_det.data.images import decode
from tests.data.datasets.discs import box


def load_splits(few_scenes, builder, side, folder, **counts):
    """Draws few scenes of a set and returns its splits, by name."""
    dataset = base.get_config().dataset
    dataset.name = builder.name
    dataset.image_size = side
    dataset.data_dir = str(folder)
    names = ["train", "validation", "swapped", "alone"]
    with few_scenes(builder, **counts):
        return dict(zip(names, sources.load_splits(dataset, names), strict=True))


def assert_shows(scene, shown, swapped, alone, kept):
    """Records have the boxes and labels of a scene; `kept` are the boxes of alone."""
    groups = np.array([d.group for d in scene.discs])
    np.testing.assert_allclose(
        shown["boxes"], [box(d) for d in scene.discs], rtol=0, atol=1e-6
    )
    np.testing.assert_array_equal(swapped["boxes"], shown["boxes"])
    np.testing.assert_array_equal(alone["boxes"], shown["boxes"][kept])
    np.testing.assert_array_equal(shown["labels"], np.take(scene.species, groups))
    np.testing.assert_array_equal(
        swapped["labels"], np.take(scene.swapped_species, groups)
    )
    np.testing.assert_array_equal(alone["labels"], shown["labels"][kept])


def assert_pixels(scene, shown, swapped, alone):
    """Images are those of a scene, apart from compression."""
    for record, species, with_large in (
        (shown, scene.species, True),
        (swapped, scene.swapped_species, True),
        (alone, scene.species, False),
    ):
        stored = decode.decode_image(record, "image").astype(int)
        drawn = scale_pairs_scenes.draw(scene, species, with_large).astype(int)
        assert np.abs(stored - drawn).mean() < 5  # JPEG; 35 between scenes.


def assert_factual_split_and_reference_lines(splits):
    assert splits["swapped"].counterfactual_of == "validation"
    assert splits["alone"].counterfactual_of == "validation"
    assert splits["validation"].counterfactual_of == ""
    assert sorted(splits["validation"].reference_lines.values()) == [0.25, 0.5]
