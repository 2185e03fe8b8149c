"""Runs with the heads and losses of configs/coco_modern.py, end to end on small data."""

import json
import types

import jax
import numpy as np
import pytest

from borrow_det import train
from borrow_det.configs import arguments, coco_modern
from borrow_det.inference.detector import Detector
from borrow_det.tasks import detection
from borrow_det.tools.export import __main__ as export
from borrow_det.workdir import checkpoints, metadata

# The fields of the config that are tested here; its trunk and data are too large.
TESTED = (
    *("head.depth", "head.shared", "loss.classification", "loss.box"),
    *("loss.localization", "anchors.aspect_ratios", "anchors.second_aspect_ratios"),
    *("anchors.second_last", "optimizer.momentum", "optimizer.weight_decay"),
)


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


@pytest.fixture(scope="module", params=[True, False], ids=["borrow", "plain"])
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
    assert set(params) == {"trunk", "neck", "head"} - ({"neck"} - run.borrow * {"neck"})


def test_detector_answers_with_sigmoid_scores(run):
    detector = Detector.load(run.workdir)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    size = np.full((1, 2), 64, np.int32)
    found = detector.detect_canvases(image, size)
    task = detector.task
    predictions = jax.jit(task.forward)(detector.variables, image, size)
    assert predictions.logits.shape[-1] == len(detector.class_names)
    best = 1 / (1 + np.exp(-float(predictions.logits.max())))
    np.testing.assert_allclose(found["scores"][0, 0], best, rtol=1e-5)
    assert len(detector(image[0], score=0.0)) > 0


def test_an_export_gives_the_detections_of_the_run(run):
    detector = Detector.load(run.workdir)
    content = export.to_stablehlo(detector, 1, ["cpu"])
    assert len(content) > 10_000
    about = export.metadata(detector, 1, 0, detector.config)
    assert about["config"]["head"]["depth"] == 4
    assert about["config"]["loss"] == {"classification": "focal"}


def test_a_run_resumes_and_refuses_another_head(run, tmp_path):
    config = run.config.copy_and_resolve_references()
    config.head.depth = 2
    classes = metadata.load_classes(run.workdir)
    with pytest.raises(Exception, match=r"head\.depth=4"):
        metadata.prepare(run.workdir, config, classes, {}, write=False)
