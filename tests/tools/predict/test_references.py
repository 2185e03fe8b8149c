"""The references of the predict tool, with a trained run."""

import json

import numpy as np
import PIL.Image
import pytest

from borrow_det.inference import video
from borrow_det.inference.detector import Detector
from borrow_det.tools.common import cli
from borrow_det.tools.predict import __main__ as predict
from tests.tools.predict.blobs import results, save, scene, write_video

pytestmark = pytest.mark.filterwarnings("ignore:this run was trained without")


@pytest.fixture(scope="module")
def run(tiny_run):
    return Detector.load(tiny_run.workdir)


@pytest.fixture
def call(tiny_run, tmp_path):
    """A function that runs the tool and returns (exit status, detections)."""

    def call(*arguments):
        output = tmp_path / "out"
        flags = [f"--workdir={tiny_run.workdir}", f"--output={output}", "--nopictures"]
        status = cli.call(predict.main, ["predict", *flags, *map(str, arguments)])
        return status, results(output) if output.exists() else None

    return call


@pytest.fixture
def frames(scenes):
    return [np.asarray(PIL.Image.open(scenes / f"val_{i}.jpg")) for i in range(7)]


@pytest.fixture
def clips(frames, tmp_path):
    """Two videos and their frames as they are read."""
    paths = [tmp_path / "a.avi", tmp_path / "b.avi"]
    for path, some in zip(paths, (frames[:5], frames[4:]), strict=True):
        write_video(path, some)
    return [(p, [f.image for f in video.read_frames(p)]) for p in paths]


def records(sequences):
    """Returns the results of sequences of detections, numbered from 1."""
    found = [one for sequence in sequences for one in sequence]
    return [r for number, one in enumerate(found, 1) for r in one.to_coco(number)]


def without_names(found):
    return [
        {k: v for k, v in record.items() if k not in ("file_name", "frame")}
        for record in found
    ]


def test_the_ring_begins_anew_with_each_video(run, call, clips, frames, tmp_path):
    stills = [save(tmp_path / f"s{i}.png", frames[i]) for i in range(2)]
    (first, of_first), (second, of_second) = clips
    options = {"references": 2, "batch_size": 3}
    status, found = call("--references=2", "--batch=3", first, second, *stills)
    assert status == 0
    sequences = (of_first, of_second, frames[:2])
    expected = records(run(images, **options) for images in sequences)
    assert without_names(found) == expected
    # The second video would have borrowed from the first.
    together = records([run([*of_first, *of_second, *frames[:2]], **options)])
    assert without_names(found) != together
    assert {record.get("frame") for record in found} <= {None, 0, 1, 2, 3, 4}


def test_the_stride_and_the_cuts_are_those_of_the_flags(run, call, frames, tmp_path):
    film = [frame // 3 + np.uint8(170 * (i > 3)) for i, frame in enumerate(frames)]
    write_video(tmp_path / "a.avi", film)
    film = [frame.image for frame in video.read_frames(tmp_path / "a.avi")]
    flags = ["--references=1", "--reference_stride=2", "--reference_cuts"]
    status, found = call(*flags, tmp_path / "a.avi")
    assert status == 0
    options = {"references": 1, "reference_stride": 2}
    cut = records([run(film[:4], **options), run(film[4:], **options)])
    assert [r["bbox"] for r in found] == [r["bbox"] for r in cut]
    np.testing.assert_allclose(
        [r["score"] for r in found], [r["score"] for r in cut], atol=1e-5
    )
    assert without_names(found) != records([run(film, **options)])


def test_tiles_borrow_from_the_overview(run, call, frames, tmp_path):
    large = np.block([[[frames[0]], [frames[1]]], [[frames[2]], [frames[3]]]])
    path = save(tmp_path / "large.png", large)
    status, found = call("--references=overview", "--tiles=auto", path)
    assert status == 0
    expected = records([run([large], references="overview", tiles="auto")])
    assert without_names(found) == expected
    _, plain = call("--tiles=auto", path)
    assert plain != found


def test_a_folder_lends_its_images(run, call, frames, tmp_path):
    for number in range(2):
        save(tmp_path / "exemplars" / f"{number}.png", frames[number])
    path = save(tmp_path / "a.png", frames[5])
    status, found = call(f"--references={tmp_path}/exemplars", path)
    assert status == 0
    expected = records([run([frames[5]], references=frames[:2])])
    assert without_names(found) == expected
    listed = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert [image["file_name"] for image in listed] == [path]


def test_a_run_trained_without_references_says_so_once(call, clips, capsys):
    paths = [path for path, _ in clips]
    assert call("--references=1", *paths)[0] == 0
    assert capsys.readouterr().err == (
        "warning: this run was trained without references (references.kind=none) and "
        "borrows from them all the same: compare its detections with those of "
        "references=none\n"
    )
    assert call("--references=none", *paths)[0] == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--references=0"], "--references=0 is not a number of images: give a number"),
        (["--references=nowhere"], "--references=nowhere: there is no such folder"),
        (["--references=EMPTY"], "--references=EMPTY: there is no image in it; exem"),
        (["--references=BROKEN"], "BROKEN/a.jpg is not an image that Pillow can read"),
        (["--reference_stride=2"], "--reference_stride needs --references=N, a number"),
        (["--references=2", "--reference_stride=0"], "--reference_stride"),
        (
            ["--references=overview", "--reference_cuts"],
            "--reference_cuts needs --references=N, a number of last images",
        ),
    ],
)
def test_wrong_references_end_the_call_in_one_line(
    call, tmp_path, capsys, flags, message
):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "BROKEN").mkdir()
    (tmp_path / "BROKEN/a.jpg").write_bytes(b"junk")
    path = save(tmp_path / "a.png", scene(9, 9))
    for name in ("EMPTY", "BROKEN"):
        flags = [flag.replace(name, str(tmp_path / name)) for flag in flags]
    assert call(*flags, path) == (2, None)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert message in told.err.replace(f"{tmp_path}/", "")


def test_a_run_that_does_not_borrow_refuses_references(
    detector, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        detector.config, "borrow", type("Borrow", (), {"enabled": False}), raising=False
    )
    path = save(tmp_path / "a.png", scene(9, 9))
    argv = ["predict", "--workdir=W", f"--output={tmp_path}/out", "--references=1"]
    assert cli.call(predict.main, [*argv, path]) == 2
    assert capsys.readouterr().err == (
        "error: references need a run that borrows, and this one has "
        "borrow.enabled=False: leave out references, or name another run\n"
    )
    assert not (tmp_path / "out").exists()
