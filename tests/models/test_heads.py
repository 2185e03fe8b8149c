"""Heads: order of their outputs, towers, one head for all levels, initial scores."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from borrow_det.configs import base
from borrow_det.errors import InputError
from borrow_det.models import detector, heads

NUM_CLASSES = 3
# Two sizes of three ratios on every level.
EQUAL_ANCHORS = {
    "anchors.aspect_ratios": ((1.0, 2.0, 0.5),) * 4,
    "anchors.second_aspect_ratios": (1.0, 2.0, 0.5),
}


def narrow_config(fields=()):
    config = base.get_config()
    config.input_size = (64, 64)
    config.model.width = 1 / 64
    config.model.stages = (1, 1, 1, 1, 1)
    config.model.group_size = 4
    config.borrow.channels = 4
    config.head.channels = 8
    config.update_from_flattened_dict(dict(fields))
    return config


def shapes_of(module, *inputs):
    return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]


def shapes_by_path(config, num_classes=NUM_CLASSES):
    model = detector.build_borrow_net(config, num_classes)
    image = np.zeros((1, *config.input_size, 3), np.float32)
    return traverse_util.flatten_dict(shapes_of(model, image), sep="/")


def draw(shapes, seed=0, deviation=0.3):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.normal(0, deviation, leaf.shape).astype(np.float32), shapes
    )


def zero_variables(module, *inputs):
    params = shapes_of(module, *inputs)
    return {"params": jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), params)}


def test_head_flattens_rows_columns_and_anchors_in_this_order():
    head = heads.Head(2, heads.HeadOptions(NUM_CLASSES))
    x = np.zeros((2, 3, 4, 1), np.float32)
    x[..., 0] = np.arange(24).reshape(2, 3, 4)
    params = zero_variables(head, x, x)["params"]
    # Each output is its position's number plus a bias that tells anchor and channel.
    for name, bias in (("class", np.arange(8)), ("box", np.arange(8) + 50)):
        params[name]["kernel"][1, 1] = 100
        params[name]["bias"][:] = bias
    logits, offsets = head.apply({"params": params}, x, x + 24)
    image, row, column, anchor, channel = np.indices((2, 3, 4, 2, 4))
    position = (image * 3 + row) * 4 + column
    expected = (100 * position + 4 * anchor + channel).reshape(2, 24, 4)
    np.testing.assert_array_equal(logits, expected)
    # The map of the boxes has other numbers.
    np.testing.assert_array_equal(offsets, expected + 50 + 100 * 24)


def test_default_heads_are_one_layer_for_classes_and_one_for_boxes():
    """The parameters of the first versions, whose checkpoints are still read."""
    shapes = shapes_by_path(base.get_config(), num_classes=20)
    found = {k: v.shape for k, v in shapes.items() if k.startswith("head")}
    expected = {}
    levels = zip((512, 512, 1024, 512), (6, 6, 6, 4), strict=True)
    for n, (channels, anchors) in enumerate(levels, start=1):
        for name, outputs in (("class", 21 * anchors), ("box", 4 * anchors)):
            expected[f"head{n}/{name}/kernel"] = (3, 3, channels, outputs)
            expected[f"head{n}/{name}/bias"] = (outputs,)
    assert found == expected


def test_towers_have_the_parameters_of_retinanet():
    """Four 3x3 convolutions of 256 channels in both, nine anchors, sigmoids."""
    options = heads.HeadOptions(80, "focal", depth=4)
    x = np.zeros((1, 2, 2, 256), np.float32)
    params = shapes_of(heads.Head(9, options), x, x)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    conv = 3 * 3 * 256 * 256 + 256
    classes = 3 * 3 * 256 * 9 * 80 + 9 * 80
    boxes = 3 * 3 * 256 * 9 * 4 + 9 * 4
    assert count == 2 * 4 * conv + classes + boxes == 6_463_220
    assert set(params) == {"class_tower", "box_tower", "class", "box"}
    assert set(params["class_tower"]) == {"conv1", "conv2", "conv3", "conv4"}


@pytest.mark.parametrize("norm", ["none", "group"])
def test_a_tower_is_convolution_normalization_and_relu(norm):
    options = heads.HeadOptions(
        NUM_CLASSES, depth=2, channels=8, norm=norm, group_size=4
    )
    head = heads.Head(2, options)
    rng = np.random.default_rng(0)
    x, x_boxes = rng.normal(size=(2, 2, 5, 4, 6)).astype(np.float32)
    params = draw(shapes_of(head, x, x))
    with jax.numpy_rank_promotion("allow"):  # flax's norm layers need it.
        got = jax.jit(head.apply)({"params": params}, x, x_boxes)

    def convolve(x, layer):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        rows, columns = x.shape[1:3]
        y = sum(
            padded[:, i : i + rows, j : j + columns] @ layer["kernel"][i, j]
            for i in range(3)
            for j in range(3)
        )
        return y + layer.get("bias", 0)

    def normalize(x, layer):
        groups = x.reshape(*x.shape[:3], 2, 4)
        mean = groups.mean(axis=(1, 2, 4), keepdims=True)
        deviation = np.sqrt(groups.var(axis=(1, 2, 4), keepdims=True) + 1e-6)
        standard = ((groups - mean) / deviation).reshape(x.shape)
        return standard * layer["scale"] + layer["bias"]

    for name, value, channels, found in (
        ("class", x, 4, got[0]),
        ("box", x_boxes, 4, got[1]),
    ):
        for layer in ("conv1", "conv2"):
            block = params[f"{name}_tower"][layer]
            value = convolve(value, block["conv"])
            value = normalize(value, block["norm"]) if norm == "group" else value
            value = np.maximum(value, 0)
        expected = convolve(value, params[name]).reshape(2, -1, channels)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_shared_head_is_the_same_head_on_every_level_behind_its_lateral():
    options = heads.HeadOptions(NUM_CLASSES, "focal", depth=2, channels=8, shared=True)
    (shared,) = heads.make_heads((2, 2, 2), options).values()
    rng = np.random.default_rng(0)
    sizes = ((4, 5, 6), (2, 3, 10), (1, 2, 3))
    maps, box_maps = (
        [rng.normal(size=(2, *size)).astype(np.float32) for size in sizes]
        for _ in range(2)
    )
    box_maps[2] = maps[2]  # The last level is one map for both.
    params = draw(shapes_of(shared, maps, box_maps))
    got = jax.jit(shared.apply)({"params": params}, maps, box_maps)
    one = heads.Head(2, options)
    for n, (x, x_boxes) in enumerate(zip(maps, box_maps, strict=True), start=1):
        lateral = params.pop(f"lateral{n}")
        x, x_boxes = (
            y @ lateral["kernel"][0, 0] + lateral["bias"] for y in (x, x_boxes)
        )
        expected = jax.jit(one.apply)({"params": params}, x, x_boxes)
        for a, b in zip(got[n - 1], expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert set(params) == {"class_tower", "box_tower", "class", "box"}


@pytest.mark.parametrize("borrow", [True, False])
def test_network_with_a_shared_head_has_it_once(borrow):
    fields = {
        **EQUAL_ANCHORS,
        **{"head.depth": 4, "head.shared": True, "borrow.enabled": borrow},
    }
    config = narrow_config(fields)
    shapes = shapes_by_path(config)
    found = {tuple(path.split("/")[:2]) for path in shapes if path.startswith("head")}
    laterals = {("head", f"lateral{n}") for n in (1, 2, 3, 4)}
    parts = {("head", name) for name in ("class_tower", "box_tower", "class", "box")}
    assert found == laterals | parts
    model = detector.build_borrow_net(config, NUM_CLASSES)
    image = np.zeros((2, 64, 64, 3), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    predictions = jax.eval_shape(model.apply, variables, image)
    anchors = 6 * (64 + 16 + 4 + 1)
    assert predictions.logits.shape == (2, anchors, 1 + NUM_CLASSES)
    assert predictions.offsets.shape == (2, anchors, 4)
    assert bool(predictions.matchings) == borrow


def test_a_shared_head_needs_as_many_anchors_on_every_level():
    config = narrow_config({"head.shared": True})
    with pytest.raises(
        InputError, match=r"head\.shared .* the config has 6, 6, 6, 4: set"
    ):
        detector.build_borrow_net(config, NUM_CLASSES)


def test_groups_that_do_not_divide_a_tower_raise_an_error():
    fields = {"head.depth": 1, "head.norm": "group", "head.channels": 9}
    with pytest.raises(InputError, match=r"model\.group_size=4 .* head\.channels"):
        shapes_by_path(narrow_config(fields))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("depth", [0, 4])
def test_initial_scores_of_focal_heads_are_the_prior(shared, depth):
    options = heads.HeadOptions(
        NUM_CLASSES, "focal", depth, channels=32, shared=shared, prior=0.02
    )
    (head,) = heads.make_heads((3,), options).values()
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 32)).astype(np.float32)
    inputs = ([x], [x]) if shared else (x, x)
    variables = jax.jit(head.init)(jax.random.key(0), *inputs)
    bias = variables["params"]["class"]["bias"]
    np.testing.assert_allclose(jax.nn.sigmoid(bias), 0.02, rtol=1e-5)
    outputs = jax.jit(head.apply)(variables, *inputs)
    logits, _ = outputs[0] if shared else outputs
    assert logits.shape == (1, 8 * 8 * 3, NUM_CLASSES)
    scores = np.asarray(jax.nn.sigmoid(logits))
    np.testing.assert_allclose(np.median(scores), 0.02, rtol=0.1)
    assert scores.min() > 0.01
    assert scores.max() < 0.04
