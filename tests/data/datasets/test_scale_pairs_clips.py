"""The clips of scale_pairs_clips and the set that is built of them."""

import itertools

import numpy as np
import pytest

from borrow_det.data.datasets import scale_pairs_scenes
from borrow_det.data.datasets.scale_pairs_clips import ScalePairsClips
from tests.data.datasets import drawn_sets
from tests.data.datasets.discs import box, interior, stripe_species

SIDE = 64
CLIPS = [scale_pairs_scenes.make_clip(0, 1, i, SIDE) for i in range(60)]


def shows_large(frame):
    return any(disc.is_large for disc in frame.discs)


def test_large_discs_pass_in_three_of_six_frames_and_small_ones_are_in_the_others():
    for clip in CLIPS:
        assert len(clip) == 6
        assert sum(map(shows_large, clip)) == 3
        for frame in clip:
            groups = np.bincount([d.group for d in frame.discs], minlength=2)
            if shows_large(frame):
                assert all(d.is_large for d in frame.discs)
                np.testing.assert_array_equal(groups, [1, 1])
            else:
                assert 2 <= groups.min() <= groups.max() <= 4
    # Every position in the clip is a pass in half of the clips, within 5 sigma.
    passes = np.array([[shows_large(frame) for frame in clip] for clip in CLIPS])
    np.testing.assert_allclose(passes.sum(axis=0), 30, atol=5 * np.sqrt(60) / 2)


def test_any_three_references_of_a_frame_with_small_discs_show_the_large_ones():
    for clip in CLIPS:
        for i, frame in enumerate(clip):
            if shows_large(frame):
                continue
            others = [other for j, other in enumerate(clip) if j != i]
            for chosen in itertools.combinations(others, 3):
                assert any(map(shows_large, chosen))
            assert not all(
                any(map(shows_large, chosen))
                for chosen in itertools.combinations(others, 2)
            )


def test_a_clip_has_one_appearance_and_its_frames_other_positions():
    for clip in CLIPS:
        for name in ("species", "swapped_species", "hues", "phases"):
            assert len({getattr(frame, name) for frame in clip}) == 1
        for large in (False, True):
            centers = [
                (d.y, d.x)
                for frame in clip
                for d in frame.discs
                if shows_large(frame) == large
            ]
            assert len(set(centers)) == len(centers)


def test_sizes_are_those_of_scale_pairs_and_discs_do_not_overlap():
    for disc in (d for clip in CLIPS for frame in clip for d in frame.discs):
        low, high = (0.28 * 0.88, 0.28 * 1.12) if disc.is_large else (0.08, 0.10)
        assert low <= 2 * disc.radius <= high
        assert box(disc).min() >= 0
        assert box(disc).max() <= 1
    for frame in (frame for clip in CLIPS for frame in clip):
        for a, b in itertools.combinations(map(box, frame.discs), 2):
            assert (np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).min() < 0


def test_frames_share_the_blocks_of_the_background_but_not_the_noise(monkeypatch):
    first, second = (frame.background for frame in CLIPS[0][:2])
    assert (first != second).mean() > 0.99
    # Differences of two frames are noise only: gray noise of 12, color noise of 8.
    difference = first - second
    assert difference.std() == pytest.approx(np.sqrt(2) * np.hypot(12, 8), rel=0.05)
    other = CLIPS[1][0].background
    assert (first - other).std() > 1.5 * difference.std()
    monkeypatch.setattr(scale_pairs_scenes, "_GRAY_NOISE", 0.0)
    monkeypatch.setattr(scale_pairs_scenes, "_COLOR_NOISE", 0.0)
    clip = scale_pairs_scenes.make_clip(0, 1, 0, SIDE)
    for frame in clip[1:]:
        np.testing.assert_array_equal(frame.background, clip[0].background)


def test_clip_is_a_function_of_seed_split_and_index():
    def pixels(*key):
        frame = scale_pairs_scenes.make_clip(*key, SIDE)[3]
        return scale_pairs_scenes.draw(frame, frame.species)

    first = pixels(0, 0, 5)
    np.testing.assert_array_equal(first, pixels(0, 0, 5))
    for other in ((1, 0, 5), (0, 1, 5), (0, 0, 6)):
        assert (first != pixels(*other)).mean() > 0.5


def test_stripes_of_a_pass_show_the_label():
    for i in range(5):
        for frame in scale_pairs_scenes.make_clip(0, 1, i, 192):
            for species in (frame.species, frame.swapped_species):
                image = scale_pairs_scenes.draw(frame, species)
                for disc in (d for d in frame.discs if d.is_large):
                    found = stripe_species(interior(image, disc))
                    assert found == species[disc.group]


@pytest.fixture(scope="module")
def drawn(few_scenes, tmp_path_factory):
    """The splits of a set of 4 training and 3 validation clips, by name."""
    folder = tmp_path_factory.mktemp("clips")
    return drawn_sets.load_splits(
        few_scenes, ScalePairsClips, SIDE, folder, num_train=4, num_validation=3
    )


def test_records_name_their_clip(drawn):
    assert [len(split) for split in drawn.values()] == [24, 18, 18, 18]
    for name, split in drawn.items():
        for i in range(len(split)):
            record = split[i]
            assert record["image_id"] == i
            assert record["fields"] == {"clip": i // 6}
            assert record["file_name"] == f"{name}_{i // 6:04d}_{i % 6}.jpg"


def test_splits_show_the_same_frames(drawn):
    frames = [frame for clip in CLIPS[:3] for frame in clip]
    for i, frame in enumerate(frames):
        large = shows_large(frame)
        shown, swapped, alone = records = [
            drawn[name][i] for name in ("validation", "swapped", "alone")
        ]
        kept = slice(0, 0) if large else slice(None)
        drawn_sets.assert_shows(frame, *records, kept=kept)
        drawn_sets.assert_pixels(frame, *records)
        if not large:
            assert shown["image"] == swapped["image"] == alone["image"]


def test_splits_know_their_factual_split_and_the_reference_lines(drawn):
    drawn_sets.assert_factual_split_and_reference_lines(drawn)


def test_number_of_clips_and_name_of_the_complete_set():
    config = ScalePairsClips.CONFIG(image_size=192)
    assert config == ScalePairsClips.BUILDER_CONFIGS[0]
    assert (config.name, config.num_train, config.num_validation) == ("192px", 500, 64)
