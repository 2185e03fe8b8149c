"""The script of the documentation detects in files as the run does."""

import json
import pathlib
import re
import subprocess
import sys
import types
import zipfile

import jax
import jax.export
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from borrow_det.data.images import decode, inputs
from borrow_det.inference.detector import Detector
from borrow_det.tiling.views import windows
from tests.tools.export.exports import assert_same, detected, loaded, run

ROOT = pathlib.Path(__file__).resolve().parents[3]

# Runs a script and saves the names of its modules and its results.
RUN = """
import runpy, sys
import numpy as np
script, results, *sys.argv[1:] = sys.argv[1:]
found = runpy.run_path(script)["found"]
modules = sorted({name.partition(".")[0] for name in sys.modules})
np.savez(results, modules=modules, **found)
"""


def code_blocks():
    """Returns the Python blocks of the page on exporting."""
    page = (ROOT / "docs/exporting.md").read_text()
    return re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def documented_scripts():
    """Returns the script of the page on exporting, and its variant for ONNX."""
    script, opened, called, _ = code_blocks()
    changed = re.sub(
        r"^with .*?\n(?! )", opened, script, flags=re.DOTALL | re.MULTILINE
    )
    changed = re.sub(r"^found = .*\n", called, changed, flags=re.MULTILINE)
    return script, changed.replace("jax.export", "onnxruntime")


def run_script(script, file, pictures, monkeypatch):
    """Runs a script in this process; returns its variables."""
    arguments = [str(path) for path in (file, *pictures)]
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    variables = {}
    exec(script, variables)
    return variables


def write_photograph(path, image, orientation=1):
    """Writes a JPEG that EXIF data rotate to `image`."""
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    stored = PIL.Image.fromarray(image)
    if orientation == 6:  # The camera was held upright.
        stored = stored.transpose(PIL.Image.Transpose.ROTATE_90)
    stored.save(path, quality=92, exif=exif)


def assert_as_predict(found, detector, picture):
    """Asserts that a script detects in a file as the run does."""
    expected = detector(picture)
    height, width = PIL.ImageOps.exif_transpose(PIL.Image.open(picture)).size[::-1]
    assert len(found["scores"]) == len(expected.scores) > 0
    np.testing.assert_array_equal(found["labels"], expected.labels)
    np.testing.assert_allclose(found["scores"], expected.scores, rtol=0, atol=1e-5)
    y_min, x_min, y_max, x_max = (found["boxes"] * ([height, width] * 2)).T
    corners = np.stack([x_min, y_min, x_max, y_max], axis=1)
    inside = np.clip(corners, 0, [width, height] * 2)
    np.testing.assert_allclose(inside, expected.boxes, rtol=0, atol=1e-2)


def test_the_documented_script_detects_the_same_without_the_code_of_the_run(
    tiny_run, exported, tmp_path
):
    script, _ = documented_scripts()
    assert len(script.splitlines()) <= 30
    (tmp_path / "script.py").write_text(script)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    PIL.Image.fromarray(image).save(tmp_path / "picture.png")
    files = [tmp_path / "script.py", tmp_path / "results.npz", exported]
    output = subprocess.run(
        [sys.executable, "-I", "-c", RUN, *files, tmp_path / "picture.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    results = dict(np.load(tmp_path / "results.npz"))
    assert not {"borrow_det", "flax", "orbax"} & {*results.pop("modules")}

    detector = Detector.load(tiny_run.workdir)
    canvas = np.zeros((1, 64, 64, 3), np.uint8)
    canvas[0, :40, :50] = image
    expected = detector.detect_canvases(canvas, np.array([[40, 50]], np.int32))
    assert_same(results, expected)
    # The script also prints the detections.
    lines = [line.rsplit(" ", 5) for line in output.splitlines()]
    mask = expected["mask"][0]
    assert [line[0] for line in lines] == [
        detector.class_names[label] for label in expected["labels"][0][mask]
    ]
    numbers = np.array([line[1:] for line in lines], float)
    np.testing.assert_allclose(numbers[:, 0], expected["scores"][0][mask], atol=6e-4)
    boxes = expected["boxes"][0][mask] * [40, 50, 40, 50]
    np.testing.assert_allclose(numbers[:, 1:], boxes, atol=6e-2)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("shape", "canvas"),
    [
        ((64, 64), (64, 64)),
        ((40, 50), (64, 64)),
        ((160, 160), (64, 64)),  # 2.5
        ((192, 256), (64, 64)),  # 4
        ((128, 96), (64, 64)),  # 2: OpenCV rounds halves up, and otherwise to even.
        ((384, 288), (64, 64)),  # 6
        ((171, 213), (64, 64)),
        ((65, 64), (64, 64)),
        ((101, 333), (48, 64)),
        ((3, 700), (64, 64)),  # Less than one row would be left.
    ],
)
def test_the_documented_script_makes_the_canvas_of_the_run(
    tmp_path, monkeypatch, shape, canvas, orientation
):
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (*shape, 3), np.uint8)
    write_photograph(tmp_path / "picture.jpg", image, orientation)
    called = []

    def call(*inputs):
        called.extend(inputs)
        empty = {"boxes": (1, 0, 4), "scores": (1, 0), "labels": (1, 0)}
        return {n: np.zeros(s) for n, s in empty.items()} | {
            "mask": np.ones((1, 0), bool)
        }

    program = types.SimpleNamespace(call=call)
    monkeypatch.setattr(jax.export, "deserialize", lambda _: program)
    with zipfile.ZipFile(tmp_path / "detector.zip", "w") as file:
        file.writestr("metadata.json", json.dumps({"canvas": canvas}))
        file.writestr("model.stablehlo", b"")
    script, _ = documented_scripts()
    files = [tmp_path / "detector.zip", [tmp_path / "picture.jpg"]]
    run_script(script, *files, monkeypatch)
    expected, size = decode.to_canvas(
        inputs.read_upright(tmp_path / "picture.jpg"), canvas
    )
    assert called[1].tolist() == [[*size]]
    np.testing.assert_array_equal(called[0][0], expected)


# Crops of photographs that are shrunk by 2.5, 4 and 2.703.
CROPS = [(160, 120), (192, 256), (131, 173)]


def crops_of(name, shared, tmp_path):
    """Yields crops of a photograph of a real dataset; the last one is rotated."""
    source = sorted((shared / "data" / name / "images").rglob("*.jpg"))[0]
    image = np.array(PIL.Image.open(source).convert("RGB"))
    for index, (height, width) in enumerate(CROPS):
        path = tmp_path / f"{index}.jpg"
        crop = image[100 : 100 + height, 90 : 90 + width]
        write_photograph(path, crop, 6 if index == 2 else 1)
        yield path


@pytest.mark.parametrize("name", ["aquarium", "bccd", "traffic_vehicles"])
def test_the_documented_script_detects_as_predict_does_in_shrunk_photographs(
    tiny_run, exported, shared, tmp_path, monkeypatch, name
):
    detector = Detector.load(tiny_run.workdir)
    program, _ = loaded(exported)
    # Compiled once for all pictures.
    once = types.SimpleNamespace(call=jax.jit(program.call))
    monkeypatch.setattr(jax.export, "deserialize", lambda _: once)
    script, _ = documented_scripts()
    for picture in crops_of(name, shared, tmp_path):
        found = run_script(script, exported, [picture], monkeypatch)
        assert_as_predict(found, detector, picture)


@pytest.mark.onnx
@pytest.mark.usefixtures("lax_types")
def test_the_documented_lines_for_onnx_detect_as_predict_does(
    tiny_run, scenes, tmp_path, monkeypatch
):
    output = tmp_path / "detector.onnx"
    assert run(tiny_run.workdir, output, "--batch=1") == 0
    detector = Detector.load(tiny_run.workdir)
    scene = np.array(PIL.Image.open(scenes / "val_0.jpg"))
    write_photograph(
        tmp_path / "picture.jpg", np.kron(scene, np.ones((3, 2, 1), np.uint8)), 6
    )
    _, script = documented_scripts()
    found = run_script(script, output, [tmp_path / "picture.jpg"], monkeypatch)
    assert_as_predict(found, detector, tmp_path / "picture.jpg")


# The script with references.


def script_with_references():
    """Returns the script of the section on references, and its variant for ONNX."""
    _, opened, called, script = code_blocks()
    names = called.splitlines(keepends=True)[0]
    changed = re.sub(
        r"^with .*?^run = .*?\n", opened + names, script, flags=re.DOTALL | re.MULTILINE
    )
    call = "dict(zip(names, session.run(None, inputs)))"
    changed = changed.replace("jax.device_get(run(*inputs.values()))", call)
    return script, changed.replace("jax.export", "onnxruntime")


def on_canvases(detector, pictures):
    """Returns the canvases and the sizes of pictures."""
    placed = [decode.to_canvas(picture, detector.canvas) for picture in pictures]
    canvases, sizes = zip(*placed, strict=True)
    return np.stack(canvases), np.array(sizes, np.int32)


def lines_of_views(detector, views, references):
    """Returns (class, numbers) of the lines that views (top, left, picture) give."""
    classes, numbers = [], []
    for top, left, picture in views:
        image, size = on_canvases(detector, [picture])
        reference_image, reference_size = on_canvases(detector, references)
        inputs = {
            "image": image,
            "image_size": size,
            "reference_image": reference_image[None],
            "reference_size": reference_size[None],
            "reference_mask": np.ones((1, len(references)), bool),
        }
        found = detected(detector, inputs)
        kept = {name: values[found["mask"]] for name, values in found.items()}
        boxes = kept["boxes"] * np.tile(picture.shape[:2], 2) + [top, left] * 2
        classes += [detector.class_names[label] for label in kept["labels"]]
        numbers += np.column_stack([kept["scores"], boxes]).tolist()
    assert numbers
    return classes, np.array(numbers)


def assert_prints(out, expected):
    """Asserts that a script has printed the lines of `lines_of_views`."""
    classes, numbers = expected
    lines = [line.rsplit(" ", 5) for line in out.splitlines()]
    assert [line[0] for line in lines] == classes
    printed = np.array([line[1:] for line in lines], float)
    np.testing.assert_allclose(printed[:, 0], numbers[:, 0], rtol=0, atol=6e-4)
    np.testing.assert_allclose(printed[:, 1:], numbers[:, 1:], rtol=0, atol=6e-2)


@pytest.fixture
def large(scenes, tmp_path):
    """A picture of 3 x 2 tiles, and its file."""
    scene = np.array(PIL.Image.open(scenes / "val_0.jpg"))
    picture = np.kron(scene, np.ones((3, 2, 1), np.uint8))[:150, :100]
    PIL.Image.fromarray(picture).save(tmp_path / "large.png")
    return picture, tmp_path / "large.png"


def tiles_of(picture):
    """Returns the tiles of 64 pixels of a picture: (top, left, tile)."""
    found = windows(picture.shape[:2], (64, 64), 0.2, whole=False)
    assert len(found) == 6
    return [(y, x, picture[y:bottom, x:right]) for y, x, bottom, right in found]


def test_the_script_with_references_detects_in_tiles_with_the_overview(
    tiny_run, exported_with_references, large, monkeypatch, capsys
):
    picture, file = large
    script, _ = script_with_references()
    run_script(script, exported_with_references, [file], monkeypatch)
    detector = Detector.load(tiny_run.workdir)
    expected = lines_of_views(detector, tiles_of(picture), [picture])
    assert_prints(capsys.readouterr().out, expected)


def test_the_script_with_references_detects_with_exemplars(
    tiny_run, exported_with_references, large, scenes, monkeypatch, capsys
):
    picture, file = large
    files = [scenes / f"val_{n}.jpg" for n in (1, 2)]
    exemplars = [np.array(PIL.Image.open(path)) for path in files]
    script, _ = script_with_references()
    run_script(script, exported_with_references, [file, *files], monkeypatch)
    detector = Detector.load(tiny_run.workdir)
    expected = lines_of_views(detector, [(0, 0, picture)], exemplars)
    assert_prints(capsys.readouterr().out, expected)


def test_the_tiles_of_the_script_are_those_of_predict(
    exported_with_references, large, monkeypatch
):
    script, _ = script_with_references()
    variables = run_script(script, exported_with_references, [large[1]], monkeypatch)
    for height, width in np.random.default_rng(0).integers(1, 2000, (200, 2)).tolist():
        expected = windows((height, width), (192, 320), 0.2, whole=False)
        rows, columns = (
            variables["starts"](side, length)
            for side, length in ((height, 192), (width, 320))
        )
        found = [[top, left] for top in rows for left in columns]
        assert found == expected[:, :2].tolist()


@pytest.mark.onnx
@pytest.mark.usefixtures("lax_types")
def test_the_script_with_references_runs_an_onnx_model(
    tiny_run, large, tmp_path, monkeypatch, capsys
):
    picture, file = large
    output = tmp_path / "detector.onnx"
    assert run(tiny_run.workdir, output, "--references=1", "--batch=1") == 0
    capsys.readouterr()
    _, script = script_with_references()
    run_script(script, output, [file], monkeypatch)
    detector = Detector.load(tiny_run.workdir)
    expected = lines_of_views(detector, tiles_of(picture), [picture])
    assert_prints(capsys.readouterr().out, expected)
