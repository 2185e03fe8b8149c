"""Tracks that the predict tool writes."""

import dataclasses
import json
from importlib import metadata

import cv2
import numpy as np
import PIL.Image
import pytest

from borrow_det.inference import tracking
from borrow_det.inference.detections import NO_TRACK
from borrow_det.tools.predict import track_files
from tests.tools.predict.blobs import results, run, save, scene, write_video


class Counting:
    """A tracker that numbers the detections of each frame, but not of the first."""

    def __init__(self, rate, score):
        self.rate, self.score, self.frames = rate, score, 0

    def update(self, found):
        self.frames += 1
        ids = np.arange(1, len(found) + 1)
        if self.frames == 1:
            ids[:] = NO_TRACK
        return dataclasses.replace(found, track_ids=ids)


@pytest.fixture
def counting(monkeypatch):
    """Puts `Counting` in the place of the tracker; returns those that were made."""
    made = []

    def make(rate, score):
        made.append(Counting(rate, score))
        return made[-1]

    monkeypatch.setattr(tracking, "check_installed", lambda: None)
    monkeypatch.setattr(track_files, "Tracker", make)
    return made


def clip(path, count=3):
    """Writes a video of a green and a red blob."""
    image = scene(48, 64, green=[4, 16, 16, 16], red=[40, 8, 16, 16])
    write_video(path, [image] * count)
    return str(path)


def lines(output, name):
    return (output / "tracks" / f"{name}.txt").read_text().splitlines()


def test_each_video_has_a_file_in_the_format_of_the_mot_challenge(
    tmp_path, detector, counting
):
    detector.tolerance = 90
    (tmp_path / "a").mkdir()
    first = clip(tmp_path / "a" / "x.avi")
    (tmp_path / "b").mkdir()
    second = clip(tmp_path / "b" / "x.avi", count=2)
    still = save(tmp_path / "still.png", scene(20, 20, red=[1, 1, 4, 4]))
    output = tmp_path / "out"
    assert run(output, "--tracks", "--score=0.7", first, second, still) == 0
    assert [(t.rate, t.score, t.frames) for t in counting] == [
        (12, 0.7, 3),
        (12, 0.7, 2),
    ]
    found = results(output)
    tracked = [r for r in found if "track_id" in r]
    assert [(r["file_name"], r["frame"], r["track_id"]) for r in tracked] == [
        (first, 1, 1),
        (first, 1, 2),
        (first, 2, 1),
        (first, 2, 2),
        (second, 1, 1),
        (second, 1, 2),
    ]
    values = [
        ",".join(map(str, [r["track_id"], *r["bbox"], r["score"], -1, -1, -1]))
        for r in tracked
    ]
    assert lines(output, "x") == [
        f"{frame},{line}" for frame, line in zip((2, 2, 3, 3), values[:4], strict=True)
    ]
    assert lines(output, "x_2") == [f"2,{line}" for line in values[4:]]
    np.testing.assert_allclose(tracked[1]["bbox"], [4, 16, 16, 16], atol=2)
    images = json.loads((output / "images.json").read_text())["images"]
    assert [image.get("tracks") for image in images] == [
        *["tracks/x.txt"] * 3,
        *["tracks/x_2.txt"] * 2,
        None,
    ]


def test_ids_are_drawn_in_the_video(tmp_path, detector, counting, monkeypatch):
    detector.tolerance = 90
    drawn = []
    plot = track_files.Detections.plot
    monkeypatch.setattr(
        track_files.Detections,
        "plot",
        lambda found, score: drawn.append(found._track_notes()) or plot(found, score),
    )
    path = clip(tmp_path / "x.avi")
    assert run(tmp_path / "out", "--tracks", path) == 0
    assert drawn == [["", ""], ["#1", "#2"], ["#1", "#2"]]


def test_files_of_an_earlier_call_are_removed_and_those_of_others_refused(
    tmp_path, detector, counting, capsys
):
    detector.tolerance = 90
    output, path = tmp_path / "out", clip(tmp_path / "x.avi")
    assert run(output, "--tracks", path) == 0
    assert run(output, path) == 0
    assert not (output / "tracks").exists()
    assert not any("track_id" in record for record in results(output))
    (output / "tracks").mkdir()
    (output / "tracks" / "mine.txt").write_text("1")
    assert run(output, "--tracks", path) == 2
    assert "mine.txt" in capsys.readouterr().err
    assert run(output, path) == 0
    assert (output / "tracks" / "mine.txt").read_text() == "1"


@pytest.mark.extras
def test_images_and_videos_are_read_where_opencv_is_installed_twice(tmp_path, detector):
    # The package trackers requires the first, which has the folder of the second.
    for name in ("opencv-python", "opencv-python-headless"):
        assert metadata.version(name)
    detector.tolerance = 90
    frames = [scene(48, 64, green=[4 + i, 16, 16, 16]) for i in range(6)]
    write_video(tmp_path / "clip.avi", frames)
    image = scene(48, 64, red=[2, 2, 8, 8])
    for suffix in (".png", ".bmp", ".tif", ".jpg"):
        PIL.Image.fromarray(image).save(tmp_path / f"a{suffix}", quality=95)
    assert cv2.imread(str(tmp_path / "a.png")).tolist() == image[..., ::-1].tolist()
    output = tmp_path / "out"
    assert run(output, "--tracks", str(tmp_path)) == 0
    found = results(output)
    boxes = [record["bbox"] for record in found if "frame" not in record]
    np.testing.assert_allclose(boxes, [[2, 2, 8, 8]] * 4, atol=1)
    frames = [record for record in found if "frame" in record]
    assert [record.get("track_id") for record in frames] == [None, 1, 1, 1, 1, 1]
    assert [line.split(",")[:2] for line in lines(output, "clip")] == [
        [str(frame), "1"] for frame in range(2, 7)
    ]
    copy = cv2.VideoCapture(str(output / "pictures" / "clip.mp4"))
    assert copy.get(cv2.CAP_PROP_FRAME_COUNT) == 6
