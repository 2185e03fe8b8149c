"""RetinaNet's head and its losses equal torchvision's, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from borrow_det.models import heads
from borrow_det.ops import iou_losses, losses

pytestmark = pytest.mark.parity

CLASSES, ANCHORS, CHANNELS = 4, 3, 8


@pytest.fixture(scope="module")
def torch(reference):
    """PyTorch; the fixture imports torchvision as it can be imported here."""
    return reference.torch


def xyxy(boxes):
    return np.ascontiguousarray(boxes[..., [1, 0, 3, 2]])


def draw_pairs(seed=0, count=200):
    rng = np.random.default_rng(seed)
    centers = rng.uniform(50, 250, (2, count, 2))
    centers[1, ::2] = centers[0, ::2] + rng.normal(0, 10, (count // 2, 2))
    sizes = np.exp(rng.uniform(np.log(8), np.log(150), (2, count, 2)))
    boxes = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=-1)
    return boxes.astype(np.float32)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("giou", "generalized_box_iou_loss"), ("ciou", "complete_box_iou_loss")],
)
def test_box_losses_equal_those_of_torchvision(torch, name, theirs):
    import torchvision

    boxes, target = draw_pairs()
    their_boxes = torch.tensor(xyxy(boxes), requires_grad=True)
    values = getattr(torchvision.ops, theirs)(their_boxes, torch.tensor(xyxy(target)))
    values.sum().backward()
    ours = jax.jit(iou_losses.LOSSES[name])
    gradient = jax.grad(lambda x: jnp.sum(ours(x, target)))(boxes)
    np.testing.assert_allclose(
        ours(boxes, target), values.detach(), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        xyxy(np.asarray(gradient)), their_boxes.grad, rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.75, 1.0)])
def test_focal_loss_equals_that_of_torchvision(torch, alpha, gamma):
    import torchvision

    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (50, CLASSES)).astype(np.float32)
    target = rng.uniform(size=logits.shape) < 0.2
    their_logits = torch.tensor(logits, requires_grad=True)
    values = torchvision.ops.sigmoid_focal_loss(
        their_logits, torch.tensor(target.astype(np.float32)), alpha, gamma
    )
    values.sum().backward()
    ours = jax.jit(lambda x: losses.sigmoid_focal_loss(x, target, alpha, gamma))
    gradient = jax.grad(lambda x: jnp.sum(ours(x)))(logits)
    np.testing.assert_allclose(ours(logits), values.detach(), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(gradient, their_logits.grad, rtol=1e-3, atol=1e-6)


def retinanet_head(channels, anchors, classes):
    from torchvision.models.detection.retinanet import RetinaNetHead

    return RetinaNetHead(channels, anchors, classes)


def test_parameter_count_is_that_of_retinanet(torch):
    del torch
    theirs = sum(x.numel() for x in retinanet_head(256, 9, 91).parameters())
    x = np.zeros((1, 1, 1, 256), np.float32)
    head = heads.Head(9, heads.HeadOptions(91, "focal", depth=4))
    ours = jax.eval_shape(head.init, jax.random.key(0), x, x)
    assert sum(leaf.size for leaf in jax.tree.leaves(ours)) == theirs


def test_head_equals_that_of_retinanet_on_every_level(torch):
    theirs = retinanet_head(CHANNELS, ANCHORS, CLASSES)
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        parameter.data.normal_(0, 0.2, generator=generator)
    params = {}
    for part, tower, layer in (
        ("class", "classification_head", "cls_logits"),
        ("box", "regression_head", "bbox_reg"),
    ):
        module = getattr(theirs, tower)
        convs = {part: getattr(module, layer)}
        convs |= {
            f"{part}_tower/conv{n}/conv": block[0]
            for n, block in enumerate(module.conv, start=1)
        }
        for name, conv in convs.items():
            kernel = conv.weight.detach().numpy().transpose(2, 3, 1, 0)
            params[f"{name}/kernel"] = kernel
            params[f"{name}/bias"] = conv.bias.detach().numpy()
    params = traverse_util.unflatten_dict(params, sep="/")
    head = heads.Head(ANCHORS, heads.HeadOptions(CLASSES, "focal", 4, CHANNELS))
    rng = np.random.default_rng(0)
    maps = [
        rng.normal(size=(2, *s, CHANNELS)).astype(np.float32) for s in [(6, 5), (3, 2)]
    ]
    with torch.no_grad():
        expected = theirs([torch.tensor(x.transpose(0, 3, 1, 2)) for x in maps])
    levels = [jax.jit(head.apply)({"params": params}, x, x) for x in maps]
    logits, offsets = (np.concatenate(x, axis=1) for x in zip(*levels, strict=True))
    for ours, name in ((logits, "cls_logits"), (offsets, "bbox_regression")):
        their = expected[name].numpy()
        assert ours.shape == their.shape
        atol = 1e-5 * np.abs(their).max()
        np.testing.assert_allclose(ours, their, rtol=1e-4, atol=atol)
