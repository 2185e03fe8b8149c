"""Choices that SSD's references differ in, from the config's field to what they do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.models import detector
from borrow_det.ops import boxes as box_ops
from borrow_det.tasks import detection

SIDE = 64


def make_task(**fields):
    config = base.get_config()
    config.input_size = (SIDE, SIDE)
    config.model.width = 1 / 64
    config.augment.enabled = False
    config.update_from_flattened_dict(fields)
    return detection.DetectionTask(config, num_classes=2)


def says(task, *scored):
    """A network that finds (box, score), all of class 0, one an anchor."""
    anchors = jnp.asarray(task.anchors)
    boxes = jnp.array([box for box, _ in scored], jnp.float32)
    count = len(scored)
    offsets = jnp.zeros((1, len(anchors), 4), jnp.float32)
    encoded = box_ops.encode(boxes, anchors[:count], (0.1, 0.2))
    scores = np.full((len(anchors), 3), 1e-6, np.float32)
    scores[:count, 1] = [score for _, score in scored]
    scores[:, 0] = 1 - scores[:, 1:].sum(axis=1)
    logits = jnp.log(jnp.asarray(scores))[None]
    predictions = detector.Predictions(logits, offsets.at[0, :count].set(encoded), {})

    class Network:
        def apply(self, *args, **options):
            return predictions

    return Network()


@pytest.mark.parametrize(("clip", "kept"), [("before", 1), ("after", 2)])
def test_boxes_are_clipped_before_or_after_suppression(clip, kept):
    # In the image both cover the left half; the second goes on beyond it, so that they
    # overlap by 2/5 in full, less than the 0.45 that suppresses.
    half, long = [0, 0, 1, 0.5], [0, -0.75, 1, 0.5]
    task = make_task(**{"nms.clip": clip})
    task.model = says(task, (half, 0.9), (long, 0.8))
    canvas = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    found = jax.jit(task.detect)({}, canvas, np.array([[SIDE, SIDE]], np.int32))
    assert int(found.mask.sum()) == kept
    np.testing.assert_allclose(found.boxes[0, :kept], [half] * kept, atol=1e-5)
    np.testing.assert_allclose(found.scores[0, :kept], [0.9, 0.8][:kept], rtol=1e-4)


def targets(ignored):
    """(examples, counts) of an object, and of a difficult one of twice its side."""
    task = make_task(**{"loss.ignored": ignored, "borrow.levels": (0,)})
    batch = {
        "image": np.zeros((1, SIDE, SIDE, 3), np.uint8),
        "image_size": np.array([[SIDE, SIDE]], np.int32),
        "boxes": np.float32([[[0.0, 0.0, 0.3, 0.3], [0.3, 0.3, 1, 1], [0, 0, 1, 1]]]),
        "labels": np.array([[0, 0, 0]], np.int32),
        "box_mask": np.array([[True, True, False]]),
        "ignore": np.array([[False, True, True]]),
    }
    return jax.jit(task.prepare)(jax.random.key(0), batch)


def test_difficult_objects_are_ignored_negative_or_positive():
    ignored, negative, positive = (
        targets(rule) for rule in ("ignored", "negative", "positive")
    )
    for name in ("positive", "offsets"):
        np.testing.assert_array_equal(
            getattr(ignored[0], name), getattr(negative[0], name)
        )
    assert ignored[0].ignored.any()
    assert not negative[0].ignored.any()
    assert not positive[0].ignored.any()
    assert positive[1]["positives"] > ignored[1]["positives"]
    # What is learnt may lend, too: the small object has a source only there.
    assert not ignored[0].borrow[0].sources.any()
    assert not negative[0].borrow[0].sources.any()
    np.testing.assert_array_equal(
        positive[0].borrow[0].sources.any(axis=(0, 2)), [True, False, False]
    )
    assert positive[0].borrow[0].counts.any()
    assert not ignored[0].borrow[0].counts.any()


def test_images_without_objects_train_the_background_or_nothing():
    logits = np.random.default_rng(0).normal(0, 1, (2, 1, 3)).astype(np.float32)

    def loss(least):
        task = make_task(**{"loss.min_negatives": least, "loss.matching": 0.0})
        anchors = len(task.anchors)
        none = np.zeros((2, anchors), bool)
        examples = detection.DetectionExamples(
            np.zeros((2, SIDE, SIDE, 3), np.float32),
            np.zeros((2, anchors), np.int32),
            np.zeros((2, anchors, 4), np.float32),
            none,
            none,
            {},
        )
        said = detector.Predictions(
            jnp.tile(logits, (1, anchors, 1)), jnp.zeros((2, anchors, 4)), {}
        )

        class Network:
            def apply(self, *args, **options):
                return said, {}

        task.model = Network()
        totals = {"positives": jnp.float32(1)}
        value, _ = jax.jit(task.loss)({}, {}, examples, totals)
        return value

    background = -np.log(np.exp(logits)[..., 0] / np.exp(logits).sum(axis=-1))
    assert loss(0) == 0
    # Three of each image, over the number of positives, which counts as 1.
    np.testing.assert_allclose(loss(3), 3 * background.sum(), rtol=1e-5)
