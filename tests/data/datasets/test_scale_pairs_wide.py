"""The scenes of scale_pairs_wide and the set that is built of them."""

import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.data import sources
from borrow_det.data.datasets import scale_pairs_scenes
from borrow_det.data.datasets.scale_pairs_wide import ScalePairsWide
from borrow_det.data.images import decode
from borrow_det.errors import InputError
from tests.data.datasets import drawn_sets
from tests.data.datasets.discs import box, interior, stripe_species

SIDE = 192  # A tile has 64 pixels.


def make_scene(index, side=SIDE):
    return scale_pairs_scenes.make_scene(0, 1, index, side, extent=3.0)


SCENES = [make_scene(i) for i in range(100)]


def seen(boxes, starts, window):
    """Marks the windows that show a part of a box, bool [starts, starts]."""
    shown = np.zeros((len(starts), len(starts)), bool)
    for y0, x0, y1, x1 in boxes:
        rows = (starts < y1) & (starts + window > y0)
        columns = (starts < x1) & (starts + window > x0)
        shown |= rows[:, None] & columns[None, :]
    return shown


@pytest.mark.parametrize("zoom", [1.0, 0.9, 0.86])
def test_no_tile_shows_a_small_and_a_large_disc(zoom):
    window = 1 / 3 / zoom
    starts = np.arange(0, 1 - window, 1 / SIDE)
    for scene in SCENES:
        small, large = (
            seen([box(d) for d in scene.discs if d.is_large == kind], starts, window)
            for kind in (False, True)
        )
        assert small.any()
        assert large.any()
        assert not (small & large).any()


def test_large_discs_are_a_tile_and_the_radius_away_from_the_centers_of_small_ones():
    for scene in SCENES:
        for small in (d for d in scene.discs if not d.is_large):
            center = np.array([small.y, small.x])
            for large in scene.discs[:2]:
                away = np.abs(center - [large.y, large.x]).max() - large.radius
                assert away >= 0.39 + small.radius > 1 / 3 + small.radius


def test_small_discs_are_relative_to_the_tile_and_large_ones_to_the_scene():
    counts = set()
    for scene in SCENES:
        assert [d.is_large for d in scene.discs[:2]] == [True, True]
        for group in (0, 1):
            small = [d for d in scene.discs[2:] if d.group == group]
            counts.add(len(small))
            assert all(0.08 <= 2 * d.radius * 3 <= 0.10 for d in small)
        diameters = [2 * d.radius for d in scene.discs[:2]]
        assert 0.28 * 0.88 <= min(diameters) <= max(diameters) <= 0.28 * 1.12
    assert counts == {2, 3, 4}


def test_blocks_of_the_background_are_relative_to_the_tile(monkeypatch):
    monkeypatch.setattr(scale_pairs_scenes, "_GRAY_NOISE", 0.0)
    monkeypatch.setattr(scale_pairs_scenes, "_COLOR_NOISE", 0.0)
    background = make_scene(0, 576).background
    rows = np.flatnonzero(np.diff(background[:, 0, 0])) + 1
    np.testing.assert_array_equal(rows, np.arange(9, 576, 9))


def test_stripes_show_the_label_in_the_scene_shrunk_to_the_input():
    for i in range(10):
        scene = make_scene(i, 576)
        for species in (scene.species, scene.swapped_species):
            image = scale_pairs_scenes.draw(scene, species)
            shrunk = image.reshape(192, 3, 192, 3, 3).mean(axis=(1, 3))
            for disc in scene.discs[:2]:
                assert stripe_species(interior(shrunk, disc)) == species[disc.group]


@pytest.fixture(scope="module")
def drawn(few_scenes, tmp_path_factory):
    """The splits of a set of 5 training and 3 validation scenes, by name."""
    folder = tmp_path_factory.mktemp("wide")
    return drawn_sets.load_splits(
        few_scenes, ScalePairsWide, SIDE, folder, num_train=5, num_validation=3
    )


def test_splits_show_the_same_scenes(drawn):
    assert [len(split) for split in drawn.values()] == [5, 3, 3, 3]
    for i in range(3):
        scene = make_scene(i)
        shown, swapped, alone = records = [
            drawn[name][i] for name in ("validation", "swapped", "alone")
        ]
        assert shown["image_id"] == swapped["image_id"] == alone["image_id"] == i
        assert (shown["height"], shown["width"]) == (SIDE, SIDE)
        drawn_sets.assert_shows(scene, *records, kept=slice(2, None))
        drawn_pixels = scale_pairs_scenes.draw(scene, scene.species).astype(int)
        stored = decode.decode_image(shown, "image").astype(int)
        assert np.abs(stored - drawn_pixels).mean() < 8  # JPEG; 35 between scenes.


def test_only_the_large_discs_differ_in_swapped_and_alone():
    scene = make_scene(0)
    shown = scale_pairs_scenes.draw(scene, scene.species)
    large = np.zeros((SIDE, SIDE), bool)
    for disc in scene.discs[:2]:
        y0, x0, y1, x1 = (box(disc) * SIDE).astype(int)
        large[y0 : y1 + 1, x0 : x1 + 1] = True
    for other in (
        scale_pairs_scenes.draw(scene, scene.swapped_species),
        scale_pairs_scenes.draw(scene, scene.species, with_large=False),
    ):
        np.testing.assert_array_equal(shown[~large], other[~large])
        assert (shown[large] != other[large]).any(axis=-1).mean() > 0.2


def test_splits_know_their_factual_split_and_the_reference_lines(drawn):
    drawn_sets.assert_factual_split_and_reference_lines(drawn)


def test_number_of_scenes_and_name_of_the_complete_set():
    config = ScalePairsWide.CONFIG(image_size=576)
    assert config == ScalePairsWide.BUILDER_CONFIGS[0]
    assert (config.name, config.num_train, config.num_validation) == (
        "576px",
        1000,
        128,
    )


def test_an_image_size_that_is_too_small_is_an_error(tmp_path):
    dataset = base.get_config().dataset
    dataset.name = "scale_pairs_wide"
    dataset.image_size = 191
    dataset.data_dir = str(tmp_path)
    with pytest.raises(
        InputError, match=r"image_size is 191: .* scale_pairs_wide need at least 192 "
    ):
        sources.load(dataset, "train")
