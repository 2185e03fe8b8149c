import numpy as np
import pytest

from borrow_det.inference import cuts, video
from tests.tools.predict.blobs import write_video


def shots(lengths, seed=0, size=(96, 144)):
    """Frames of shots: a smooth background each, on which a disc moves."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    frames = []
    for number, length in enumerate(lengths):
        # Every other shot is bright.
        background = np.full((*size, 3), 40 + 110 * (number % 2), float)
        background += 20 * np.sin(columns / 9 + number)[..., None]
        for i in range(length):
            frame = background + rng.normal(0, 4, background.shape)
            disc = (rows - 40) ** 2 + (columns - 20 - 6 * i) ** 2 < 15**2
            frame[disc] = (230, 90, 30)
            frames.append(np.clip(frame, 0, 255).astype(np.uint8))
    return frames


def test_a_cut_is_where_the_shot_of_a_video_changes(tmp_path):
    path = tmp_path / "shots.mp4"
    write_video(path, shots([7, 5, 8]), "mp4v")
    thumbnails = [cuts.thumbnail(f.image) for f in video.read_frames(path)]
    assert [one.shape for one in thumbnails] == [(32, 48, 3)] * 20
    found = [
        number
        for number in range(1, 20)
        if cuts.is_cut(thumbnails[number - 1], thumbnails[number])
    ]
    assert found == [7, 12]


def test_a_cut_is_a_mean_difference_above_the_threshold():
    dark = np.full((32, 48, 3), 100, np.uint8)
    assert not cuts.is_cut(dark, dark + np.uint8(30))
    assert not cuts.is_cut(dark + np.uint8(30), dark)
    assert cuts.is_cut(dark, dark + np.uint8(31))
    # The mean is over pixels and channels: half of the pixels differ by 61 levels.
    half = dark.copy()
    half[:16] += np.uint8(61)
    assert cuts.is_cut(dark, half)
    half[0] = dark[0]
    assert not cuts.is_cut(dark, half)


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (32, 48), (500, 20)])
def test_a_thumbnail_has_the_mean_of_its_frame(size):
    frame = np.full((*size, 3), (10, 130, 250), np.uint8)
    np.testing.assert_array_equal(
        cuts.thumbnail(frame), np.full((32, 48, 3), (10, 130, 250), np.uint8)
    )
