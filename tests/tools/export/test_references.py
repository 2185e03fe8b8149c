"""Exported files with references detect as the network does with the same images."""

import json
import re

import numpy as np
import PIL.Image
import pytest

from borrow_det.inference.detector import Detector
from borrow_det.tools.export import onnx_model
from tests.tools.export.exports import assert_same, detected, loaded, run


@pytest.fixture(scope="module")
def inputs(scenes):
    """Two images of a batch with two references each, one of them absent."""
    images = [np.array(PIL.Image.open(scenes / f"val_{i}.jpg")) for i in range(3)]
    references = np.stack([[images[1], images[2]], [images[2], images[0]]])
    sizes = np.array([[[64, 64], [64, 64]], [[48, 56], [64, 64]]], np.int32)
    references[1, 0, 48:] = references[1, 0, :, 56:] = 0
    return {
        "image": np.stack(images[:2]),
        "image_size": np.full((2, 2), 64, np.int32),
        "reference_image": references,
        "reference_size": sizes,
        "reference_mask": np.array([[True, True], [True, False]]),
    }


def test_a_file_with_references_detects_the_same(
    tiny_run, exported_with_references, inputs
):
    detector = Detector.load(tiny_run.workdir)
    call = loaded(exported_with_references)[0].call
    found = call(*inputs.values())
    assert_same(found, detected(detector, inputs))
    alone = detector.detect_canvases(inputs["image"], inputs["image_size"])
    assert np.abs(found["scores"] - alone["scores"]).max() > 1e-3


def test_without_any_reference_the_detections_are_those_of_the_image(
    tiny_run, exported_with_references, inputs
):
    call = loaded(exported_with_references)[0].call
    absent = {
        **inputs,
        "reference_size": np.zeros_like(inputs["reference_size"]),
        "reference_mask": np.zeros_like(inputs["reference_mask"]),
    }
    expected = Detector.load(tiny_run.workdir).detect_canvases(
        inputs["image"], inputs["image_size"]
    )
    assert_same(call(*absent.values()), expected, rounding=1e-6)


def test_an_absent_reference_changes_nothing(exported_with_references, inputs):
    call = loaded(exported_with_references)[0].call
    changed = {name: array.copy() for name, array in inputs.items()}
    changed["reference_image"][1, 1] = 255
    changed["reference_size"][1, 1] = 0
    for name, values in call(*inputs.values()).items():
        np.testing.assert_array_equal(values, call(*changed.values())[name])


def test_a_run_that_was_trained_without_references_is_exported_with_a_warning(
    tiny_run, tmp_path, capsys
):
    flags = ("--references=1", "--platforms=cpu", "--batch=1")
    assert run(tiny_run.workdir, tmp_path / "x.zip", *flags) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("warning: this run was trained without references")
    assert "batch 1, references 1, for cpu" in printed.out


def test_metadata_has_the_number_of_references(exported, exported_with_references):
    program_, about = loaded(exported_with_references)
    assert about["references"] == 2
    shapes = [str(form.shape) for form in program_.in_avals]
    assert shapes == [
        *("(batch, 64, 64, 3)", "(batch, 2)"),
        *("(batch, 2, 64, 64, 3)", "(batch, 2, 2)", "(batch, 2)"),
    ]
    program_, about = loaded(exported)
    assert about["references"] == 0
    assert len(program_.in_avals) == 2


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--references=-1"], "references"),
        (["--references=overview"], "references"),
    ],
)
def test_wrong_numbers_get_one_line(tiny_run, tmp_path, capsys, flags, complaint):
    assert run(tiny_run.workdir, tmp_path / "x.zip", *flags) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert complaint in err


@pytest.mark.parametrize(("field", "value"), [("enabled", False), ("source", "same")])
def test_a_run_that_cannot_borrow_from_references_is_refused(
    tiny_run, tmp_path, capsys, field, value
):
    config = json.loads((tiny_run.workdir / "config.json").read_text())
    config["borrow"][field] = value
    workdir = tmp_path / "changed"
    workdir.mkdir()
    for part in tiny_run.workdir.iterdir():
        (workdir / part.name).symlink_to(part)
    (workdir / "config.json").unlink()
    (workdir / "config.json").write_text(json.dumps(config))
    assert run(workdir, tmp_path / "x.zip", "--references=1") == 2
    assert re.match(
        f"error: references need .*borrow.*{value}: leave out references",
        capsys.readouterr().err,
    )
    assert not (tmp_path / "x.zip").exists()


@pytest.mark.onnx
@pytest.mark.usefixtures("lax_types")
@pytest.mark.parametrize("flags", [[], ["--batch=2"]])
def test_an_onnx_model_with_references_detects_the_same(
    tiny_run, tmp_path, inputs, flags
):
    output = tmp_path / "references.onnx"
    assert run(tiny_run.workdir, output, "--references=2", *flags) == 0
    found = onnx_model.run(output.read_bytes(), inputs)
    assert_same(found, detected(Detector.load(tiny_run.workdir), inputs))
