"""SSD's trunks against convolutions and poolings by NumPy, and published sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import ssd300_coco, ssd300_voc, ssd512_coco
from borrow_det.errors import InputError
from borrow_det.models import detector, trunks

# Name, kernel, stride, padding of what follows fc7: Caffe's model definitions.
EXTRAS = {
    "ssd300": [
        *(("conv6_1", 1, 1, 0), ("conv6_2", 3, 2, 1)),
        *(("conv7_1", 1, 1, 0), ("conv7_2", 3, 2, 1)),
        *(("conv8_1", 1, 1, 0), ("conv8_2", 3, 1, 0)),
        *(("conv9_1", 1, 1, 0), ("conv9_2", 3, 1, 0)),
    ],
    "ssd512": [
        *(("conv6_1", 1, 1, 0), ("conv6_2", 3, 2, 1)),
        *(("conv7_1", 1, 1, 0), ("conv7_2", 3, 2, 1)),
        *(("conv8_1", 1, 1, 0), ("conv8_2", 3, 2, 1)),
        *(("conv9_1", 1, 1, 0), ("conv9_2", 3, 2, 1)),
        *(("conv10_1", 1, 1, 0), ("conv10_2", 4, 1, 1)),
    ],
}
STAGES = (1, 1, 1, 1, 1)


def windows(x, kernel, stride, dilation=1):
    """Each tap's strided view of padded x, with the tap: as a framework slides it."""
    reach = dilation * (kernel - 1)
    for row in range(kernel):
        for column in range(kernel):
            stop = [size - reach for size in x.shape[1:3]]
            view = x[:, row * dilation :, column * dilation :][:, : stop[0], : stop[1]]
            yield (row, column), view[:, ::stride, ::stride]


def convolve(x, params, stride=1, padding=1, dilation=1):
    """Convolution, bias, relu; zeros at all four sides."""
    kernel = params["conv"]["kernel"]
    x = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    taps = windows(x, kernel.shape[0], stride, dilation)
    return np.maximum(
        sum(view @ kernel[tap] for tap, view in taps) + params["conv"]["bias"], 0
    )


def halve(x):
    """2x2 pooling in ceil mode."""
    odd = [(0, size % 2) for size in x.shape[1:3]]
    x = np.pad(x, [(0, 0), *odd, (0, 0)], constant_values=-np.inf)
    return np.max([view for _, view in windows(x, 2, 2)], axis=0)


def levels_by_numpy(params, image, extras):
    x, levels = image, []
    for stage in range(1, 6):
        x = convolve(x, params[f"conv{stage}_1"])
        if stage == 4:
            levels.append(x)
        if stage < 5:
            x = halve(x)
    x = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=-np.inf)
    x = np.max([view for _, view in windows(x, 3, 1)], axis=0)
    x = convolve(x, params["conv_fc6"], padding=6, dilation=6)
    levels.append(convolve(x, params["conv_fc7"], padding=0))
    x = levels[-1]
    for name, _, stride, padding in extras:
        x = convolve(x, params[name], stride, padding)
        if name.endswith("_2"):
            levels.append(x)
    return levels


def random_like(shapes):
    """Positive and negative weights that keep activations in order."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) == 4 else 100
        scale = (2 / fan_in) ** 0.5
        return rng.normal(scale / 4, scale, leaf.shape).astype(np.float32)

    return jax.tree.map(draw, shapes)


@pytest.mark.parametrize(
    ("trunk", "input_size", "sides"),
    [
        ("ssd300", (300, 300), (38, 19, 10, 5, 3, 1)),
        ("ssd512", (512, 512), (64, 32, 16, 8, 4, 2, 1)),
        ("ssd300", (333, 290), None),
    ],
)
def test_levels_equal_the_definitions(trunk, input_size, sides):
    module = trunks.TRUNKS[trunk](width=1 / 128, stages=STAGES)
    image = np.random.default_rng(1).normal(0, 1, (1, *input_size, 3))
    image = image.astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)
    params = random_like(shapes["params"])
    found = jax.jit(module.apply)({"params": params}, image)
    expected = levels_by_numpy(params, image, EXTRAS[trunk])
    for got, want in zip(found, expected, strict=True):
        assert np.ptp(want) > 0.01
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.ptp(want))
    if sides:
        assert [level.shape[1:3] for level in found] == [(side, side) for side in sides]
    assert detector.map_shapes(trunk, input_size) == tuple(
        w.shape[1:3] for w in expected
    )


def test_fc6_reads_nine_blocks_six_positions_apart():
    """One bright position of conv5_3: pool5 spreads it, fc6's taps repeat that."""
    module = trunks.SSD300(width=1 / 512, stages=STAGES)
    side, place = 19, 9
    image = np.zeros((1, 16 * side, 16 * side, 3), np.float32)
    image[:, 16 * place + 7, 16 * place + 7] = 1
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    for name, block in params.items():
        kernel = block["conv"]["kernel"]
        middle = kernel.shape[0] // 2
        kernel[middle, middle] = 1
        if name == "conv_fc6":
            kernel[:] = 1
    fc7 = jax.jit(module.apply)({"params": params}, image)[1]
    lit = [place + step + i for step in (-6, 0, 6) for i in (-1, 0, 1)]
    expected = np.zeros((side, side), bool)
    expected[np.ix_(lit, lit)] = True
    np.testing.assert_array_equal(np.asarray(fc7)[0, ..., 0] > 0, expected)


def parameters(config, num_classes):
    """Arrays' sizes, by path."""
    model = detector.build_borrow_net(config, num_classes)
    image = jnp.zeros((1, *config.input_size, 3), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    flat = jax.tree_util.tree_leaves_with_path(params)
    return {
        "/".join(key.key for key in path): int(np.prod(leaf.shape))
        for path, leaf in flat
    }


def test_parameter_counts_equal_the_published_ones():
    # torchvision's ssd300_vgg16, 91 classes with background: its weights' metadata.
    sizes = parameters(ssd300_coco.get_config(), 90)
    assert sum(sizes.values()) == 35_641_826
    # The figure that the ports of SSD300 to PyTorch and Keras print for VOC.
    assert sum(parameters(ssd300_voc.get_config(), 20).values()) == 26_285_486


@functools.cache
def ssd512_sizes():
    return parameters(ssd512_coco.get_config(), 80)


def test_parameters_of_ssd512_by_hand():
    extras = {
        **{"conv6_1": (1, 1024, 256), "conv6_2": (3, 256, 512)},
        **{"conv7_1": (1, 512, 128), "conv7_2": (3, 128, 256)},
        **{"conv8_1": (1, 256, 128), "conv8_2": (3, 128, 256)},
        **{"conv9_1": (1, 256, 128), "conv9_2": (3, 128, 256)},
        **{"conv10_1": (1, 256, 128), "conv10_2": (4, 128, 256)},
    }
    expected = {}
    for name, (kernel, before, after) in extras.items():
        expected[f"trunk/{name}/conv/kernel"] = kernel**2 * before * after
        expected[f"trunk/{name}/conv/bias"] = after
    sizes = ssd512_sizes()
    found = {
        path: size
        for path, size in sizes.items()
        if path.startswith("trunk/conv") and path.split("/")[1] in extras
    }
    assert found == expected
    fc = 3 * 3 * 512 * 1024 + 1024 + 1024 * 1024 + 1024
    assert sum(n for p, n in sizes.items() if p.startswith("trunk")) == (
        14_714_688 + fc + sum(expected.values())
    )


def test_heads_of_ssd512_have_four_or_six_anchors():
    sizes = ssd512_sizes()
    assert [sizes[f"head{n}/box/bias"] for n in range(1, 8)] == [
        4 * k for k in (4, 6, 6, 6, 6, 4, 4)
    ]
    assert sizes["l2_1/scale"] == 512


def narrow(module, arg="", **fields):
    config = module.get_config(arg)
    config.model.width = 1 / 64
    config.model.stages = STAGES
    config.update_from_flattened_dict(fields)
    return config


def test_l2_normalization_applies_to_the_head_only():
    config = narrow(ssd300_coco)
    model = detector.build_borrow_net(config, 2)
    image = np.random.default_rng(2).uniform(0, 255, (1, 300, 300, 3))
    image = image.astype(np.float32)
    params = random_like(jax.eval_shape(model.init, jax.random.key(0), image)["params"])
    params["head1"]["class"]["bias"][:] = 0
    apply = jax.jit(model.apply)

    def logits(scale):
        params["l2_1"]["scale"] = np.full(8, scale, np.float32)
        return np.asarray(apply({"params": params}, image).logits)

    once, twice = logits(20), logits(40)
    first = 4 * 38 * 38
    np.testing.assert_array_equal(once[:, first:], twice[:, first:])
    np.testing.assert_allclose(2 * once[:, :first], twice[:, :first], rtol=1e-4)
    assert np.ptp(once[:, :first]) > 1
    # Its input is of unit length: a brighter conv4_3 changes the other levels alone.
    params["trunk"]["conv4_1"]["conv"]["kernel"] *= 4
    params["trunk"]["conv4_1"]["conv"]["bias"] *= 4
    brighter = logits(20)
    np.testing.assert_allclose(
        once[:, :first], brighter[:, :first], rtol=1e-3, atol=1e-3
    )
    assert np.abs(once[:, first:] - brighter[:, first:]).max() > 0.1


@pytest.mark.parametrize(
    ("side", "strides", "level"),
    [
        (320, (8, 16, 32, 64, 100, 300), "level 5 .* stride of 100"),
        (512, (8, 16, 32, 64, 100, 300), "level 6 .* stride of 300"),
        (128, (8, 16, 32, 64, 100, 128), r"level 5 .* map of \(0, 0\)"),
    ],
)
def test_strides_that_do_not_fit_the_maps_raise_an_error(side, strides, level):
    config = narrow(ssd300_coco)
    config.input_size, config.anchors.strides = (side, side), strides
    with pytest.raises(InputError, match=level) as error:
        detector.build_borrow_net(config, 2)
    for name in ("anchors.strides", f"input_size=({side}, {side})"):
        assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_other_input_sizes_run_with_matching_strides():
    config = narrow(ssd300_coco)
    config.input_size, config.anchors.strides = (320, 320), (8, 16, 32, 64, 107, 320)
    detector.build_borrow_net(config, 2)


def test_every_parameter_learns_when_six_levels_borrow():
    config = narrow(
        ssd300_coco,
        "borrow=True",
        **{"borrow.channels": 4, "borrow.levels": (0, 1, 2, 3, 4)},
    )
    # So that no unit of the few there are is dead.
    config.model.norm, config.model.group_size = "group", 4
    config.borrow.zero_init_context = False
    model = detector.build_borrow_net(config, 2)
    rng = np.random.default_rng(3)
    image = rng.uniform(0, 255, (2, 300, 300, 3)).astype(np.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    params = random_like(shapes)
    weights = rng.normal(0, 1, (3,)).astype(np.float32)

    @jax.jit
    @jax.grad
    def gradient(params):
        found = model.apply({"params": params}, image)
        return jnp.sum(found.logits**2 @ weights) + jnp.sum(found.offsets**2)

    silent = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(params)):
        assert np.isfinite(leaf).all(), path
        if not np.any(leaf):
            silent.add("/".join(key.key for key in path[1:3]))
    # Level 5 has one deeper position: there is nothing to choose among.
    assert silent == {"fmb5/theta", "fmb5/phi", "fmb5/log_temperature"}


def test_receptive_fields_are_counted_from_the_layers():
    # After conv5_3's 196 pixels at stride 16: pool5 and the dilated fc6 add 2 * 16 and
    # 12 * 16, every 3x3 layer twice the stride, the last layer of SSD512 three times.
    conv4_3, fc7 = 92 + 2 * 8, 196 + 32 + 192
    conv6_2, conv7_2 = fc7 + 32, fc7 + 32 + 64
    assert trunks.TRUNKS["ssd300"].receptive_fields((2, 2, 3, 3, 3)) == (
        *(conv4_3, fc7 + 2 * 16, conv6_2 + 2 * 32, conv7_2 + 2 * 64),
        *(conv7_2 + 4 * 64, conv7_2 + 6 * 64),
    )
    last = conv7_2 + 2 * 64 + 2 * 128
    assert trunks.TRUNKS["ssd512"].receptive_fields((2, 2, 3, 3, 3))[5:] == (
        *(last + 2 * 256, last + 3 * 256 + 2 * 256),
    )
