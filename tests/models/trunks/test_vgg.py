"""The trunk against the paper's receptive fields and VGG-16's published size."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.errors import InputError
from borrow_det.models import detector, layers
from borrow_det.models.trunks import vgg
from borrow_det.ops import anchors as anchor_ops
from tests.models.trunks.level_loss import level_loss

FIELDS = (108, 228, 340, 468)  # Table 1 of the paper, prediction head included.
INPUT = (576, 704)  # Not square, so that rows and columns cannot be mixed up.
# A position of each level whose whole field lies inside INPUT: (row, column).
POSITIONS = ((20, 60), (20, 15), (8, 10), (4, 6))


@functools.cache
def averaging_ssd():
    """Plain SSD of one channel, whose every convolution takes a mean.

    Returns the sum of the logits of one position as a function of the image.
    """
    config = base.get_config()
    config.input_size = INPUT
    config.model.width = 1 / 512
    config.model.pixel_mean, config.model.pixel_std = (0.0,) * 3, (1.0,) * 3
    config.borrow.enabled = config.borrow.context = False
    model = detector.build_borrow_net(config, num_classes=1)
    shapes = jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, *INPUT, 3), jnp.float32)
    )

    def mean_weights(path, leaf):
        fan_in = np.prod(leaf.shape[:-1])
        value = 1 / fan_in if path[-1].key == "kernel" else 0.0
        return jnp.full(leaf.shape, value, leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(mean_weights, shapes)

    @jax.jit
    def logits(image, start, stop):
        found = model.apply(variables, image).logits[0]
        index = jnp.arange(found.shape[0])[:, None]
        return jnp.sum(jnp.where((index >= start) & (index < stop), found, 0.0))

    return config, jax.jit(jax.grad(logits))


def first_anchors(config):
    """(first, past the last) anchor of each of POSITIONS, in the heads' order."""
    shapes = anchor_ops.level_shapes(INPUT, config.anchors.strides)
    counts = anchor_ops.anchors_per_position(config.anchors)
    start, spans = 0, []
    for (rows, columns), count, (row, column) in zip(
        shapes, counts, POSITIONS, strict=True
    ):
        first = start + (row * columns + column) * count
        spans.append((first, first + count))
        start += rows * columns * count
    return spans


@pytest.mark.parametrize("level", range(4))
def test_receptive_field_is_the_papers(level):
    config, gradient = averaging_ssd()
    start, stop = first_anchors(config)[level]
    # A pooling passes its gradient to one of four. In a picture that brightens
    # towards a corner that is always the one nearest to it: two opposite corners
    # show the two ends of the field.
    ramp = np.add.outer(np.arange(INPUT[0]), np.arange(INPUT[1])) + 1
    seen = np.zeros(INPUT, bool)
    for brightness in (ramp, ramp[::-1, ::-1]):
        image = np.repeat(brightness[None, ..., None], 3, axis=-1).astype(np.float32)
        seen |= np.any(np.asarray(gradient(image, start, stop))[0] != 0, axis=-1)
    stride = config.anchors.strides[level]
    for axis in (0, 1):
        (touched,) = np.nonzero(seen.any(axis=1 - axis))
        assert touched[-1] - touched[0] + 1 == FIELDS[level]
        center = (touched[0] + touched[-1] + 1) / 2
        # The stride-2 convolution stands on the first of its two positions.
        shift = -stride / 4 if level == 3 else 0
        assert center == (POSITIONS[level][axis] + 0.5) * stride + shift


@pytest.mark.parametrize("input_size", [(512, 512), (97, 130), (64, 65), (1, 200)])
def test_map_sizes_are_the_input_over_the_stride_rounded_up(input_size):
    trunk = vgg.VGG16(width=1 / 64)
    levels, _ = jax.eval_shape(
        trunk.init_with_output,
        jax.random.key(0),
        jnp.zeros((1, *input_size, 3), jnp.float32),
    )
    sizes = tuple(level.shape[1:3] for level in levels)
    assert sizes == tuple(
        (int(np.ceil(input_size[0] / s)), int(np.ceil(input_size[1] / s)))
        for s in (8, 16, 32, 64)
    )
    assert sizes == anchor_ops.level_shapes(input_size, (8, 16, 32, 64))
    assert [level.shape[-1] for level in levels] == [8, 8, 16, 8]


def parameter_counts(**fields):
    trunk = vgg.VGG16(**fields)
    image = jnp.zeros((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(trunk.init, jax.random.key(0), image)
    return {
        name: sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(block))
        for name, block in variables["params"].items()
    }


def test_parameter_count_is_vgg16s():
    counts = parameter_counts()
    # Keras's VGG16(include_top=False) and torchvision's vgg16().features: 14,714,688.
    assert sum(n for name, n in counts.items() if name < "conv6") == 14_714_688
    assert counts["conv1_1"] == 3 * 3 * 3 * 64 + 64
    assert counts["conv_fc6"] == 3 * 3 * 512 * 1024 + 1024
    assert counts["conv_fc7"] == 1024 * 1024 + 1024
    assert counts["conv6_1"] == 1024 * 256 + 256
    assert counts["conv6_2"] == 3 * 3 * 256 * 512 + 512
    assert len(counts) == 13 + 4


def test_stages_and_width_set_the_layers():
    counts = parameter_counts(stages=(1, 1, 2, 2, 2), width=0.125)
    assert sorted(counts) == [
        *("conv1_1", "conv2_1", "conv3_1", "conv3_2", "conv4_1", "conv4_2"),
        *("conv5_1", "conv5_2", "conv6_1", "conv6_2", "conv_fc6", "conv_fc7"),
    ]
    assert counts["conv2_1"] == 3 * 3 * 8 * 16 + 16
    assert counts["conv_fc7"] == 128 * 128 + 128


@pytest.mark.parametrize("norm", ["none", "group", "batch"])
def test_remat_changes_the_program_and_not_the_values(norm):
    fields = dict(width=1 / 16, stages=(1, 2, 1, 1, 2), norm=norm, group_size=2)
    image = np.random.default_rng(0).normal(size=(2, 33, 40, 3)).astype(np.float32)
    found = []
    for remat in (False, True):
        trunk = vgg.VGG16(**fields, remat=remat)
        variables = trunk.init(jax.random.key(0), image)
        stats = variables.get("batch_stats", {})

        loss = level_loss(trunk, image, stats)
        gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))
        program = gradient.lower(variables["params"]).as_text()
        count = program.count("stablehlo.convolution")
        found.append((variables, gradient(variables["params"]), count))
    (variables, values, count), (*expected, fewer) = found[1], found[0]
    assert count - fewer == sum(fields["stages"])
    jax.tree.map(np.testing.assert_array_equal, variables, expected[0])

    def close(value, other):
        scale = np.abs(other).max()
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-5 * scale)

    jax.tree.map(close, values, expected[1])


@pytest.fixture(scope="module")
def activations():
    rng = np.random.default_rng(0)
    return rng.normal(2, 3, (3, 4, 5, 6)).astype(np.float32)


def block(norm, **fields):
    return layers.ConvBlock(4, kernel=1, norm=norm, **fields)


def init_shapes(module, x):
    return jax.eval_shape(lambda key: module.init(key, x, False), jax.random.key(0))


def apply_block(module, x, train=False, **fresh):
    """(output, variables, updates, the convolution by NumPy)."""
    variables = module.init(jax.random.key(1), x, train)
    variables |= fresh
    y, updates = module.apply(variables, x, train, mutable=["batch_stats"])
    kernel = np.asarray(variables["params"]["conv"]["kernel"])[0, 0]
    return np.asarray(y), variables, updates, x @ kernel


def test_no_norm_is_convolution_bias_relu(activations):
    module = block("none")
    params = module.init(jax.random.key(1), activations, False)["params"]
    bias = np.array([1.0, -2.0, 0.5, 0.0], np.float32)
    params["conv"]["bias"] = bias
    y, _, _, convolved = apply_block(module, activations, params=params)
    np.testing.assert_allclose(y, np.maximum(convolved + bias, 0), rtol=1e-5, atol=1e-5)
    assert set(params) == {"conv"}


def test_group_norm_is_over_positions_and_its_channels(activations):
    y, variables, _, convolved = apply_block(block("group", group_size=2), activations)
    groups = convolved.reshape(3, -1, 2, 2)  # Image, position, group, channel.
    mean = groups.mean(axis=(1, 3), keepdims=True)
    deviation = np.sqrt(groups.var(axis=(1, 3), keepdims=True) + 1e-6)
    expected = ((groups - mean) / deviation).reshape(convolved.shape)
    np.testing.assert_allclose(y, np.maximum(expected, 0), atol=1e-4)
    assert "bias" not in variables["params"]["conv"]


def test_group_norm_refuses_channels_that_do_not_divide(activations):
    module = layers.ConvBlock(5, kernel=1, norm="group", group_size=2)
    with pytest.raises(InputError, match=r"model\.group_size"):
        init_shapes(module, activations)


def test_batch_norm_uses_the_batch_in_training_and_averages_otherwise(activations):
    # Inside of flax, ranks are promoted.
    with jax.numpy_rank_promotion("allow"):
        y, variables, updates, convolved = apply_block(
            block("batch"), activations, train=True
        )
    mean, variance = convolved.mean(axis=(0, 1, 2)), convolved.var(axis=(0, 1, 2))
    expected = (convolved - mean) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(y, np.maximum(expected, 0), atol=1e-4)
    stats = jax.tree.map(np.asarray, updates["batch_stats"]["norm"])
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * variance, rtol=1e-4)

    trained = {"params": variables["params"], **updates}
    with jax.numpy_rank_promotion("allow"):
        y = block("batch").apply(trained, activations, False)
    expected = (convolved - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    np.testing.assert_allclose(y, np.maximum(expected, 0), atol=1e-4)


def test_unknown_norm_raises_an_error():
    with pytest.raises(InputError, match=r"model\.norm is 'instance'"):
        init_shapes(block("instance"), np.zeros((1, 2, 2, 3), np.float32))


def test_l2_normalize_scales_the_direction(activations):
    module = layers.L2Normalize(8.0)
    variables = module.init(jax.random.key(0), activations)
    np.testing.assert_array_equal(variables["params"]["scale"], np.full(6, 8.0))
    scale = np.arange(1, 7, dtype=np.float32)
    y = module.apply({"params": {"scale": scale}}, activations)
    length = np.linalg.norm(activations, axis=-1, keepdims=True)
    np.testing.assert_allclose(y, activations / length * scale, rtol=1e-5)


def test_l2_normalize_of_zero_is_zero_with_a_finite_gradient():
    module = layers.L2Normalize(8.0)
    zeros = jnp.zeros((1, 1, 1, 6), jnp.float32)
    variables = module.init(jax.random.key(0), zeros)
    np.testing.assert_array_equal(module.apply(variables, zeros), zeros)
    gradient = jax.grad(lambda v, x: jnp.sum(module.apply(v, x)), argnums=(0, 1))(
        variables, zeros
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_bfloat16_computes_in_it_and_keeps_float32_parameters():
    trunk = vgg.VGG16(width=1 / 32, dtype=jnp.bfloat16)
    image = jnp.ones((1, 64, 64, 3), jnp.float32)
    levels, variables = jax.eval_shape(trunk.init_with_output, jax.random.key(0), image)
    assert {level.dtype for level in levels} == {jnp.dtype(jnp.bfloat16)}
    assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (2, 7, 5, 3), (1, 1, 1, 2)])
def test_max_pool_equals_flax_in_value_and_gradient(shape):
    rng = np.random.default_rng(3)
    x = rng.normal(size=shape).astype(np.float32)

    def windowed(x):
        return nn.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")

    expected, expected_gradient = jax.vjp(windowed, x)
    found, gradient = jax.vjp(layers.max_pool, x)
    np.testing.assert_array_equal(found, expected)
    upper = rng.normal(size=expected.shape).astype(np.float32)
    np.testing.assert_array_equal(gradient(upper)[0], expected_gradient(upper)[0])


def test_max_pool_keeps_channels_as_the_last_axis():
    # On TPUs, merging or splitting the last axis would copy the entire map.
    program = jax.make_jaxpr(layers.max_pool)(jnp.zeros((2, 6, 5, 3)))
    shapes = [out.aval.shape for eqn in program.eqns for out in eqn.outvars]
    assert {(len(shape), shape[-1]) for shape in shapes if shape} == {(4, 3)}


def test_receptive_fields_are_counted_from_the_stages():
    assert vgg.VGG16.receptive_fields((2, 2, 3, 3, 3)) == FIELDS
    # By hand, with one convolution a stage: 1+2=3, 4; 8, 10; 18, 22; 38 at conv4_3.
    assert vgg.VGG16.receptive_fields((1, 1, 1, 1, 1))[0] == 38 + 2 * 8
