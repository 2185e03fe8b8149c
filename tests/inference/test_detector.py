"""What a rebuilt run says of its detections beside what they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.inference import detector
from borrow_det.inference.detector import Detector
from borrow_det.models import detector as detector_lib
from borrow_det.models import trunks
from borrow_det.tasks.detection import DetectionTask


@pytest.mark.parametrize("trunk", trunks.TRUNKS)
def test_every_trunk_has_names_for_its_levels(trunk):
    shapes = detector_lib.map_shapes(trunk, (512, 512))
    assert len(detector.LEVEL_NAMES[trunk]) == len(shapes)
    assert len(set(detector.LEVEL_NAMES[trunk])) == len(shapes)


def test_levels_are_counted_from_one(tiny_config):
    levels = detector.levels_of(DetectionTask(tiny_config, 2))
    assert levels == (
        (1, "conv4_3", 8, (8, 8)),
        (2, "conv5_3", 16, (4, 4)),
        (3, "conv_fc7", 32, (2, 2)),
        (4, "conv6_2", 64, (1, 1)),
    )


@pytest.mark.parametrize("clip", ["before", "after"])
def test_the_anchor_that_was_kept_names_the_level(tiny_config, clip):
    # One confident anchor a case; 4 at a position, levels of 64, 16, 4, 1 positions.
    tiny_config.nms.clip = clip
    tiny_config.nms.score = 0.5
    task = DetectionTask(tiny_config, 2)
    cases = {0: 0, 255: 0, 256: 1, 319: 1, 320: 2, 335: 2, 336: 3, 339: 3}
    logits = np.zeros((len(cases), 340, 3), np.float32)
    logits[:, :, 0] = 9
    for row, anchor in enumerate(cases):
        logits[row, anchor] = [0, 3, 9]
    offsets = np.random.default_rng(0).normal(0, 0.5, (len(cases), 340, 4))
    predictions = detector_lib.Predictions(
        jnp.asarray(logits), jnp.asarray(offsets.astype(np.float32)), {}
    )
    found = task.decode(predictions)
    assert found.mask.sum(axis=1).tolist() == [1] * len(cases)
    levels = detector.anchor_levels(task, predictions, found)
    assert levels[:, 0].tolist() == list(cases.values())


def test_a_rebuilt_run_knows_its_step(tiny_run):
    assert Detector.load(tiny_run.workdir).step == 4
    assert Detector.load(tiny_run.workdir, 2).step == 2


def test_attending_detects_the_same_and_shows_the_matching(tiny_run):
    run = Detector.load(tiny_run.workdir)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    size = np.array([[64, 50]], np.int32)
    attended = run.attend(image, size)
    expected = run(image, size)
    for name, values in expected.items():
        np.testing.assert_allclose(
            getattr(attended.detections, name), values, atol=1e-6, err_msg=name
        )
    variables = run.variables
    matchings = jax.jit(run.task.forward)(variables, image, size).matchings
    assert attended.P.keys() == matchings.keys() == {0}
    np.testing.assert_allclose(attended.P[0], matchings[0].scores, atol=1e-6)
    np.testing.assert_allclose(attended.P[0].sum(axis=-1), 1, rtol=1e-5)
