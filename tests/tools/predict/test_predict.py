"""The predict tool on images, with a detector that finds pure colors exactly."""

import json
import pathlib
import re

import jax
import numpy as np
import PIL.Image
import pytest

from borrow_det.configs import base
from borrow_det.data.images import decode, strips
from borrow_det.inference.detector import Detector
from borrow_det.tasks import detection
from borrow_det.tools import score
from borrow_det.tools.common import cli
from borrow_det.tools.predict import __main__ as predict
from borrow_det.workdir import checkpoints, metadata
from borrow_det.workdir.operating_points import OperatingPoints
from tests.tools.predict.blobs import (
    CANVAS,
    boxes,
    results,
    run,
    save,
    scene,
)


def image_record(image_id, name, size, picture):
    height, width = size
    record = {"id": image_id, "file_name": name, "height": height, "width": width}
    return record | {"picture": picture}


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
            image_record(1, first, (40, 60), "pictures/b.jpg"),
            image_record(2, second, (60, 40), "pictures/b_2.jpg"),
            image_record(3, last, (30, 30), "pictures/z.jpg"),
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
    points = {"best_f1": {"score": 0.7}}
    detector.operating_points = OperatingPoints("W", 1, "val", points)
    assert run(tmp_path / "best", "--score=best_f1", path) == 0
    told = "1 detections with a score of at least 0.700 (best_f1); 2 in all"
    assert told in capsys.readouterr().out


def test_a_line_for_each_image_tells_what_was_found(tmp_path, detector, capsys):
    both = scene(20, 20, red=[1, 1, 4, 4], green=[9, 9, 4, 4])
    first = save(tmp_path / "a.png", both)
    second = save(tmp_path / "b\nc.png", scene(20, 20))
    assert run(tmp_path / "out", "--score=0.7", "--nopictures", first, second) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r"[\d.]+ ms", "T ms", line) for line in lines[:-1]] == [
        f"{first}: 1 red, T ms",
        f"{tmp_path}/b\\nc.png: nothing found, T ms",
    ]
    assert run(tmp_path / "out", "--nopictures", first) == 0
    assert ": 1 red, 1 green, " in capsys.readouterr().out
    assert run(tmp_path / "out", "--quiet", "--nopictures", first) == 0
    assert capsys.readouterr().out.count("\n") == 1


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
    others = [save(tmp_path / "z" / f"{i}.png", scene(9, 9)) for i in range(5)]
    assert run(tmp_path / "more", f"--ids_from={path}", *folders, *others) == 0
    left_out = f"; not in --ids_from: 5 ({', '.join(others[:3])}, ...)\n"
    assert capsys.readouterr().out.endswith(left_out)
    assert results(tmp_path / "more") == results(tmp_path / "out")
    assert run(tmp_path / "out", f"--ids_from={path}", others[0]) == 2
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
        (["--score=2", "IMAGE"], "--score=2 is not a number from 0 to 1"),
        (["--score=best", "IMAGE"], "--score=best is neither a number from 0 to 1 nor"),
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
