"""Runs with the heads and losses of configs/coco_modern.py, end to end."""

import json
import types

import jax
import numpy as np
import pytest

from borrow_det import train
from borrow_det.configs import arguments, coco_modern
from borrow_det.errors import InputError
from borrow_det.inference.detector import Detector
from borrow_det.tools.common import cli
from borrow_det.tools.explain import __main__ as explain
from borrow_det.tools.export import __main__ as export
from borrow_det.tools.export import onnx_model
from borrow_det.workdir import checkpoints, metadata, origin_run
from tests.tools.export.exports import assert_same, loaded

# The fields of the config that are tested here; its trunk and data are too large.
TESTED = (
    *("head.depth", "head.shared", "loss.classification", "loss.box"),
    *("loss.localization", "anchors.aspect_ratios", "anchors.second_aspect_ratios"),
    *("anchors.second_last", "optimizer.momentum", "optimizer.weight_decay"),
)

PLAIN = {"trunk", "head"}  # Modules without borrowing.


def modernize(config, borrow=True):
    """Gives a tiny config the heads and losses of coco_modern."""
    modern = coco_modern.get_config()
    for name in TESTED:
        group, field = name.split(".")
        config[group][field] = modern[group][field]
    config.head.channels = 16
    if not borrow:
        arguments.set_plain_ssd(config)
    return config


@pytest.fixture(
    scope="module",
    params=[True, pytest.param(False, marks=pytest.mark.slow)],
    ids=["borrow", "plain"],
)
def run(request, make_tiny_config, tmp_path_factory):
    """A finished run: `workdir`, `config`, `borrow`, and `metrics`."""
    config = modernize(make_tiny_config(), request.param)
    workdir = tmp_path_factory.mktemp("modern") / "W"
    with jax.numpy_dtype_promotion("standard"):
        metrics = train.train_and_evaluate(config, workdir)
    return types.SimpleNamespace(
        workdir=workdir, config=config, borrow=request.param, metrics=metrics
    )


def test_a_run_trains_and_is_evaluated(run):
    lines = (run.workdir / "metrics.jsonl").read_text().splitlines()
    steps = [line for line in map(json.loads, lines) if "loss" in line]
    assert [line["step"] for line in steps] == [2, 4]
    for line in steps:
        assert np.isfinite(line["loss"])
        assert line["loss/classification"] > 0
        assert line["loss/localization"] > 0
        assert ("loss/matching" in line) == run.borrow
    assert np.isfinite(run.metrics["val"]["AP"])
    assert (run.workdir / "results.html").exists()
    params = checkpoints.restore_variables(run.workdir)["params"]
    assert set(params) == ({"trunk", "neck", "head"} if run.borrow else PLAIN)


def noise():
    """An image of noise and its size."""
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    return image, np.full((1, 2), 64, np.int32)


def test_detector_answers_with_sigmoid_scores(run):
    detector = Detector.load(run.workdir)
    image, size = noise()
    found = detector.detect_canvases(image, size)
    task = detector.task
    predictions = jax.jit(task.forward)(detector.variables, image, size)
    assert predictions.logits.shape[-1] == len(detector.class_names)
    best = 1 / (1 + np.exp(-float(predictions.logits.max())))
    np.testing.assert_allclose(found["scores"][0, 0], best, rtol=1e-5)
    assert len(detector(image[0], score=0.0)) > 0


def test_an_export_gives_the_detections_of_the_run(run, tmp_path):
    detector = Detector.load(run.workdir)
    file = tmp_path / "model.zip"
    file.write_bytes(export.to_stablehlo(detector, 1, ["cpu"]))
    program, about = loaded(file)
    assert about["config"]["head"]["depth"] == 4
    assert about["config"]["loss"] == {"classification": "focal"}
    image, size = noise()
    assert_same(program.call(image, size), detector.detect_canvases(image, size))


@pytest.mark.onnx
def test_an_onnx_model_gives_the_detections_of_the_run(run):
    detector = Detector.load(run.workdir)
    image, size = noise()
    # Inside of the converter, types are promoted.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        content, _ = export.to_onnx(detector, 1)
    found = onnx_model.run(content, {"image": image, "image_size": size})
    assert_same(found, detector.detect_canvases(image, size))


def test_explain_shows_the_detections_of_the_run(run, scenes, tmp_path):
    argv = ["explain", f"--workdir={run.workdir}", f"--output={tmp_path / 'out'}"]
    picture = scenes / "val_0.jpg"
    assert cli.call(explain.main, [*argv, "--score=0.0", str(picture)]) == 0
    assert (tmp_path / "out" / "index.html").exists()


def test_another_head_does_not_resume_the_run(run):
    config = run.config.copy_and_resolve_references()
    config.head.depth = 2
    classes = metadata.load_classes(run.workdir)
    with pytest.raises(InputError, match=r"head\.depth=4"):
        metadata.prepare(run.workdir, config, classes, {}, write=False)


def test_a_run_starts_from_it_and_from_one_with_the_heads_of_ssd(run, make_tiny_config):
    """Heads behind other layers stay fresh."""
    if not run.borrow:
        pytest.skip("the neck differs")
    classes = metadata.load_classes(run.workdir)
    config = modernize(make_tiny_config())
    found = origin_run.other_heads(run.workdir, config, classes)
    assert found == {}
    config.head.depth = 2
    found = origin_run.other_heads(run.workdir, config, classes)
    parts = ("class", "box", "class_tower", "box_tower")
    assert found == dict.fromkeys(parts, "other head.depth")
    config.head.depth = 4
    config.borrow.heads = "both"
    why = "other borrow.heads or borrow.enabled"
    found = origin_run.other_heads(run.workdir, config, classes)
    assert found == {"box": why, "box_tower": why}
