"""Videos of any frame rate, orientation and size."""

import cv2
import numpy as np
import pytest

from borrow_det.inference import video


def write(path, rate, size=(48, 64), count=4):
    writer = video.VideoWriter(path, size, rate)
    for i in range(count):
        writer.add(np.full((*size, 3), 40 * i, np.uint8))
    writer.close()
    return writer


@pytest.mark.parametrize(
    ("rate", "written"),
    [
        (12.0, 12.0),
        (30000 / 1001, 29.97),
        (70.12345, 70.12),  # 1/70123 is too short for MPEG-4.
        (1000.0, 1000.0),
        (90000.0, 1000.0),
        (0.001, 0.01),
        (0.0, 25.0),
        (-5.0, 25.0),
        (float("nan"), 25.0),
        (float("inf"), 25.0),
    ],
)
def test_a_video_of_any_rate_is_written(tmp_path, rate, written):
    assert write(tmp_path / "a.mp4", rate).rate == written
    frames = list(video.read_frames(tmp_path / "a.mp4"))
    assert len(frames) == 4
    assert frames[0].rate == pytest.approx(written, rel=1e-3)
    times = [frame.time for frame in frames]
    np.testing.assert_allclose(times, np.arange(4) / written, rtol=1e-3)


def test_odd_sides_get_a_copy_of_their_last_pixels(tmp_path):
    image = np.full((49, 65, 3), 120, np.uint8)
    image[-1], image[:, -1] = 240, 240
    writer = video.VideoWriter(tmp_path / "a.mp4", (49, 65), 25.0)
    writer.add(image)
    writer.close()
    (frame,) = video.read_frames(tmp_path / "a.mp4")
    assert frame.image.shape == (50, 66, 3)
    assert frame.image[-2:].mean() > 200
    assert frame.image[:, -2:].mean() > 200
    assert abs(frame.image[8:40, 8:56].mean() - 120) < 8


def test_a_rotated_video_is_read_upright(tmp_path):
    path = tmp_path / "a.mp4"
    writer = video.VideoWriter(path, (48, 64), 12.0)
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32] = 255  # Its left half is to be shown on top.
    writer.add(image)
    writer.close()
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40  # The matrix of a header of version 0.
    matrix = np.array([[0, 65536, 0], [-65536, 0, 0], [48 * 65536, 0, 1 << 30]])
    content[place : place + 36] = matrix.astype(">i4").tobytes()
    path.write_bytes(content)
    (frame,) = video.read_frames(path)
    assert frame.image.shape == (64, 48, 3)
    assert frame.image[:28].mean() > 240
    assert frame.image[36:].mean() < 15


class Capture:
    """Frames at given times, in a container that states any rate."""

    def __init__(self, rate, times):
        self.rate, self.times = rate, iter(times)
        self.time, self.released = None, False

    def read(self):
        self.time = next(self.times, None)
        return self.time is not None, np.zeros((2, 2, 3), np.uint8)

    def get(self, what):
        return {
            cv2.CAP_PROP_FPS: self.rate,
            cv2.CAP_PROP_POS_MSEC: 1000 * (self.time or 0.0),
        }[what]

    def release(self):
        self.released = True


@pytest.mark.parametrize(
    ("stated", "times", "rate"),
    [
        (29.97, [0, 5, 10], 29.97),
        # Recorders of screens state 1000, or nothing, for a variable rate.
        (1000.0, [7 + 0.04 * i for i in range(20)], 25.0),
        (0.0, [0, 0.1, 0.15, 0.4], 7.5),
        (float("nan"), [0, 0.5], 2.0),
        (0.0, [0.0] * 20, 25.0),
        (0.0, [3.0], 25.0),
    ],
)
def test_an_unusual_rate_is_measured(stated, times, rate):
    capture = Capture(stated, times)
    frames = list(video._frames(capture, "no frame"))
    assert [frame.rate for frame in frames] == pytest.approx([rate] * len(times))
    expected = [time - times[0] for time in times]
    assert [frame.time for frame in frames] == pytest.approx(expected)
    assert capture.released
