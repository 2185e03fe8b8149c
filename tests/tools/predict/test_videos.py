"""Videos that the predict tool reads and writes."""

import json
import os

import cv2
import numpy as np
import PIL.Image
import pytest

from borrow_det.inference import video
from tests.tools.predict.blobs import (
    results,
    run,
    save,
    scene,
    write_video,
)


def test_a_video_gives_records_of_its_frames_and_an_annotated_video(tmp_path, detector):
    # Compression changes the blob's color slightly; it moves by 3 pixels per frame.
    detector.tolerance = 90
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 12.0, (64, 48))
    for frame in range(6):
        image = scene(48, 64, green=[4 + 3 * frame, 16, 16, 16])
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()
    still = save(tmp_path / "still.png", scene(20, 20, red=[1, 1, 4, 4]))
    assert run(tmp_path / "out", "--batch=4", str(path), still) == 0
    found = results(tmp_path / "out")
    assert [r["image_id"] for r in found] == [1, 2, 3, 4, 5, 6, 7]
    assert [r.get("frame") for r in found] == [0, 1, 2, 3, 4, 5, None]
    for frame, result in enumerate(found[:-1]):
        assert result["file_name"] == str(path)
        expected = [4 + 3 * frame, 16, 16, 16]
        np.testing.assert_allclose(result["bbox"], expected, atol=2)
    annotated = cv2.VideoCapture(str(tmp_path / "out" / "pictures" / "clip.mp4"))
    assert annotated.get(cv2.CAP_PROP_FPS) == 12
    count = 0
    while annotated.read()[0]:
        count += 1
    assert count == 6
    assert (tmp_path / "out" / "pictures" / "still.jpg").exists()


def test_a_video_that_does_not_open_is_skipped(tmp_path, detector, capsys):
    (tmp_path / "clip.mp4").write_bytes(b"junk")
    still = save(tmp_path / "still.png", scene(20, 20, red=[1, 1, 4, 4]))
    assert run(tmp_path / "out", str(tmp_path / "clip.mp4"), still) == 1
    assert f"skipped: {tmp_path}/clip.mp4 cannot be read" in capsys.readouterr().err
    assert len(results(tmp_path / "out")) == 1


def test_a_video_that_breaks_off_is_incomplete(tmp_path, detector, capsys):
    detector.tolerance = 90
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 12.0, (64, 48))
    for _ in range(40):
        writer.write(scene(48, 64, green=[4, 16, 16, 16])[..., ::-1].copy())
    writer.release()
    assert run(tmp_path / "whole", "--nopictures", str(path)) == 0
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    capsys.readouterr()
    still = save(tmp_path / "still.png", scene(20, 20, red=[1, 1, 4, 4]))
    assert run(tmp_path / "out", "--nopictures", str(path), still) == 1
    found = results(tmp_path / "out")
    kept = [r["frame"] for r in found if "frame" in r]
    assert kept == list(range(len(kept)))
    assert 10 < len(kept) < 30
    assert len(found) == len(kept) + 1
    told = f"incomplete: {path}: only {len(kept)} of its 40 frames can be read"
    assert told in capsys.readouterr().err


def test_an_annotated_video_that_cannot_be_written_is_reported(
    tmp_path, detector, capsys, monkeypatch
):
    detector.tolerance = 90
    frames = [scene(48, 64, green=[4, 16, 16, 16])] * 2
    write_video(tmp_path / "clip.mp4", frames, "mp4v")
    monkeypatch.setattr(cv2.VideoWriter, "isOpened", lambda writer: False)
    assert run(tmp_path / "out", str(tmp_path / "clip.mp4")) == 1
    assert len(results(tmp_path / "out")) == 2
    told = f"not drawn: {tmp_path}/out/pictures/clip.mp4: OpenCV cannot write an MP4 of"
    assert capsys.readouterr().err.count(told) == 1
    assert not list((tmp_path / "out" / "pictures").iterdir())


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (b"\xff", "\\xff"),  # Not UTF-8: OpenCV would crash.
        ("猫".encode(), "猫"),
        (b"%03d", "%03d"),  # A sequence of files to OpenCV.
        (b"cam:1", "cam:1"),  # A protocol to FFmpeg.
        (b"a\nb", "a\nb"),
    ],
)
def test_files_of_any_name_are_read_and_written(tmp_path, detector, capsys, name, told):
    detector.tolerance = 90
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    stem = os.fsdecode(name)
    write_video(folder / f"{stem}.avi", [scene(48, 64, green=[4, 16, 16, 16])] * 3)
    PIL.Image.fromarray(scene(20, 20, red=[1, 1, 4, 4])).save(tmp_path / "plain.png")
    (tmp_path / "plain.png").rename(folder / f"{stem}.png")
    output = tmp_path / os.fsdecode(b"out" + name)
    assert run(output, str(folder)) == 0
    assert capsys.readouterr().err == ""
    found = results(output)
    place = f"{tmp_path}/{told}/{told}"
    assert [r["file_name"] for r in found] == [f"{place}.avi"] * 3 + [f"{place}.png"]
    listed = json.loads((output / "images.json").read_text())["images"]
    assert [image["file_name"] for image in listed] == [r["file_name"] for r in found]
    pictures = output / "pictures"
    assert PIL.Image.open(pictures / f"{stem}.jpg").size == (80, 80)
    annotated = list(video.read_frames(pictures / f"{stem}.mp4"))
    assert [frame.image.shape for frame in annotated] == [(192, 256, 3)] * 3


def test_a_damaged_video_of_any_name_is_reported(tmp_path, detector, capsys):
    (tmp_path / os.fsdecode(b"\xff.avi")).write_bytes(b"junk")
    still = save(tmp_path / "still.png", scene(20, 20, red=[1, 1, 4, 4]))
    assert run(tmp_path / "out", str(tmp_path)) == 1
    assert "\\xff.avi cannot be read as a video" in capsys.readouterr().err
    assert [r["file_name"] for r in results(tmp_path / "out")] == [still]


def test_a_video_whose_frames_change_their_size_is_drawn_up_to_there(
    tmp_path, detector, monkeypatch, capsys
):
    frames = [
        video.Frame(scene(64, side, red=[1, 1, 4, 4]), 12.0, i / 12)
        for i, side in enumerate((64, 64, 80, 80))
    ]
    monkeypatch.setattr(video, "read_frames", lambda path: iter(frames))
    (tmp_path / "clip.mp4").write_bytes(b"")
    assert run(tmp_path / "out", str(tmp_path / "clip.mp4")) == 1
    assert [r["frame"] for r in results(tmp_path / "out")] == [0, 1, 2, 3]
    told = "clip.mp4: a frame has 320 x 256 pixels, the first one 256 x 256\n"
    assert told in capsys.readouterr().err
    capture = cv2.VideoCapture(str(tmp_path / "out" / "pictures" / "clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 2
