"""The explain tool by tiles and with references, on copies of a tiny run."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest

from borrow_det.data import groups, reference_rows, sources
from borrow_det.data.images import decode
from borrow_det.inference.detector import Detector
from borrow_det.models.references import ReferenceMaps
from borrow_det.tiling.views import make_tiles
from borrow_det.tools.common import cli
from borrow_det.tools.explain import __main__ as explain

ARGUMENTS = ("--score=0", "--small=1e9", "--sources=3")


def run(workdir, output, *arguments):
    argv = ["explain", f"--workdir={workdir}", f"--output={output}", *arguments]
    return cli.call(explain.main, [*argv, *ARGUMENTS])


def explanations(output):
    return json.loads((output / "explanations.json").read_text())


@pytest.fixture(scope="module")
def run_with(tiny_run, tmp_path_factory):
    """A function: the tiny run, as if it had been trained with these references."""

    def make(**references):
        workdir = tmp_path_factory.mktemp("run") / "W"
        shutil.copytree(tiny_run.workdir, workdir)
        path = workdir / "config.json"
        fields = json.loads(path.read_text())
        fields["references"].update(references)
        path.write_text(json.dumps(fields))
        return workdir

    return make


@pytest.fixture(scope="module")
def large(scenes, tmp_path_factory):
    """The file of a picture of four scenes, 100 pixels wide and 110 high."""
    parts = [np.asarray(PIL.Image.open(scenes / f"train_{i}.jpg")) for i in range(4)]
    a, b, c, d = parts
    path = tmp_path_factory.mktemp("large") / "large.png"
    PIL.Image.fromarray(np.block([[[a], [b]], [[c], [d]]])[:110, :100]).save(path)
    return path


def attended(detector, image, references):
    """Detections in an image and their attention, from ready-made maps."""
    canvas, size = decode.to_canvas(image, detector.canvas)
    deep = [level[None] for level in detector.deeper_maps(references)]
    maps = ReferenceMaps(tuple(deep), np.ones((1, len(references)), bool))
    return detector.attend(canvas[None], np.array([size], np.int32), maps)


def check_image(record, detector, image, references):
    """Compares an image's entry with the network; returns what was explained."""
    expected = attended(detector, image, references)
    found = expected.detections
    assert len(record["detections"]) == found.mask[0].sum() > 0
    positions = 21 * (1 + len(references))
    assert expected.P[0].shape == (1, 64, positions)
    explained = [d["borrowed"] for d in record["detections"] if d.get("borrowed")]
    assert explained
    rows = np.stack(np.meshgrid(*[np.arange(4, 64, 8) / 64] * 2, indexing="ij"), -1)
    rows = rows.reshape(-1, 2)
    checked = 0
    for k, detection in enumerate(record["detections"]):
        y0, x0, y1, x1 = found.boxes[0, k].astype(float)
        inside = np.all((rows >= [y0, x0]) & (rows <= [y1, x1]), axis=1)
        if not detection["borrowed"] or not inside.any():
            continue
        checked += 1
        weights = expected.P[0][0][inside].mean(axis=0)
        shares = weights.reshape(-1, 21).sum(axis=1)
        borrowed = detection["borrowed"]
        assert sum(borrowed["shares"].values()) == pytest.approx(shares[0], rel=1e-4)
        written = [part["share"] for part in borrowed["references"]]
        assert written == pytest.approx(shares[1:].tolist(), rel=1e-4)
        total = sum(borrowed["shares"].values()) + borrowed["share_references"]
        assert total == pytest.approx(1, abs=1e-5)
        best = int(weights.argmax()) // 21
        assert borrowed["sources"][0]["reference"] == (best or None)
    assert checked > 0
    return explained


def test_tiles_borrow_from_the_overview(run_with, large, tmp_path):
    workdir = run_with(kind="overview")
    assert run(workdir, tmp_path, "--tiles=auto", "--limit=1", str(large)) == 0
    written = explanations(tmp_path)
    assert "References: the entire image" in (tmp_path / "index.html").read_text()
    names = [image["file_name"] for image in written["images"]]
    parts = [f"tile {i + 1} of 4" for i in range(4)] + ["entire image"]
    assert names == [f"{large}, {part}" for part in parts]
    detector = Detector.load(workdir)
    image = np.asarray(PIL.Image.open(large))
    windows = make_tiles("auto").views((110, 100), (64, 64))
    for record, (top, left, bottom, right) in zip(
        written["images"], windows.tolist(), strict=True
    ):
        assert record["window"] == [left, top, right - left, bottom - top]
        (overview,) = record["references"]
        assert overview["file_name"] == f"{large}, entire image"
        assert (overview["height"], overview["width"]) == (110, 100)
        check_image(record, detector, image[top:bottom, left:right], [image])
    pictures = [p.name for p in (tmp_path / "pictures").iterdir()]
    assert len(pictures) == 5
    with PIL.Image.open(tmp_path / "pictures" / pictures[0]) as picture:
        assert picture.height > 800  # With a row of references.

    # As in predict, references can be switched off; without tiles there are none.
    arguments = ("--nopictures", str(large))
    for name, flags in (("a", ["--tiles=auto", "--references=none"]), ("b", [])):
        assert run(workdir, tmp_path / name, *flags, *arguments) == 0
        written = explanations(tmp_path / name)
        assert len(written["images"]) == (5 if flags else 1)
        assert "references" not in {**written["settings"], **written["images"][0]}


def test_exemplars_are_references_of_every_image(
    tiny_run, scenes, large, tmp_path, capsys
):
    exemplars = tmp_path / "exemplars"
    exemplars.mkdir()
    for i in (5, 6):
        shutil.copy(scenes / f"val_{i}.jpg", exemplars)
    paths = [str(scenes / "val_0.jpg"), str(large)]
    arguments = (f"--references={exemplars}", "--nopictures", *paths)
    assert run(tiny_run.workdir, tmp_path / "out", *arguments) == 0
    assert "warning: this run was trained without references" in capsys.readouterr().err
    written = explanations(tmp_path / "out")
    assert written["settings"]["references"] == f"2 images of {exemplars}"
    detector = Detector.load(tiny_run.workdir)
    others = [
        np.asarray(PIL.Image.open(scenes / f"val_{i}.jpg").convert("RGB"))
        for i in (5, 6)
    ]
    for record, path in zip(written["images"], paths, strict=True):
        assert record["file_name"] == path
        assert "window" not in record
        assert [r["file_name"] for r in record["references"]] == [
            str(exemplars / f"val_{i}.jpg") for i in (5, 6)
        ]
        check_image(record, detector, np.asarray(PIL.Image.open(path)), others)
    # Lenders in references are detections of the same class that are large enough.
    lenders = 0
    for record in written["images"]:
        sides = record["height"] * record["width"]
        for detection in record["detections"]:
            for n, part in enumerate(
                (detection["borrowed"] or {"references": []})["references"]
            ):
                reference = record["references"][n]
                pixels = reference["height"] * reference["width"]
                larger = [
                    other["index"]
                    for other in reference["detections"]
                    if other["class"] == detection["class"]
                    and np.prod(other["bbox"][2:]) / pixels
                    >= 3.9999 * np.prod(detection["bbox"][2:]) / sides
                ]
                assert part["larger"] == larger
                lenders += len(larger)
    assert lenders > 0


def test_images_of_a_split_have_the_references_of_evaluation(run_with, tmp_path):
    workdir = run_with(kind="group", count=2, field="([a-z]+)_")
    arguments = ("--split=val[2:4]", "--nopictures")
    assert run(workdir, tmp_path / "a", *arguments) == 0
    written = explanations(tmp_path / "a")
    assert [i["file_name"] for i in written["images"]] == ["val_2.jpg", "val_3.jpg"]
    detector = Detector.load(workdir)
    split = sources.load(detector.config.dataset, "val")
    known = groups.reference_groups(split, detector.config)
    images = [decode.decode_image(split[i], "") for i in range(7)]
    for index, record in zip((2, 3), written["images"], strict=True):
        chosen = reference_rows.spread(known.others(index), 2).tolist()
        names = [split[i]["file_name"] for i in chosen]
        assert [r["file_name"] for r in record["references"]] == names
        check_image(record, detector, images[index], [images[i] for i in chosen])
    assert run(workdir, tmp_path / "b", *arguments, "--references=none") == 0
    assert "references" not in explanations(tmp_path / "b")["images"][0]


def test_images_of_a_split_have_the_views_of_evaluation(run_with, tmp_path):
    workdir = run_with(kind="overview")
    path = workdir / "config.json"
    fields = json.loads(path.read_text())
    fields["evaluation"].update(tiles="1x2", tile_overlap=0.5)
    path.write_text(json.dumps(fields))
    arguments = ("--split=val[:1]", "--nopictures")
    assert run(workdir, tmp_path / "a", *arguments) == 0
    images = explanations(tmp_path / "a")["images"]
    assert [image["window"] for image in images] == [
        [0, 0, 43, 64], [21, 0, 43, 64], [0, 0, 64, 64],
    ]  # fmt: skip
    assert all(len(image["references"]) == 1 for image in images)
    # A rule of the call has precedence.
    assert run(workdir, tmp_path / "b", *arguments, "--tiles=1x1") == 0
    (image,) = explanations(tmp_path / "b")["images"]
    assert image["file_name"] == "val_0.jpg"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--references=3"], "--references=3: explain reads single images"),
        (["--references=nowhere"], "--references=nowhere: there is no such folder"),
        (["--tiles=2x"], "--tiles=2x is not ROWSxCOLUMNS or auto"),
        (["--tiles=2x2", "--detection=0"], "--detection=0 is an index in one view"),
    ],
)
def test_wrong_values_are_one_line(
    tiny_run, large, tmp_path, capsys, arguments, message
):
    assert run(tiny_run.workdir, tmp_path / "out", *arguments, str(large)) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
