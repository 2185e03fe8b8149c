"""The predict tool, with a detector that finds blobs of pure color exactly."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import types

import cv2
import jax
import numpy as np
import PIL.Image
import pytest

from borrow_det.configs import base
from borrow_det.data.images import decode, strips
from borrow_det.errors import InputError
from borrow_det.inference.detections import Detections
from borrow_det.inference.detector import Detector
from borrow_det.io import paths
from borrow_det.tasks import detection
from borrow_det.tools import score
from borrow_det.tools.common import cli
from borrow_det.tools.predict import __main__ as predict
from borrow_det.workdir import checkpoints, metadata

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0)}
CANVAS = (64, 64)


class BlobDetector(Detector):
    """A detector of the one blob of each class's color in a view, to the pixel."""

    def __init__(self, tolerance=0):
        self.class_names = tuple(COLORS)
        self.category_ids = (3, 9)
        self.canvas = self.input_size = CANVAS
        self.config = types.SimpleNamespace(nms=types.SimpleNamespace(iou=0.45))
        self.tolerance = tolerance
        self.shapes = []

    def detect_canvases(self, images, image_size):
        self.shapes.append(images.shape)
        count = len(images)
        out = {
            "boxes": np.zeros((count, 3, 4), np.float32),
            "scores": np.zeros((count, 3), np.float32),
            "labels": np.zeros((count, 3), np.int32),
            "mask": np.zeros((count, 3), bool),
        }
        for i, (image, size) in enumerate(zip(images, image_size, strict=True)):
            for label, color in enumerate(COLORS.values()):
                distance = np.abs(image.astype(int) - color).max(axis=-1)
                places = np.argwhere(distance <= self.tolerance)
                if len(places):
                    low, high = places.min(axis=0), places.max(axis=0) + 1
                    out["boxes"][i, label] = np.concatenate([low / size, high / size])
                    out["scores"][i, label] = 0.9 - 0.3 * label
                    out["labels"][i, label] = label
                    out["mask"][i, label] = True
        return out


@pytest.fixture
def detector(monkeypatch):
    blobs = BlobDetector()
    monkeypatch.setattr(Detector, "load", staticmethod(lambda workdir, step: blobs))
    return blobs


def scene(height, width, **boxes):
    """A gray RGB image with a blob at [x, y, width, height] of each color."""
    image = np.full((height, width, 3), 128, np.uint8)
    for name, (x, y, w, h) in boxes.items():
        image[y : y + h, x : x + w] = COLORS[name]
    return image


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image).save(path, **options)
    return str(path)


def run(output, *arguments):
    return cli.call(
        predict.main, ["predict", "--workdir=W", f"--output={output}", *arguments]
    )


def results(output):
    return json.loads((pathlib.Path(output) / "detections.json").read_text())


def boxes(output):
    return [result["bbox"] for result in results(output)]


# --- tiles


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tiles=3x3"],
        ["--tiles=auto"],
        ["--tile_size=64"],
        ["--tile_size=48x64", "--overlap=0.5"],
        ["--tiles=auto", "--batch=1"],
    ],
)
# Boxes across a tile's border, in a corner of four tiles, inside one, larger than all.
@pytest.mark.parametrize(
    "box", [[40, 20, 30, 9], [45, 45, 25, 25], [4, 5, 6, 7], [20, 30, 110, 12]]
)
def test_an_object_in_several_tiles_is_found_once_and_exactly(
    tmp_path, detector, arguments, box
):
    path = save(tmp_path / "a.png", scene(120, 150, red=box))
    assert run(tmp_path / "out", *arguments, "--nowhole", "--nopictures", path) == 0
    assert boxes(tmp_path / "out") == [box]


def test_the_entire_image_is_an_additional_view(tmp_path, detector):
    # Tiles of 60 without overlap each contain a part; the entire image, shrunk by two
    # to the canvas, contains the object.
    path = save(tmp_path / "a.png", scene(120, 120, red=[40, 40, 40, 40]))
    tiles = ["--tile_size=60", "--overlap=0", "--nopictures", "--batch=3"]
    assert run(tmp_path / "parts", *tiles, "--nowhole", path) == 0
    assert len(boxes(tmp_path / "parts")) == 4
    detector.tolerance = 80
    assert run(tmp_path / "whole", *tiles, path) == 0
    (box,) = boxes(tmp_path / "whole")
    np.testing.assert_allclose(box, [40, 40, 40, 40], atol=2)
    assert detector.shapes == [(3, *CANVAS, 3)] * 4


def test_images_that_a_tile_covers_are_one_view(tmp_path, detector):
    path = save(tmp_path / "a.png", scene(50, 64, red=[1, 2, 3, 4]))
    assert run(tmp_path / "out", "--tiles=auto", "--batch=1", path) == 0
    assert len(detector.shapes) == 1


@pytest.mark.parametrize(
    ("input_size", "views"),
    [
        ((32, 64), 4),  # Rows from 0, 16 and 32 overlap by the 0.2 asked for; whole.
        ((64, 64), 1),
        ((128, 128), 1),  # A larger tile would be shrunk to the canvas.
    ],
)
def test_automatic_tiles_are_not_shrunk_to_the_input(
    tmp_path, detector, monkeypatch, input_size, views
):
    monkeypatch.setattr(detector, "input_size", input_size)
    path = save(tmp_path / "a.png", scene(64, 64, red=[20, 20, 8, 8]))
    assert run(tmp_path / "out", "--tiles=auto", "--batch=1", path) == 0
    assert len(detector.shapes) == views
    assert boxes(tmp_path / "out") == [[20, 20, 8, 8]]
    large = save(tmp_path / "b.png", scene(64, 100, red=[20, 20, 8, 8]))
    detector.shapes.clear()
    assert run(tmp_path / "b", "--tiles=auto", "--batch=1", large) == 0
    assert len(detector.shapes) == {4: 7, 1: 3}[views]


# --- files


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_images_are_detected_and_broken_ones_are_skipped(
    tmp_path, detector, capsys, batch
):
    folder = tmp_path / "in"
    save(folder / "b.png", scene(40, 60, red=[10, 11, 12, 13], green=[30, 5, 8, 6]))
    save(folder / "deep" / "b.png", scene(60, 40))
    (folder / "broken.jpg").write_bytes(b"junk")
    whole = save(tmp_path / "whole.jpg", scene(300, 200))
    content = pathlib.Path(whole).read_bytes()
    (folder / "truncated.jpg").write_bytes(content[: len(content) // 2])
    (folder / "notes.txt").write_text("not an image by its name")
    save(folder / "z.png", scene(30, 30, green=[3, 4, 5, 6]))
    output = tmp_path / "out"

    assert run(output, f"--batch={batch}", str(folder)) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [str(folder / name) in line for name, line in zip(
        ("broken.jpg", "truncated.jpg"), errors, strict=True
    )] == [True, True]  # fmt: skip
    first, second, last = (str(folder / n) for n in ("b.png", "deep/b.png", "z.png"))
    listed = json.loads((output / "images.json").read_text())
    assert listed == {
        "images": [
            {"id": 1, "file_name": first, "height": 40, "width": 60},
            {"id": 2, "file_name": second, "height": 60, "width": 40},
            {"id": 3, "file_name": last, "height": 30, "width": 30},
        ],
        "categories": [{"id": 3, "name": "red"}, {"id": 9, "name": "green"}],
    }
    found = results(output)
    assert [(r["image_id"], r["category_id"], r["bbox"]) for r in found] == [
        (1, 3, [10, 11, 12, 13]),
        (1, 9, [30, 5, 8, 6]),
        (3, 9, [3, 4, 5, 6]),
    ]
    assert [r["file_name"] for r in found] == [first, first, last]
    assert [r["score"] for r in found] == pytest.approx([0.9, 0.6, 0.6])
    pictures = sorted(path.name for path in (output / "pictures").iterdir())
    assert pictures == ["b.jpg", "b_2.jpg", "z.jpg"]
    # One shape for any number of images: the last batch is padded.
    assert set(detector.shapes) == {(batch, *CANVAS, 3)}
    assert len(detector.shapes) == -(-3 // batch)


def test_the_score_flag_limits_what_is_drawn_and_counted(tmp_path, detector, capsys):
    path = save(tmp_path / "a.png", scene(20, 20, red=[1, 1, 4, 4], green=[9, 9, 4, 4]))
    inked = []
    for least, count in (("0.5", 2), ("0.7", 1), ("0.95", 0)):
        output = tmp_path / least
        assert run(output, f"--score={least}", path) == 0
        # The file holds all: a precision-recall curve needs its tail.
        assert len(results(output)) == 2
        told = (
            f"1 images, {count} detections with a score of at least {least}; 2 in all"
        )
        assert told in capsys.readouterr().out
        picture = np.array(PIL.Image.open(output / "pictures" / "a.jpg"))
        inked.append(int((picture.max(axis=-1) < 60).sum()))
    assert inked[0] > inked[1] > inked[2] == 0
    assert not list(tmp_path.rglob("*.part"))


def test_pictures_show_the_boxes_unless_they_are_turned_off(tmp_path, detector):
    path = save(tmp_path / "a.png", scene(50, 50, red=[20, 20, 10, 10]))
    assert run(tmp_path / "out", path) == 0
    picture = np.array(PIL.Image.open(tmp_path / "out" / "pictures" / "a.jpg"))
    # Four times as large, the blob at 80 to 120; a dark line is outside the box.
    assert picture.shape == (200, 200, 3)
    assert (picture[82:118, 77] < 60).all()
    assert (picture[82:118, 60] > 100).all()
    assert run(tmp_path / "none", "--nopictures", path) == 0
    assert not (tmp_path / "none" / "pictures").exists()


def test_images_of_every_mode_are_read_upright(tmp_path, detector):
    upright = scene(40, 60, green=[30, 5, 8, 6])
    turned = PIL.Image.fromarray(np.rot90(upright))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # To be shown turned by 90 degrees clockwise.
    turned.save(tmp_path / "turned.png", exif=exif)
    rgba = np.dstack([upright, np.full((40, 60), 255, np.uint8)])
    save(tmp_path / "rgba.png", rgba)
    PIL.Image.fromarray(upright).quantize(8).save(tmp_path / "palette.png")
    PIL.Image.fromarray(upright).convert("CMYK").save(tmp_path / "cmyk.tif")
    names = ("turned.png", "rgba.png", "palette.png", "cmyk.tif")
    paths = [str(tmp_path / name) for name in names]
    assert run(tmp_path / "out", "--nopictures", *paths) == 0
    assert boxes(tmp_path / "out") == [[30, 5, 8, 6]] * 4
    gray = save(tmp_path / "gray.png", np.zeros((9, 9), np.uint8))
    assert run(tmp_path / "gray", gray) == 0
    assert results(tmp_path / "gray") == []


def test_repaired_images_and_skipped_files_are_counted(tmp_path, detector, capsys):
    folder = tmp_path / "in"
    save(folder / "whole.png", scene(40, 60, green=[30, 5, 8, 6]))
    path = pathlib.Path(save(folder / "a.jpg", scene(40, 60)))
    path.write_bytes(path.read_bytes().removesuffix(b"\xff\xd9"))
    (folder / "notes.txt").write_text("text")
    assert run(tmp_path / "out", str(folder)) == 0
    told = capsys.readouterr()
    assert told.err.splitlines() == [
        f"warning: {path} is incomplete, but all of its pixels are there: it has no "
        "end marker"
    ]
    end = "; repaired images: 1; skipped: 1 .txt\n"
    assert told.out.endswith(f"detections.json{end}")


def test_images_beyond_the_limit_are_read_by_strips(
    tmp_path, detector, capsys, monkeypatch
):
    path = save(tmp_path / "a.png", scene(200, 150, red=[20, 90, 6, 7]))
    tiled = ("--tile_size=64", path)
    assert run(tmp_path / "ordinary", *tiled) == 0
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10000)
    assert run(tmp_path / "refused", *tiled) == 1
    assert "set --max_pixels=30000 if you trust" in capsys.readouterr().err
    monkeypatch.setattr(strips, "STRIP_PIXELS", 20000)
    assert run(tmp_path / "strips", "--max_pixels=30000", *tiled) == 0
    assert results(tmp_path / "strips") == results(tmp_path / "ordinary")
    assert boxes(tmp_path / "strips") == [[20, 90, 6, 7]]
    for name in ("images.json", "pictures/a.jpg"):
        ordinary = (tmp_path / "ordinary" / name).read_bytes()
        assert (tmp_path / "strips" / name).read_bytes() == ordinary
    # A shrunk picture is drawn on with the boxes where the objects are.
    monkeypatch.setattr(strips, "_PICTURE_PIXELS", 200 * 150 // 4)
    assert run(tmp_path / "shrunk", "--nowhole", "--max_pixels=30000", *tiled) == 0
    assert boxes(tmp_path / "shrunk") == [[20, 90, 6, 7]]
    monkeypatch.undo()
    assert PIL.Image.open(tmp_path / "shrunk/pictures/a.jpg").size == (75 * 4, 100 * 4)


def test_pictures_of_an_earlier_call_are_not_inputs(tmp_path, detector):
    save(tmp_path / "a.png", scene(20, 20, red=[1, 1, 4, 4]))
    for _ in range(2):
        assert run(tmp_path / "out", str(tmp_path)) == 0
        listed = json.loads((tmp_path / "out" / "images.json").read_text())
        assert [i["file_name"] for i in listed["images"]] == [f"{tmp_path}/a.png"]


def test_patterns_and_repeated_names(tmp_path, detector):
    for name in ("a1.png", "a2.png", "deep/a3.png", "b.png"):
        save(tmp_path / name, scene(20, 20, red=[1, 1, 4, 4]))
    inputs = [f"{tmp_path}/**/a[12].png", f"{tmp_path}/a1.png"]
    assert run(tmp_path / "out", "--nopictures", *inputs) == 0
    names = [pathlib.Path(r["file_name"]).name for r in results(tmp_path / "out")]
    assert names == ["a1.png", "a2.png"]


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
    # MPEG-4 has no time base for this rate, which damaged headers may contain.
    frames = [(0.001, scene(48, 64, green=[4, 16, 16, 16]))] * 2
    monkeypatch.setattr(predict.video, "read_frames", lambda path: iter(frames))
    (tmp_path / "clip.mp4").write_bytes(b"")
    assert run(tmp_path / "out", str(tmp_path / "clip.mp4")) == 1
    assert len(results(tmp_path / "out")) == 2
    told = f"not drawn: {tmp_path}/out/pictures/clip.mp4: OpenCV cannot write an MP4 of"
    assert capsys.readouterr().err.count(told) == 1
    assert not list((tmp_path / "out" / "pictures").iterdir())


def write_video(path, frames, code="MJPG", rate=12.0):
    """Writes frames, RGB; the name may be any bytes."""
    height, width, _ = frames[0].shape
    with paths.plain_name(path) as plain:
        writer = cv2.VideoWriter(
            plain, cv2.VideoWriter_fourcc(*code), rate, (width, height)
        )
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()


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
    annotated = list(predict.video.read_frames(pictures / f"{stem}.mp4"))
    assert [frame.shape for _, frame in annotated] == [(192, 256, 3)] * 3


def test_a_damaged_video_of_any_name_is_reported(tmp_path, detector, capsys):
    (tmp_path / os.fsdecode(b"\xff.avi")).write_bytes(b"junk")
    still = save(tmp_path / "still.png", scene(20, 20, red=[1, 1, 4, 4]))
    assert run(tmp_path / "out", str(tmp_path)) == 1
    assert "\\xff.avi cannot be read as a video" in capsys.readouterr().err
    assert [r["file_name"] for r in results(tmp_path / "out")] == [still]


# --- calls that end early


def parts(output):
    """The (detections, images) that a call has written so far."""
    names = ("detections.json.part", "images.json.part")
    found, listed = (json.loads((output / name).read_text()) for name in names)
    return [r["image_id"] for r in found], [i["id"] for i in listed["images"]]


def test_results_are_readable_after_every_batch(tmp_path, detector, monkeypatch):
    names = [f"{i}.png" for i in range(6)]
    for name in names:
        save(tmp_path / "in" / name, scene(20, 20, red=[1, 1, 4, 4]))
    seen, detect = [], detector.detect_canvases

    def detect_canvases(*arguments):
        seen.append(parts(tmp_path / "out"))
        return detect(*arguments)

    monkeypatch.setattr(detector, "detect_canvases", detect_canvases)
    assert run(tmp_path / "out", "--batch=2", str(tmp_path / "in")) == 0
    assert seen == [([], []), ([1, 2], [1, 2]), ([1, 2, 3, 4], [1, 2, 3, 4])]


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, 130), (InputError("no more"), 2)]
)
def test_a_call_that_ends_early_leaves_what_is_done(
    tmp_path, detector, monkeypatch, capsys, error, status
):
    save(tmp_path / "in" / "0.png", scene(20, 20, red=[1, 1, 4, 4]))
    write_video(tmp_path / "in" / "1.avi", [scene(20, 20, red=[1, 1, 4, 4])] * 9)
    detect = detector.detect_canvases

    def detect_canvases(*arguments):
        if len(detector.shapes) == 3:
            raise error
        return detect(*arguments)

    monkeypatch.setattr(detector, "detect_canvases", detect_canvases)
    output = tmp_path / "out"
    assert run(output, "--batch=2", str(tmp_path / "in")) == status
    told = capsys.readouterr()
    assert told.out.startswith("6 images, ")
    assert told.err.count("\n") == 1
    listed = json.loads((output / "images.json").read_text())
    assert [image.get("frame") for image in listed["images"]] == [None, 0, 1, 2, 3, 4]
    assert {r["image_id"] for r in results(output)} <= set(range(1, 7))
    assert [path.name for path in output.glob("*.part")] == []
    annotated = list(predict.video.read_frames(output / "pictures" / "1.mp4"))
    assert len(annotated) == 5


def test_a_call_that_ends_before_its_first_image_leaves_earlier_results(
    tmp_path, detector, monkeypatch
):
    path = save(tmp_path / "a.png", scene(20, 20, red=[1, 1, 4, 4]))
    assert run(tmp_path / "out", path) == 0
    before = results(tmp_path / "out")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(detector, "detect_canvases", interrupted)
    assert run(tmp_path / "out", path) == 130
    assert results(tmp_path / "out") == before
    assert [p.name for p in (tmp_path / "out").glob("*.part")] == []


KILLED = """
import os, signal, sys
from borrow_det.errors import InputError
from borrow_det.inference.detections import Detections
from borrow_det.inference.detector import Detector
from borrow_det.tools.common import cli
from borrow_det.tools.predict import __main__ as predict
from tests.tools.predict.test_predict import BlobDetector

class Killed(BlobDetector):
    def detect_canvases(self, *arguments):
        if len(self.shapes) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().detect_canvases(*arguments)

Detector.load = staticmethod(lambda workdir, step: Killed())
cli.call(predict.main, ["predict", "--workdir=W", "--batch=2", *sys.argv[1:]])
"""


def test_a_killed_call_loses_its_last_batch_only(tmp_path):
    for i in range(6):
        save(tmp_path / "in" / f"{i}.png", scene(20, 20, red=[1, 1, 4, 4]))
    output = tmp_path / "out"
    root = pathlib.Path(__file__).resolve().parents[3]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, f"--output={output}", str(tmp_path / "in")],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert parts(output) == ([1, 2, 3, 4], [1, 2, 3, 4])
    assert len(list((output / "pictures").iterdir())) == 4


# --- failures that end no call


def test_an_input_that_fails_in_any_way_is_skipped(
    tmp_path, detector, monkeypatch, capsys
):
    read = predict.inputs.read_upright

    def broken(path, *arguments):
        if path.name == "b.png":
            raise MemoryError("no room for its pixels")
        return read(path, *arguments)

    monkeypatch.setattr(predict.inputs, "read_upright", broken)
    for name in "abc":
        save(tmp_path / "in" / f"{name}.png", scene(20, 20, red=[1, 1, 4, 4]))
    assert run(tmp_path / "out", str(tmp_path / "in")) == 1
    told = capsys.readouterr()
    reason = "MemoryError: no room for its pixels"
    assert told.err == f"skipped: {tmp_path}/in/b.png: {reason}\n"
    assert told.out.endswith("/detections.json; inputs not read completely: 1\n")
    assert [r["file_name"][-5:] for r in results(tmp_path / "out")] == [
        "a.png",
        "c.png",
    ]


def test_a_picture_that_cannot_be_drawn_is_reported(
    tmp_path, detector, monkeypatch, capsys
):
    plot = Detections.plot

    def broken(found, score):
        if found.image_size == (20, 30):
            raise ValueError("no such font")
        return plot(found, score)

    monkeypatch.setattr(Detections, "plot", broken)
    save(tmp_path / "in" / "a.png", scene(20, 30, red=[1, 1, 4, 4]))
    save(tmp_path / "in" / "b.png", scene(20, 20, red=[1, 1, 4, 4]))
    write_video(tmp_path / "in" / "c.avi", [scene(20, 30)] * 3)
    assert run(tmp_path / "out", str(tmp_path / "in")) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"not drawn: {tmp_path}/in/a.png: ValueError: no such font",
        f"not drawn: {tmp_path}/in/c.avi[0]: ValueError: no such font",
    ]
    assert len(results(tmp_path / "out")) == 2
    assert [p.name for p in (tmp_path / "out" / "pictures").iterdir()] == ["b.jpg"]


def test_a_video_whose_frames_change_their_size_is_drawn_up_to_there(
    tmp_path, detector, monkeypatch, capsys
):
    frames = [(12.0, scene(64, side, red=[1, 1, 4, 4])) for side in (64, 64, 80, 80)]
    monkeypatch.setattr(predict.video, "read_frames", lambda path: iter(frames))
    (tmp_path / "clip.mp4").write_bytes(b"")
    assert run(tmp_path / "out", str(tmp_path / "clip.mp4")) == 1
    assert [r["frame"] for r in results(tmp_path / "out")] == [0, 1, 2, 3]
    told = "clip.mp4: a frame has 320 x 256 pixels, the first one 256 x 256\n"
    assert capsys.readouterr().err.endswith(told)
    capture = cv2.VideoCapture(str(tmp_path / "out" / "pictures" / "clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 2


# --- against ground truth


@pytest.mark.parametrize("make_id", [int, str])
def test_the_score_tool_reads_detections_with_ids_from_a_coco_file(
    tmp_path, detector, capsys, make_id
):
    truth = {"images": [], "annotations": []}
    truth["categories"] = [
        {"id": make_id(3), "name": "red"},
        {"id": make_id(9), "name": "green"},
    ]
    for i, folder in enumerate(("x", "y")):
        box = [5 + i, 6, 7, 8]
        save(tmp_path / folder / "a.png", scene(30, 30, red=box))
        image_id = make_id(70 - i)
        truth["images"].append({"id": image_id, "file_name": f"{folder}/a.png"})
        truth["annotations"].append(
            {"image_id": image_id, "category_id": make_id(3), "bbox": box}
        )
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    folders = [str(tmp_path / "x"), str(tmp_path / "y")]
    assert run(tmp_path / "out", f"--ids_from={path}", *folders) == 0
    assert [r["image_id"] for r in results(tmp_path / "out")] == [
        make_id(70),
        make_id(69),
    ]
    capsys.readouterr()
    arguments = [
        f"--ground_truth={path}",
        f"--detections={tmp_path}/out/detections.json",
    ]
    assert cli.call(score.main, ["score", *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["AP/red"] == pytest.approx(1.0)
    other = save(tmp_path / "z" / "other.png", scene(9, 9))
    assert run(tmp_path / "out", f"--ids_from={path}", other) == 2
    assert "has no image of that name" in capsys.readouterr().err


# --- usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name at least one image"),
        (["nowhere.png"], "nowhere.png: there is no such file or folder"),
        (["no*where.png"], "no*where.png: there is no such file or folder"),
        (["EMPTY"], "there is no image or video in it"),
        (["--tiles=2", "IMAGE"], "--tiles=2 is not ROWSxCOLUMNS or auto"),
        (["--tiles=0x2", "IMAGE"], "--tiles=0x2 is not ROWSxCOLUMNS or auto"),
        (["--tile_size=a", "IMAGE"], "--tile_size=a is not N or HEIGHTxWIDTH"),
        (["--tiles=2x2", "--tile_size=9", "IMAGE"], "not both"),
        (["--batch=0", "IMAGE"], "not a positive integer"),
        (["--score=2", "IMAGE"], "not a number in the range [0.0, 1.0]"),
        (["--output=IMAGE", "IMAGE"], "File exists"),
    ],
)
def test_usage_errors_are_one_line(tmp_path, detector, capsys, arguments, message):
    (tmp_path / "empty").mkdir()
    image = save(tmp_path / "a.png", scene(9, 9))
    arguments = [
        a.replace("IMAGE", image).replace("EMPTY", str(tmp_path / "empty"))
        for a in arguments
    ]
    assert run(tmp_path / "out", *arguments) == 2
    output = capsys.readouterr()
    assert message in output.err
    assert (output.out, output.err.count("\n")) == ("", 1)


def test_a_folder_that_is_not_a_work_directory_is_refused(tmp_path, capsys):
    image = save(tmp_path / "a.png", scene(9, 9))
    argv = ["predict", f"--workdir={tmp_path}", f"--output={tmp_path}/out", image]
    assert cli.call(predict.main, argv) == 2
    assert "is not a work directory" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- a real detector


def tiny_config():
    config = base.get_config()
    with config.unlocked():
        config.input_size = CANVAS
        config.dataset.canvas = CANVAS
        config.model.width = 0.03125
        config.model.stages = (1, 1, 1, 1, 1)
        config.model.norm = "batch"
        config.borrow.channels = 8
        config.nms.max_total = 20
        config.nms.score = 0.0
    return config


def random_variables(task):
    """Random variables from NumPy: compiling the initialization takes half a minute."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: np.abs(rng.normal(0.1, 0.05, leaf.shape)).astype(leaf.dtype),
        jax.eval_shape(task.init, jax.random.key(0)),
    )


def test_detections_of_a_run_on_disk_match_those_of_its_network(tmp_path):
    workdir, config = tmp_path / "run", tiny_config()
    classes = metadata.Classes(("red", "green"), (3, 9))
    metadata.prepare(workdir, config, classes, {})
    variables = random_variables(detection.DetectionTask(config, 2))
    state = {**variables, "ema_params": {}, "step": np.int32(7)}
    saver = checkpoints.Checkpoints(workdir, every=1, keep=1)
    saver.save(7, state)
    saver.close()
    noise = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    path = save(tmp_path / "a.png", noise)
    argv = ["predict", f"--workdir={workdir}", f"--output={tmp_path}/out"]
    assert cli.call(predict.main, [*argv, "--score=0", "--batch=2", path]) == 0

    detector = Detector.load(workdir)
    canvas, size = decode.to_canvas(noise, CANVAS)
    out = detector.detect_canvases(canvas[None], np.array([size], np.int32))
    found = results(tmp_path / "out")
    assert len(found) == out["mask"][0].sum() > 0
    assert [r["score"] for r in found] == out["scores"][0][: len(found)].tolist()
    corners = out["boxes"][0][: len(found)] * np.float32([50, 40, 50, 40])
    expected = np.concatenate(
        [corners[:, 1::-1], (corners[:, 2:] - corners[:, :2])[:, ::-1]], axis=1
    )
    np.testing.assert_allclose([r["bbox"] for r in found], expected, atol=1e-3)
