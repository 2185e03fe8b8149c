"""Calls of the predict tool that end early, and failures that end no call."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from borrow_det.data.images import inputs
from borrow_det.errors import InputError
from borrow_det.inference import video
from borrow_det.inference.detections import Detections
from tests.tools.predict.blobs import (
    parts,
    results,
    run,
    save,
    scene,
    write_video,
)


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
    assert told.out.splitlines()[-1].startswith("6 images, ")
    assert told.err.count("\n") == 1
    listed = json.loads((output / "images.json").read_text())
    assert [image.get("frame") for image in listed["images"]] == [None, 0, 1, 2, 3, 4]
    assert {r["image_id"] for r in results(output)} <= set(range(1, 7))
    assert [path.name for path in output.glob("*.part")] == []
    annotated = list(video.read_frames(output / "pictures" / "1.mp4"))
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
from tests.tools.predict.blobs import BlobDetector

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
    read = inputs.read_upright

    def broken(path, *arguments):
        if path.name == "b.png":
            raise MemoryError("no room for its pixels")
        return read(path, *arguments)

    monkeypatch.setattr(inputs, "read_upright", broken)
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
