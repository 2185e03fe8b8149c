"""The scenes of scale_pairs and the set that is built of them."""

import colorsys
import hashlib
import itertools

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from borrow_det.data import sources
from borrow_det.data.datasets import scale_pairs, scale_pairs_scenes
from borrow_det.errors import InputError
from tests.data.datasets import drawn_sets
from tests.data.datasets.discs import box, hue_distance, interior, stripe_species

SCENES = [scale_pairs_scenes.make_scene(0, 1, i, 128) for i in range(200)]


def test_species_and_hues():
    for scene in SCENES:
        assert sorted((*scene.species, *scene.swapped_species)) == [0, 1, 2, 3]
        assert hue_distance(*scene.hues) >= 0.2
    # A scene has two of the four species: each is in half of the scenes, within 5
    # sigma.
    shown = np.bincount([s for scene in SCENES for s in scene.species])
    np.testing.assert_allclose(shown, 100, atol=5 * np.sqrt(200) / 2)
    # Hues do not depend on the species: they have no preferred direction.
    for species in range(4):
        hues = [
            h
            for scene in SCENES
            for s, h in zip(scene.species, scene.hues, strict=True)
            if s == species
        ]
        assert abs(np.exp(2j * np.pi * np.array(hues)).mean()) < 4 / np.sqrt(len(hues))


def test_sizes_and_numbers_of_the_groups():
    for scene in SCENES:
        for group in (0, 1):
            large = [d for d in scene.discs if d.group == group and d.is_large]
            small = [d for d in scene.discs if d.group == group and not d.is_large]
            assert len(large) == 1
            assert 2 <= len(small) <= 4
            assert 0.28 * 0.88 <= 2 * large[0].radius <= 0.28 * 1.12
            assert all(0.08 <= 2 * d.radius <= 0.10 for d in small)
    numbers = {len(scene.discs) for scene in SCENES}
    assert numbers == {6, 7, 8, 9, 10}


def test_boxes_do_not_overlap_and_are_inside_the_image():
    for scene in SCENES:
        boxes = [box(d) for d in scene.discs]
        assert np.min(boxes) >= 0
        assert np.max(boxes) <= 1
        for a, b in itertools.combinations(boxes, 2):
            sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
            assert sides.min() < 0


def test_large_and_small_discs_are_at_opposite_edges():
    edges = []
    for scene in SCENES:
        large = np.array([box(d) for d in scene.discs if d.is_large])
        small = np.array([box(d) for d in scene.discs if not d.is_large])
        found = []
        for axis in (0, 1):
            if large[:, axis + 2].max() <= 0.35 and small[:, axis].min() >= 0.74:
                found.append((axis, "low"))
            if large[:, axis].min() >= 0.65 and small[:, axis + 2].max() <= 0.26:
                found.append((axis, "high"))
        assert len(found) == 1
        edges += found
        axis = found[0][0]
        centers = small[:, [axis, axis + 2]].mean(axis=1)
        rims = large[:, [axis, axis + 2]]
        # The class docstring promises 40 % of the side between center and rim.
        assert np.abs(centers[:, None, None] - rims[None]).min() >= 0.4
    assert np.bincount([2 * a + (e == "high") for a, e in edges]).min() > 25


@pytest.mark.parametrize("swapped", [False, True])
def test_stripes_show_the_label(swapped):
    for i in range(20):
        scene = scale_pairs_scenes.make_scene(0, 1, i, 256)
        species = scene.swapped_species if swapped else scene.species
        image = scale_pairs_scenes.draw(scene, species)
        for disc in scene.discs[:2]:
            assert stripe_species(interior(image, disc)) == species[disc.group]


def test_small_discs_are_plain_and_have_the_hue_of_their_group():
    for i in range(20):
        scene = scale_pairs_scenes.make_scene(0, 1, i, 256)
        image = scale_pairs_scenes.draw(scene, scene.species)
        for disc in scene.discs:
            patch = interior(image, disc, 0.6)
            hue, saturation, _ = colorsys.rgb_to_hsv(*patch.mean(axis=(0, 1)) / 255)
            assert hue_distance(hue, scene.hues[disc.group]) < 0.01
            assert saturation > 0.8
            if not disc.is_large:
                assert patch.std(axis=(0, 1)).max() == 0


@pytest.mark.parametrize(("side", "block"), [(256, 12), (192, 9)])
def test_background_has_gray_blocks_that_scale_with_the_image(side, block, monkeypatch):
    monkeypatch.setattr(scale_pairs_scenes, "_GRAY_NOISE", 0.0)
    monkeypatch.setattr(scale_pairs_scenes, "_COLOR_NOISE", 0.0)
    background = scale_pairs_scenes.make_scene(0, 0, 0, side).background
    assert (background == background[..., :1]).all()
    rows = np.flatnonzero(np.diff(background[:, 0, 0])) + 1
    np.testing.assert_array_equal(rows, np.arange(block, side, block))
    columns = np.flatnonzero(np.diff(background[0, :, 0])) + 1
    np.testing.assert_array_equal(columns, np.arange(block, side, block))


def test_noise_has_a_gray_and_a_color_component():
    background = scale_pairs_scenes.make_scene(0, 0, 0, 256).background
    block = background[:12, :12].reshape(-1, 3)
    # The standard deviations are 12 (gray) and 8 (per channel); there are 144 samples.
    color = (block - block.mean(axis=1, keepdims=True)).std() / np.sqrt(2 / 3)
    assert color == pytest.approx(8.0, rel=0.15)
    assert block.std(axis=0).mean() == pytest.approx(np.hypot(12, 8), rel=0.25)


def test_edges_are_antialiased():
    # The coverage of all pixels sums to the area of the disc.
    scene = scale_pairs_scenes.make_scene(0, 0, 0, 256)
    disc = scene.discs[-1]
    blank = np.zeros((256, 256, 3), np.float32)
    scale_pairs_scenes._draw_disc(blank, disc, scene, 0)
    covered = blank.max(axis=-1).sum() / (255 * 0.9)
    assert covered == pytest.approx(np.pi * (disc.radius * 256) ** 2, rel=5e-3)


def test_scene_is_a_function_of_seed_split_and_index():
    def pixels(*key):
        scene = scale_pairs_scenes.make_scene(*key, 64)
        return scale_pairs_scenes.draw(scene, scene.species)

    first = pixels(0, 0, 5)
    np.testing.assert_array_equal(first, pixels(0, 0, 5))
    for other in ((1, 0, 5), (0, 1, 5), (0, 0, 6)):
        assert (first != pixels(*other)).mean() > 0.5


@pytest.mark.parametrize(
    ("key", "contents", "pixels"),
    [
        ((0, 0, 0, 192), "a45f59f7fdf840c5", "9338a162c76b2037"),
        ((0, 1, 7, 256), "674abd7e409eaed3", "a7fe28e62d6d2ce3"),
    ],
)
def test_scenes_are_those_of_the_first_version(key, contents, pixels):
    # Without the large discs: the last bit of a sine may depend on the processor.
    scene = scale_pairs_scenes.make_scene(*key)
    alone = scale_pairs_scenes.draw(scene, scene.species, with_large=False)
    assert hashlib.sha256(alone.tobytes()).hexdigest()[:16] == pixels
    drawn = [(d.group, d.is_large, d.y, d.x, d.radius) for d in scene.discs]
    drawn += [scene.species, scene.swapped_species, scene.hues, scene.phases]
    assert hashlib.sha256(repr(drawn).encode()).hexdigest()[:16] == contents


def test_only_the_large_instances_differ_in_swapped_and_alone():
    for i in range(10):
        scene = scale_pairs_scenes.make_scene(0, 1, i, 128)
        shown = scale_pairs_scenes.draw(scene, scene.species)
        swapped = scale_pairs_scenes.draw(scene, scene.swapped_species)
        alone = scale_pairs_scenes.draw(scene, scene.species, with_large=False)
        large = np.zeros((128, 128), bool)
        for disc in scene.discs[:2]:
            y0, x0, y1, x1 = (box(disc) * 128).astype(int)
            large[y0 : y1 + 1, x0 : x1 + 1] = True
        np.testing.assert_array_equal(shown[~large], swapped[~large])
        np.testing.assert_array_equal(shown[~large], alone[~large])
        assert (shown[large] != swapped[large]).any(axis=-1).mean() > 0.2
        assert (shown[large] != alone[large]).any(axis=-1).mean() > 0.7


def test_splits_show_the_same_scenes_in_the_same_order(drawn_config):
    shown, swapped, alone = (
        sources.load(drawn_config.dataset, split)
        for split in ("validation", "swapped", "alone")
    )
    assert len(sources.load(drawn_config.dataset, "train")) == 40
    assert len(shown) == len(swapped) == len(alone) == 12
    for i in range(12):
        scene = scale_pairs_scenes.make_scene(0, 1, i, 64)
        a, b, c = records = shown[i], swapped[i], alone[i]
        assert (a["image_id"], b["image_id"], c["image_id"]) == (i, i, i)
        assert b["file_name"] == f"swapped_{i:05d}.jpg"
        drawn_sets.assert_shows(scene, *records, kept=slice(2, None))
        drawn_sets.assert_pixels(scene, *records)


def test_numbers_of_images():
    for config in scale_pairs.ScalePairs.BUILDER_CONFIGS:
        assert (config.num_train, config.num_validation) == (3000, 512)
    assert scale_pairs.SPLITS == ("train", "validation", "swapped", "alone")


def test_reference_lines(drawn_config):
    split = sources.load(drawn_config.dataset, "validation")
    assert split.class_names == scale_pairs.SPECIES
    assert sorted(split.reference_lines.values()) == [0.25, 0.5]


def test_an_image_size_that_is_too_small_is_an_error(drawn_config):
    drawn_config.dataset.image_size = 32
    with pytest.raises(InputError, match=r"dataset\.image_size is 32"):
        sources.load(drawn_config.dataset, "train")


def test_stored_images_have_full_color_resolution():
    scene = scale_pairs_scenes.make_scene(0, 1, 0, 64)
    encoded = scale_pairs_scenes.encode(scale_pairs_scenes.draw(scene, scene.species))
    decoder = tfds.features.Image(shape=(64, 64, 3))
    np.testing.assert_array_equal(
        decoder.decode_example_np(encoded),
        cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)[..., ::-1],
    )
    # In the start-of-frame segment, the first component is sampled 1 x 1 like the
    # others.
    frame = encoded.index(b"\xff\xc0")
    assert encoded[frame + 11] == 0x11
