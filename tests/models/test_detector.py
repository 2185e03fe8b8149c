"""Order of the anchors, initial predictions, and wrong fields."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.errors import InputError
from borrow_det.models import detector
from borrow_det.models.layers import PixelStatistics
from borrow_det.ops import anchors as anchor_ops

NUM_CLASSES = 3


def narrow_config(input_size, **model):
    config = base.get_config()
    config.input_size = input_size
    config.model.width = 1 / 64
    config.model.update(model)
    return config


def zero_variables(module, *inputs):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


@pytest.mark.parametrize("input_size", [(512, 512), (72, 130), (65, 64)])
def test_outputs_are_in_the_order_of_the_anchors(input_size):
    config = narrow_config(input_size)
    model = detector.build_borrow_net(config, NUM_CLASSES)
    image = np.zeros((1, *input_size, 3), np.float32)
    variables = zero_variables(model, image)
    # Each anchor of each level has its numbers in its logits.
    for n, count in enumerate(anchor_ops.anchors_per_position(config.anchors)):
        bias = variables["params"][f"head{n + 1}"]["class"]["bias"].reshape(count, -1)
        bias[:, 1], bias[:, 2] = n, np.arange(count)
    found = jax.jit(model.apply)(variables, image)
    level, shape = np.asarray(found.logits)[0, :, 1:3].astype(int).T

    anchors = anchor_ops.make_anchors(config.anchors, input_size)
    assert found.logits.shape == (1, len(anchors), 1 + NUM_CLASSES)
    assert found.offsets.shape == (1, len(anchors), 4)
    sizes = anchor_ops.position_shapes(config.anchors, input_size)
    expected = np.array([sizes[n][k] for n, k in zip(level, shape, strict=True)])
    measured = (anchors[:, 2:] - anchors[:, :2]) * input_size
    np.testing.assert_allclose(measured, expected, rtol=1e-4)


def test_the_paper_has_six_six_six_and_four_anchors_a_position():
    config = narrow_config((512, 512))
    assert anchor_ops.anchors_per_position(config.anchors) == (6, 6, 6, 4)
    count = 6 * (64 * 64 + 32 * 32 + 16 * 16) + 4 * 8 * 8
    assert len(anchor_ops.make_anchors(config.anchors, (512, 512))) == count


def test_background_bias_is_on_every_background_logit_at_the_start():
    config = narrow_config((64, 64), background_bias=3.0)
    model = detector.build_borrow_net(config, NUM_CLASSES)
    image = np.zeros((1, 64, 64, 3), np.float32)

    @jax.jit  # Compiles no more than what makes the biases.
    def biases():
        params = model.init(jax.random.key(0), image)["params"]
        return [
            [params[f"head{n}"][name]["bias"] for name in ("class", "box")]
            for n in (1, 2, 3, 4)
        ]

    for of_classes, of_boxes in biases():
        of_classes = np.asarray(of_classes).reshape(-1, 1 + NUM_CLASSES)
        np.testing.assert_array_equal(of_classes[:, 0], 3)
        np.testing.assert_array_equal(of_classes[:, 1:], 0)
        np.testing.assert_array_equal(of_boxes, 0)


def test_images_are_shifted_and_scaled_by_the_configs_pixel_statistics():
    config = narrow_config(
        (64, 64), pixel_mean=(10.0, 20.0, 30.0), pixel_std=(2.0, 4.0, 5.0)
    )
    model = detector.build_borrow_net(config, NUM_CLASSES)
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (1, 64, 64, 3)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    variables = jax.tree.map(
        lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes
    )
    plain = model.clone(pixel_statistics=PixelStatistics("RGB", (0.0,) * 3, (1.0,) * 3))
    normalized = (image - np.float32([10, 20, 30])) / np.float32([2, 4, 5])
    found = jax.jit(model.apply)(variables, image).logits
    expected = jax.jit(plain.apply)(variables, normalized).logits
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.ptp(expected))
    assert np.ptp(expected) > 1


def test_l2_normalization_applies_to_levels_with_a_scale():
    config = narrow_config((64, 64), l2_scales=(8.0, 0.0, 5.0, 0.0))
    model = detector.build_borrow_net(config, NUM_CLASSES)
    image = jnp.zeros((1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    assert {name for name in params if name.startswith("l2")} == {"l2_1", "l2_3"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("trunk", "resnet"), ("l2_scales", (8.0, 5.0)), ("stages", (2, 2))],
)
def test_wrong_fields_raise_an_error_with_their_name(field, value):
    config = narrow_config((64, 64), **{field: value})
    with pytest.raises(InputError, match=rf"model\.{field}"):
        detector.build_borrow_net(config, NUM_CLASSES)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strides", (4, 8, 16, 32)),
        ("sizes", (32.0, 64.0, 128.0)),
        ("aspect_ratios", ((1.0,), (1.0,))),
    ],
)
def test_anchors_that_do_not_fit_the_trunk_raise_an_error(field, value):
    config = narrow_config((64, 64))
    config.anchors[field] = value
    with pytest.raises(InputError, match=rf"anchors\.{field}"):
        detector.build_borrow_net(config, NUM_CLASSES)
