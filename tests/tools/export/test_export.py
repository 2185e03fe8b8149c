"""Exported files detect the same as the run, without the code of the run."""

import json
import re
import shutil
import sys
import types

import jax
import jax.export
import numpy as np
import PIL.Image
import pytest

from borrow_det.configs import base, ssd300_coco
from borrow_det.inference.detector import Detector
from borrow_det.models.trunks import TRUNKS
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.export import __main__ as export
from borrow_det.tools.export import onnx_model
from borrow_det.workdir import metadata
from tests.tools.export.exports import assert_same, loaded, run


def scenes_on_canvases(scenes):
    """Returns canvases and sizes of three scenes; one is smaller than its canvas."""
    images = np.stack([PIL.Image.open(scenes / f"val_{i}.jpg") for i in range(3)])
    images[2, 40:] = images[2, :, 50:] = 0
    return images, np.array([[64, 64], [64, 64], [40, 50]], np.int32)


@pytest.mark.parametrize("count", [1, 3])
def test_a_file_for_any_batch_detects_the_same_in_each_image(
    tiny_run, exported, scenes, count
):
    images, sizes = scenes_on_canvases(scenes)
    found = loaded(exported)[0].call(images[:count], sizes[:count])
    expected = Detector.load(tiny_run.workdir).detect_canvases(images, sizes)
    assert_same(found, {name: values[:count] for name, values in expected.items()})


def test_a_file_for_all_platforms_calls_no_library_of_a_platform(exported):
    program, about = loaded(exported)
    assert program.platforms == ("cpu", "cuda", "tpu")
    assert about["platforms"] == ["cpu", "cuda", "tpu"]
    targets = set(re.findall(r"custom_call @(\w+)", program.mlir_module()))
    assert targets <= {"shape_assertion"}


def test_metadata_has_classes_sizes_statistics_and_versions(tiny_run, exported):
    _, about = loaded(exported)
    config = metadata.load_config(tiny_run.workdir)
    assert about["class_names"] == list(
        metadata.load_classes(tiny_run.workdir).class_names
    )
    assert about["category_ids"] == [3, 5, 9, 11]
    assert about["canvas"] == about["input_size"] == [64, 64]
    assert about["normalization"] == {
        "channel_order": config.model.channel_order,
        "mean": list(config.model.pixel_mean),
        "std": list(config.model.pixel_std),
    }
    assert about["batch"] == "any"
    assert about["step"] == 4
    points = json.loads((tiny_run.workdir / "operating_points.json").read_text())
    assert about["operating_points"] == points["steps"]["4"]
    assert about["operating_points"]["best_f1"]["split"] == "val"
    assert about["versions"]["jax"] == jax.__version__
    assert about["versions"]["calling_convention"] >= 9
    assert about["config"]["nms"] == config.nms.to_dict()
    # Paths of the run's dataset are not exported.
    assert "dataset" not in about["config"]


def test_batch_platform_and_step_can_be_set(tiny_run, scenes, tmp_path):
    flags = ("--batch=2", "--platforms=cpu", "--step=2")
    assert run(tiny_run.workdir, tmp_path / "two.zip", *flags) == 0
    program, about = loaded(tmp_path / "two.zip")
    assert (about["batch"], about["platforms"], about["step"]) == (2, ["cpu"], 2)
    images, sizes = scenes_on_canvases(scenes)
    detector = Detector.load(tiny_run.workdir, 2)
    expected = detector.detect_canvases(images[1:], sizes[1:])
    assert_same(program.call(images[1:], sizes[1:]), expected)
    with pytest.raises(ValueError, match="Shape mismatch"):
        program.call(images, sizes)


@pytest.fixture
def flash_run(tiny_run, tmp_path):
    """Copy of the tiny run whose config has bfloat16 and cuDNN's attention."""
    workdir = tmp_path / "flash"
    shutil.copytree(tiny_run.workdir, workdir)
    config = json.loads((workdir / "config.json").read_text())
    config["dtype"] = "bfloat16"
    config["borrow"]["attention"] = "cudnn"
    (workdir / "config.json").write_text(json.dumps(config))
    return workdir


def detect_in(workdir, dtype, images, sizes):
    """Detects with a run's parameters, plain attention and another dtype."""
    detector = Detector.load(workdir)
    config = detector.config.copy_and_resolve_references()
    config.dtype, config.borrow.attention = dtype, "plain"
    task = DetectionTask(config, len(detector.class_names))
    found = jax.jit(task.detect)(detector.variables, images, sizes)
    found = jax.device_get(found._asdict())
    del found["anchors"]  # Exported programs leave it out.
    return found


@pytest.mark.usefixtures("lax_types")
def test_a_run_in_bfloat16_with_cudnn_attention_is_exported_in_bfloat16(
    flash_run, scenes, tmp_path
):
    assert run(flash_run, tmp_path / "flash.zip") == 0
    program, about = loaded(tmp_path / "flash.zip")
    assert about["config"]["dtype"] == "bfloat16"
    assert "bf16" in program.mlir_module()
    images, sizes = scenes_on_canvases(scenes)
    found = program.call(images, sizes)
    expected = detect_in(flash_run, "bfloat16", images, sizes)
    # Detections of nearly equal score may change places.
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-2)


@pytest.mark.onnx
@pytest.mark.usefixtures("lax_types")
@pytest.mark.parametrize("count", [1, 3])
def test_an_onnx_model_detects_the_same(tiny_run, scenes, tmp_path, capfd, count):
    import onnxruntime

    output = tmp_path / "detector.onnx"
    assert run(tiny_run.workdir, output) == 0
    session = onnxruntime.InferenceSession(output)
    out, err = capfd.readouterr()
    assert (out.count("\n"), err) == (1, "")
    images, sizes = (values[:count] for values in scenes_on_canvases(scenes))
    found = session.run(None, {"image": images, "image_size": sizes})
    names = [output.name for output in session.get_outputs()]
    expected = Detector.load(tiny_run.workdir).detect_canvases(images, sizes)
    assert_same(dict(zip(names, found, strict=True)), expected)
    properties = session.get_modelmeta().custom_metadata_map
    about = {name: json.loads(value) for name, value in properties.items()}
    assert about["category_ids"] == [3, 5, 9, 11]
    assert about["batch"] == "any"


@pytest.mark.onnx
@pytest.mark.usefixtures("lax_types")
def test_an_onnx_model_of_a_bfloat16_run_computes_in_float32(
    flash_run, scenes, tmp_path
):
    import onnxruntime

    output = tmp_path / "two.onnx"
    assert run(flash_run, output, "--format=onnx", "--batch=2") == 0
    session = onnxruntime.InferenceSession(output)
    assert session.get_inputs()[0].shape == [2, 64, 64, 3]
    images, sizes = (values[1:] for values in scenes_on_canvases(scenes))
    found = session.run(None, {"image": images, "image_size": sizes})
    names = [output.name for output in session.get_outputs()]
    expected = detect_in(flash_run, "float32", images, sizes)
    assert_same(dict(zip(names, found, strict=True)), expected)


@pytest.mark.onnx
@pytest.mark.usefixtures("lax_types")
def test_the_trunk_of_ssd300_and_two_classes_are_converted(scenes):
    config = ssd300_coco.get_config()
    config.model.width = 1 / 32
    config.dataset.canvas = (64, 64)
    config.nms.max_per_class = config.nms.max_total = 20
    classes = metadata.Classes(("a", "b"), (1, 2))
    variables = jax.jit(DetectionTask(config, 2).init)(jax.random.key(0))
    # Smaller parameters keep scores away from 0 and 1.
    variables = jax.tree.map(lambda array: 0.7 * array, variables)
    detector = Detector(config, classes, variables, step=0)
    model, _ = export.to_onnx(detector, 1)
    images, sizes = (values[2:] for values in scenes_on_canvases(scenes))
    expected = detector.detect_canvases(images, sizes)
    assert 0.4 < expected["scores"].max() < 0.999
    inputs = {"image": images, "image_size": sizes}
    assert_same(onnx_model.run(model, inputs), expected)


@pytest.mark.onnx
@pytest.mark.usefixtures("lax_types")
@pytest.mark.parametrize("trunk", ["resnet50", "convnext_tiny", "vit_small"])
def test_every_family_of_trunks_is_converted(scenes, trunk):
    config = base.get_config()
    config.model.trunk, config.model.norm = trunk, TRUNKS[trunk].norm
    config.model.width = 1 / 24
    config.model.stages = (2,) if trunk == "vit_small" else (1, 1, 1, 1)
    config.input_size = config.dataset.canvas = (64, 64)
    config.nms.max_per_class = config.nms.max_total = 20
    classes = metadata.Classes(("a", "b"), (1, 2))
    variables = jax.jit(DetectionTask(config, 2).init)(jax.random.key(0))
    # Smaller parameters keep scores away from 0 and 1; ConvNeXt's scales of 1e-6 would
    # leave its blocks out.
    variables = jax.tree.map(lambda array: 0.6 * array, variables)
    variables = jax.tree_util.tree_map_with_path(
        lambda path, array: array + 0.3 * (path[-1].key == "scale"), variables
    )
    detector = Detector(config, classes, variables, step=0)
    model, _ = export.to_onnx(detector, 1)
    images, sizes = (values[2:] for values in scenes_on_canvases(scenes))
    inputs = {"image": images, "image_size": sizes}
    expected = detector.detect_canvases(images, sizes)
    assert_same(onnx_model.run(model, inputs), expected, rounding=1e-4)


@pytest.fixture
def refused(tiny_run, tmp_path, capsys):
    """Function that returns the error line of an export that writes no file."""

    def refused(*more, workdir=tiny_run.workdir, output=tmp_path / "out" / "file"):
        assert run(workdir, output, *more) == 2
        assert not output.is_file()
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return refused


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--batch=0"], "--batch=0 must be a positive integer or any"),
        (["--batch=-1"], "--batch=-1 must be"),
        (["--batch=many"], "--batch=many must be"),
        (["--platforms=gpu"], "--platforms is 'gpu'; it must be one of ['cpu', 'cuda'"),
        (["--platforms="], "--platforms is empty: name at least one of cpu, cuda, tpu"),
        (["--platforms=cpu", "--format=onnx"], "--platforms can only be used with"),
        (["--format=tflite"], "tflite"),
        (["--step=3"], "has checkpoints of steps [2, 4], not 3"),
        (["surplus"], "unexpected argument 'surplus'"),
    ],
)
def test_wrong_flags_get_one_line(refused, flags, complaint):
    assert complaint in refused(*flags)


@pytest.mark.parametrize(
    ("stated", "name", "expected"),
    [
        (None, "x.onnx", "onnx"),
        (None, "folder.zip/X.ONNX", "onnx"),
        ("onnx", "x.onnx", "onnx"),
        ("onnx", "x.bin", "onnx"),
        (None, "x.zip", "stablehlo"),
        (None, "onnx", "stablehlo"),
        ("stablehlo", "x", "stablehlo"),
    ],
)
def test_the_suffix_of_the_output_implies_the_format(stated, name, expected):
    assert export._format(stated, name) == expected


@pytest.mark.parametrize(
    ("stated", "name", "complaint"),
    [
        ("stablehlo", "x.onnx", ".onnx is the suffix of onnx, so leave out --format"),
        ("onnx", "x.zip", ".zip is the suffix of stablehlo, so leave out --format"),
    ],
)
def test_a_suffix_of_another_format_is_refused(
    refused, tmp_path, stated, name, complaint
):
    error = refused(f"--format={stated}", output=tmp_path / name)
    assert f"{name} contradicts --format={stated}: {complaint}" in error


def test_an_onnx_file_has_no_platforms(refused, tmp_path):
    error = refused("--platforms=cpu", output=tmp_path / "x.onnx")
    assert "--platforms can only be used with --format=stablehlo" in error


def test_runs_that_cannot_be_exported_are_refused(refused, tiny_run, tmp_path):
    assert "not a work directory" in refused(workdir=tmp_path)
    begun = tmp_path / "begun"
    begun.mkdir()
    for name in ("config.json", "dataset.json"):
        shutil.copy(tiny_run.workdir / name, begun)
    assert "holds no checkpoints" in refused(workdir=begun)
    config = json.loads((begun / "config.json").read_text())
    (begun / "config.json").write_text(json.dumps(config | {"task": "classification"}))
    assert "a run of task=classification" in refused(workdir=begun)


def test_outputs_that_exist_or_cannot_be_written_are_refused(
    refused, tiny_run, tmp_path, capsys
):
    there = tmp_path / "there"
    there.write_text("mine")
    assert run(tiny_run.workdir, there) == 2
    assert "exists: choose a new file" in capsys.readouterr().err
    assert there.read_text() == "mine"
    assert "cannot be written: Not a directory" in refused(output=there / "in" / "it")
    assert "exists: choose a new file" in refused(output=tmp_path)


def test_a_missing_converter_is_named(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    found = refused("--format=onnx")
    assert "needs jax2onnx: pip install -r requirements-export.txt" in found


def test_an_error_of_the_converter_becomes_one_line(refused, monkeypatch):
    def to_onnx(*_, **__):
        raise NotImplementedError("no such\noperator")

    converter = types.SimpleNamespace(to_onnx=to_onnx)
    monkeypatch.setitem(sys.modules, "jax2onnx", converter)
    monkeypatch.setitem(sys.modules, "onnx", types.SimpleNamespace())
    found = refused("--format=onnx")
    assert "jax2onnx cannot convert this run: no such operator" in found
