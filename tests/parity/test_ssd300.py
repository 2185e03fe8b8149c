"""SSD300 against torchvision's: the same weights through tools.import_weights.

Both compute in float32 and sum in other orders. A sum of n products of similar size
differs by about sqrt(n) 6e-8 of its value; the longest here has 9216, and 23 layers
follow one another, so the bounds below are some 1e-5 of the largest value. Where no
convolution lies between, they are those of single roundings.
"""

import copy
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import config_dict

from borrow_det.models.detector import Predictions
from borrow_det.ops import boxes as box_ops
from borrow_det.tasks import detection
from borrow_det.tools import import_weights
from borrow_det.tools.common import cli
from borrow_det.workdir import checkpoints, metadata

pytestmark = pytest.mark.parity

SIDE = 300
CLASSES = 90  # torchvision's COCO ids; the background beside them.
AFTER_CONVOLUTIONS = 5e-5  # Of the largest value.
CONFIG = "configs/ssd300_coco.py:reference=torchvision"


@pytest.fixture(scope="module")
def ours(reference, tmp_path_factory):
    """The reference's weights, imported: has `config`, `task`, `variables`."""
    folder = tmp_path_factory.mktemp("import")
    file, workdir = folder / "ssd300.pth", folder / "W"
    reference.torch.save(reference.model.state_dict(), file)
    flags = [f"--input={file}", f"--output={workdir}", f"--config={CONFIG}"]
    argv = ["import_weights", *flags, "--keep_unused_classes"]
    assert cli.call(import_weights.main, argv) == 0
    config = config_dict.ConfigDict(metadata.load_config(workdir))
    with config.unlocked():
        config.augment.enabled = False
    return types.SimpleNamespace(
        config=config,
        task=detection.DetectionTask(config, CLASSES),
        variables=checkpoints.restore_variables(workdir),
    )


@pytest.fixture(scope="module")
def inputs(reference, images):
    """torchvision's own normalisation and stacking of `images`."""
    torch = reference.torch
    scaled = [torch.from_numpy(i.transpose(2, 0, 1) / np.float32(255)) for i in images]
    return types.SimpleNamespace(
        images=scaled, batch=reference.model.transform(scaled)[0]
    )


@pytest.fixture(scope="module")
def outputs(reference, inputs):
    """torchvision's levels, head outputs [B, A, ...] and anchors [A, 4] in pixels."""
    model = reference.model
    with reference.torch.no_grad():
        levels = list(model.backbone(inputs.batch.tensors).values())
        heads = model.head(levels)
        anchors = model.anchor_generator(inputs.batch, levels)
    return types.SimpleNamespace(
        levels=[level.numpy().transpose(0, 2, 3, 1) for level in levels],
        logits=heads["cls_logits"].numpy(),
        offsets=heads["bbox_regression"].numpy(),
        heads=heads,
        anchors=anchors[0],
        image_anchors=anchors,
    )


@pytest.fixture(scope="module")
def predicted(ours, images):
    """Our levels as they enter the heads, and predictions."""
    predictions, captured = jax.jit(
        lambda variables, image: ours.task.model.apply(
            variables,
            image,
            capture_intermediates=lambda module, _: module.name in ("trunk", "l2_1"),
        )
    )(ours.variables, images.astype(np.float32))
    seen = captured["intermediates"]
    (levels,), (first,) = (seen[name]["__call__"] for name in ("trunk", "l2_1"))
    return types.SimpleNamespace(levels=(first, *levels[1:]), predictions=predictions)


def yxyx(boxes):
    """torchvision's pixels `x, y, x, y` as ours: `y, x, y, x` of the side."""
    return np.asarray(boxes)[..., [1, 0, 3, 2]] / np.float32(SIDE)


def close(found, expected, tolerance):
    """Equal to `tolerance` of the largest expected value."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


# The network.


def test_trunk_features(predicted, outputs):
    assert len(predicted.levels) == 6
    for found, expected in zip(predicted.levels, outputs.levels, strict=True):
        close(found, expected, AFTER_CONVOLUTIONS)


def test_head_outputs(predicted, outputs):
    close(predicted.predictions.logits, outputs.logits, AFTER_CONVOLUTIONS)
    offsets = outputs.offsets[..., [1, 0, 3, 2]]
    close(predicted.predictions.offsets, offsets, AFTER_CONVOLUTIONS)


def test_anchors(ours, outputs):
    assert ours.task.anchors.shape == (8732, 4)
    # Two roundings of values up to 300, over 300.
    np.testing.assert_allclose(ours.task.anchors, yxyx(outputs.anchors), atol=2e-7)


# Targets and loss.


def make_objects():
    """Boxes in pixels `x, y, x, y` and 0-based labels of two images.

    In the first, several objects want the same anchor (nearly equal boxes, of which
    the last must win it), one fills the image, and one is so narrow that it overlaps no
    anchor by 0.5 and yet gets its best. None lies within several anchors that it
    overlaps equally: of those, rounding chooses. The second image has none.
    """
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 200, (12, 2))
    size = np.exp(rng.uniform(np.log(5), np.log(95), (12, 2)))
    boxes = np.concatenate([corner, corner + size], axis=1)
    rivals = np.array(
        [[100, 100, 118, 119], [101, 100, 119, 118], [100, 101, 118, 118]]
    )
    special = np.array([[1, 1, 299, 298], [247.25, 78, 256.75, 122]])
    boxes = np.concatenate([boxes, rivals, special]).astype(np.float32)
    # A label of its own for every object: the target tells which one it is.
    return boxes, np.arange(len(boxes))


@pytest.fixture(scope="module")
def examples(ours, images):
    """Our targets of `make_objects`, and the totals of the batch."""
    boxes, labels = make_objects()
    rows = 2 + len(boxes)  # With some padding.

    def pad(values):
        padded = np.zeros((2, rows, *values.shape[1:]), values.dtype)
        padded[0, : len(values)] = values
        return padded

    batch = {
        "image": images,
        "image_size": np.full((2, 2), SIDE, np.int32),
        "boxes": pad(yxyx(boxes)),
        "labels": pad(labels.astype(np.int32)),
        "box_mask": pad(np.ones(len(boxes), bool)),
        "ignore": np.zeros((2, rows), bool),
    }
    return jax.jit(ours.task.prepare)(jax.random.key(0), batch)


@pytest.fixture(scope="module")
def matched(reference, outputs):
    """torchvision's object of each anchor of the first image, below 0: none."""
    boxes = reference.torch.from_numpy(make_objects()[0])
    return reference.model.proposal_matcher(reference.box_iou(boxes, outputs.anchors))


def test_matched_objects(examples, matched):
    target = np.asarray(examples[0].target)
    np.testing.assert_array_equal(target[0], np.maximum(matched.numpy(), -1) + 1)
    assert not target[1].any()
    counts = np.bincount(target[0], minlength=len(make_objects()[0]) + 1)
    rivals = counts[13:16]
    assert rivals[-1] >= 1
    assert counts[17] == 1  # The narrow one.


def test_encoded_targets(reference, outputs, examples, matched):
    boxes, _ = make_objects()
    positive = np.flatnonzero(matched.numpy() >= 0)
    expected = reference.model.box_coder.encode_single(
        reference.torch.from_numpy(boxes)[matched[positive]],
        outputs.anchors[positive],
    ).numpy()[:, [1, 0, 3, 2]]
    found = np.asarray(examples[0].offsets)[0, positive]
    # A centre's difference, of numbers up to 1 with 6e-8 each, over an anchor's size
    # (0.07 at least) and the variance 0.1.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=4e-5)


# Of a gradient's length. Where an activation is zero but for rounding (here one of
# conv6_2 is 2e-7 where they are 55 on average), relu lets its whole gradient through
# on one side alone, which moves all layers before it: conv_fc6 by 3.5e-3, as much as
# the reference's own float32 differs from its float64 (up to 2e-3).
GRADIENT_BOUNDS = {"conv9_2": 1e-5, "conv_fc6": 2e-2, "conv1_1": 2e-2}


@pytest.fixture(scope="module")
def losses(reference, inputs):
    """torchvision's loss terms on `make_objects`, and gradients by our names."""
    torch, model = reference.torch, copy.deepcopy(reference.model).train()
    boxes, labels = make_objects()
    targets = [
        {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels + 1)},
        {"boxes": torch.zeros(0, 4), "labels": torch.tensor([]).long()},
    ]
    terms = model(inputs.images, targets)
    sum(terms.values()).backward()
    backbone = model.backbone
    kernels = {
        "conv1_1": backbone.features[0].weight,
        "conv_fc6": backbone.extra[0][7][1].weight,
        "conv9_2": backbone.extra[4][2].weight,
    }
    return (
        {name: term.item() for name, term in terms.items()},
        {n: k.grad.numpy().transpose(2, 3, 1, 0) for n, k in kernels.items()},
    )


def test_loss_and_gradients(ours, examples, losses):
    params, stats = ours.variables["params"], ours.variables["batch_stats"]
    gradient = jax.jit(jax.grad(ours.task.loss, has_aux=True))
    found, (terms, _) = gradient(params, stats, *examples)
    expected_terms, expected = losses
    for name, reference_name in (
        ("classification", "classification"),
        ("localization", "bbox_regression"),
    ):
        np.testing.assert_allclose(
            terms[name], expected_terms[reference_name], rtol=2e-5
        )
    for layer, bound in GRADIENT_BOUNDS.items():
        error = found["trunk"][layer]["conv"]["kernel"] - expected[layer]
        assert np.linalg.norm(error) < bound * np.linalg.norm(expected[layer])


# Detections.


@pytest.fixture(scope="module")
def detected(reference, inputs, outputs):
    """torchvision's detections: a list of {boxes, scores, labels}, NumPy."""
    with reference.torch.no_grad():
        found = reference.model.postprocess_detections(
            outputs.heads, outputs.image_anchors, inputs.batch.image_sizes
        )
    return [{name: value.numpy() for name, value in f.items()} for f in found]


def detect(task, variables, images):
    """The task's detections of images that have the input's size."""
    size = np.full((len(images), 2), SIDE, np.int32)
    return jax.jit(task.detect)(variables, images, size)


def test_decoded_boxes(reference, ours, outputs):
    expected = reference.model.box_coder.decode_single(
        reference.torch.from_numpy(outputs.offsets[0]), outputs.anchors
    )
    found = box_ops.decode(
        jnp.asarray(outputs.offsets[0][:, [1, 0, 3, 2]]),
        jnp.asarray(ours.task.anchors),
        tuple(ours.config.anchors.variances),
    )
    close(found, yxyx(expected), 2e-6)


def test_detections_of_the_same_head_outputs(ours, images, outputs, detected):
    task = detection.DetectionTask(ours.config, CLASSES)
    # In place of variables, what the network would say with them.
    task.model = types.SimpleNamespace(apply=lambda said, *_, **__: said)
    said = Predictions(outputs.logits, outputs.offsets[..., [1, 0, 3, 2]], {})
    found = detect(task, said, images)
    for i, expected in enumerate(detected):
        kept = np.asarray(found.mask[i])
        assert kept.sum() == len(expected["scores"]) == 200
        np.testing.assert_array_equal(found.labels[i][kept] + 1, expected["labels"])
        np.testing.assert_allclose(found.scores[i][kept], expected["scores"], rtol=2e-6)
        np.testing.assert_allclose(
            found.boxes[i][kept], yxyx(expected["boxes"]), atol=1e-6
        )


def test_detections_of_the_same_images(ours, images, detected):
    found = detect(ours.task, ours.variables, images)
    for i, expected in enumerate(detected):
        kept = np.asarray(found.mask[i])
        np.testing.assert_allclose(found.scores[i][kept], expected["scores"], rtol=1e-3)
        # Neighbours in rank whose scores differ by a rounding may change places.
        same = found.labels[i][kept] + 1 == expected["labels"]
        assert np.mean(same) > 0.95
        np.testing.assert_allclose(
            found.boxes[i][kept][same], yxyx(expected["boxes"])[same], atol=1e-4
        )
