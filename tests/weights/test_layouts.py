"""Layouts of weight files: conversion index by index, and invalid files."""

import itertools
import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from borrow_det.configs import base
from borrow_det.errors import InputError
from borrow_det.ops import anchors
from borrow_det.weights import layouts
from borrow_det.weights.files import Tensor
from borrow_det.workdir import init_from, trunk_conversion

PLAIN, FEATURES = "torchvision_vgg16", "torchvision_vgg16_features"


def filled(shape, value=0.0):
    """Makes a tensor of one value that needs no memory."""
    return Tensor(shape, "float32", lambda: np.broadcast_to(np.float32(value), shape))


def tensors_of(name):
    return {n: filled(e.shape) for n, e in layouts.LAYOUTS[name].tensors.items()}


def entry(layout, name):
    return layouts.LAYOUTS[layout].tensors[name]


# Recognising and checking.


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_every_layout_is_recognized_by_the_names_of_its_tensors(name):
    known = layouts.LAYOUTS[name]
    required = {n: filled(known.tensors[n].shape) for n in known.required}
    assert layouts.recognize(required) == name
    if name != FEATURES:  # With a finite classifier it is plain vgg16.
        assert layouts.recognize(tensors_of(name)) == name
    layouts.check(required, known)
    layouts.check(tensors_of(name), known)


def test_a_file_without_a_finite_classifier_is_vgg16_features():
    tensors = tensors_of(PLAIN)
    classifier = layouts.LAYOUTS[FEATURES].optional
    assert len(classifier) == 6

    def holding(name, value):
        # As few as will do: half a gigabyte else.
        return tensors[name]._replace(read=lambda: np.array([np.nan, value]))

    tensors |= {name: holding(name, np.nan) for name in classifier}
    assert layouts.recognize(tensors) == FEATURES
    for name in classifier:
        assert layouts.recognize(tensors | {name: holding(name, 1)}) == PLAIN


@pytest.mark.parametrize("wrong", ["name", "shape", "type"])
def test_numbers_of_invalid_files_are_not_read(wrong):
    tensors = {n: t._replace(read=None) for n, t in tensors_of(PLAIN).items()}
    fc6 = "classifier.0.weight"
    if wrong == "name":
        tensors["fc6"] = tensors.pop(fc6)
    elif wrong == "shape":
        tensors[fc6] = tensors[fc6]._replace(shape=(10**6, 10**6))
    else:
        tensors[fc6] = tensors[fc6]._replace(dtype="int64")
    assert layouts.recognize(tensors) == PLAIN
    with pytest.raises(InputError, match=r"classifier\.0\.weight"):
        layouts.check(tensors, layouts.LAYOUTS[PLAIN])


def test_similar_names_belong_to_the_layout_and_other_names_to_none():
    tensors = {f"{name}_": tensor for name, tensor in tensors_of(PLAIN).items()}
    with pytest.raises(
        InputError, match=r"not match a known layout \(torchvision_vgg16, .*ssd"
    ):
        layouts.recognize(tensors)
    renamed = tensors_of("vgg16_reducedfc")
    renamed["fc7.weight"] = renamed.pop("33.weight")
    assert layouts.recognize(renamed) == "vgg16_reducedfc"
    with pytest.raises(InputError, match="has no tensors"):
        layouts.recognize({})


def test_the_error_lists_all_differences_to_the_layout():
    known = layouts.LAYOUTS[PLAIN]
    tensors = tensors_of(PLAIN)
    del tensors["features.0.bias"], tensors["classifier.6.weight"]
    tensors["features.2.weight"] = filled((64, 64, 1, 1))
    tensors["features.5.bias"] = Tensor((128,), "int64", None)
    tensors["extra"] = tensors["more.weight"] = filled((1,))
    with pytest.raises(InputError) as error:
        layouts.check(tensors, known)
    assert str(error.value) == (
        "it is not torchvision's vgg16; missing: features.0.bias, classifier.6.weight; "
        "unexpected: extra, more.weight; of another shape: features.2.weight is "
        "float32 [64, 64, 1, 1], not float [64, 64, 3, 3], features.5.bias is int64 "
        "[128], not float [128]"
    )


@pytest.mark.parametrize("name", [FEATURES, "keras_vgg16"])
def test_optional_tensors_are_all_present_or_all_absent(name):
    tensors = tensors_of(name)
    first, *others = layouts.LAYOUTS[name].optional
    del tensors[first]
    with pytest.raises(InputError, match=f"missing: {first}$"):
        layouts.check(tensors, layouts.LAYOUTS[name])
    for other in others:
        del tensors[other]
    layouts.check(tensors, layouts.LAYOUTS[name])


def test_numbers_that_are_not_finite_are_listed():
    known = layouts.LAYOUTS["vgg16_reducedfc"]
    tensors = tensors_of("vgg16_reducedfc")
    tensors["2.bias"] = filled((64,), np.nan)
    tensors["33.bias"] = filled((1024,), np.inf)
    with pytest.raises(InputError, match=r"NaN or infinite numbers in 2\.bias, 33\.b"):
        layouts.convert(tensors, known)


# The table.


@pytest.mark.parametrize(
    ("name", "count"),
    [
        (PLAIN, 138_357_544),  # Published with torchvision's weights ...
        ("torchvision_ssd300_vgg16", 35_641_826),  # ... these, too.
        ("keras_vgg16", 138_357_544),  # keras.io's table says 138.4 million.
        # VGG-16's 13 convolutions (14,714,688), fc6 3x3x512x1024, fc7 1024x1024.
        ("vgg16_reducedfc", 14_714_688 + 4_719_616 + 1_049_600),
    ],
)
def test_layouts_have_the_published_number_of_parameters(name, count):
    shapes = [entry.shape for entry in layouts.LAYOUTS[name].tensors.values()]
    assert sum(np.prod(shape) for shape in shapes) == count


@pytest.mark.parametrize("name", layouts.LAYOUTS)
def test_pixel_statistics_of_every_layout_are_valid(name):
    statistics = layouts.LAYOUTS[name].pixel_statistics
    assert set(statistics) == set(init_from.PIXEL_STATISTICS)
    init_from.check_pixel_statistics(statistics, name)
    if name in ("timm_vit_small", "timm_vit_base"):
        # Their pixels are mapped to [-1, 1].
        assert statistics == {
            "channel_order": "RGB",
            "pixel_mean": (127.5,) * 3,
            "pixel_std": (127.5,) * 3,
        }
        return
    # In every order, ImageNet's red is brighter than its blue.
    red = 0 if statistics["channel_order"] == "RGB" else 2
    mean = statistics["pixel_mean"]
    assert mean[red] > mean[1] > mean[2 - red]
    np.testing.assert_allclose(mean[red], 123.3, atol=0.5)


def test_anchors_of_the_detector_equal_those_of_torchvision():
    trained = layouts.LAYOUTS["torchvision_ssd300_vgg16"].trained
    assert set(trained.anchors) == set(base.get_config().anchors)
    # Its documented defaults: a box of each scale, one of the mean with the next scale,
    # then each ratio and its inverse; all shares of the side, cut at 1.
    scales = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
    expected = []
    for k, (step, ratios) in enumerate(
        zip(
            (8, 16, 32, 64, 100, 300),
            ([2], [2, 3], [2, 3], [2, 3], [2], [2]),
            strict=True,
        )
    ):
        here, mean = scales[k], math.sqrt(scales[k] * scales[k + 1])
        sides = [(here, here), (mean, mean)]  # (width, height)
        for ratio in ratios:
            wide = here * math.sqrt(ratio), here / math.sqrt(ratio)
            sides += [wide, wide[::-1]]
        count = math.ceil(300 / step)
        for i, j in np.ndindex(count, count):
            x, y = (j + 0.5) * step / 300, (i + 0.5) * step / 300
            for width, height in sides:
                w, h = min(width, 1) / 2, min(height, 1) / 2
                expected.append((y - h, x - w, y + h, x + w))
    found = anchors.make_anchors(ConfigDict(trained.anchors), trained.input_size)
    assert len(expected) == 8732
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # The weights of its box coder are what the offsets are multiplied by.
    assert [1 / v for v in trained.anchors["variances"]] == [10, 5]


@pytest.mark.parametrize(
    ("layout", "name", "path"),
    [
        (PLAIN, "features.28.weight", "trunk/conv5_3/conv/kernel"),
        (PLAIN, "classifier.3.bias", "fc7/bias"),
        (FEATURES, "features.10.bias", "trunk/conv3_1/conv/bias"),
        (FEATURES, "classifier.3.bias", ""),
        ("keras_vgg16", "block4_conv2/kernel", "trunk/conv4_2/conv/kernel"),
        ("keras_vgg16", "predictions/kernel", "fc8/kernel"),
        ("vgg16_reducedfc", "21.weight", "trunk/conv4_3/conv/kernel"),
        ("vgg16_reducedfc", "31.weight", "trunk/conv_fc6/conv/kernel"),
        ("vgg16_reducedfc", "33.bias", "trunk/conv_fc7/conv/bias"),
        ("torchvision_ssd300_vgg16", "backbone.scale_weight", "l2_1/scale"),
        (
            "torchvision_ssd300_vgg16",
            "backbone.extra.0.1.weight",
            "trunk/conv5_1/conv/kernel",
        ),
        (
            "torchvision_ssd300_vgg16",
            "backbone.extra.3.2.bias",
            "trunk/conv8_2/conv/bias",
        ),
    ],
)
def test_paths_of_parameters_of_tensors(layout, name, path):
    assert entry(layout, name).path == path


# Conversions.


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        (PLAIN, "features.0.weight"),
        ("vgg16_reducedfc", "31.weight"),
        ("torchvision_ssd300_vgg16", "backbone.extra.1.2.weight"),
    ],
)
def test_torch_convolutions_index_by_index(layout, name):
    array = np.random.default_rng(0).normal(size=(4, 3, 2, 5))
    kernel = entry(layout, name).convert(array)
    assert kernel.shape == (2, 5, 3, 4)
    for o, i, y, x in np.ndindex(4, 3, 2, 5):
        assert kernel[y, x, i, o] == array[o, i, y, x]


def test_fc_layers_of_torch_and_keras_index_by_index():
    rng = np.random.default_rng(0)
    fc6 = rng.normal(size=(8, 512, 7, 7))  # [output, channel, y, x]
    from_torch = entry(PLAIN, "classifier.0.weight").convert(fc6.reshape(8, -1))
    rows = fc6.transpose(2, 3, 1, 0).reshape(-1, 8)  # Keras flattens [y, x, channel].
    from_keras = entry("keras_vgg16", "fc1/kernel").convert(rows)
    assert from_torch.shape == (7, 7, 512, 8)
    for o, y, x in np.ndindex(8, 7, 7):
        np.testing.assert_array_equal(from_torch[y, x, :, o], fc6[o, :, y, x])
    np.testing.assert_array_equal(from_keras, from_torch)

    fc7 = rng.normal(size=(8, 12))  # [output, input]
    kernels = [
        entry(PLAIN, "classifier.3.weight").convert(fc7),
        entry(PLAIN, "classifier.6.weight").convert(fc7),
        entry("keras_vgg16", "fc2/kernel").convert(fc7.T),
        entry("keras_vgg16", "predictions/kernel").convert(fc7.T),
    ]
    for kernel in kernels:
        np.testing.assert_array_equal(kernel, fc7.T[None, None])


def test_flattening_of_torch_and_keras_give_the_same_decimated_fc6():
    rng = np.random.default_rng(1)
    fc6 = rng.normal(size=(8, 512, 7, 7))
    fc7 = rng.normal(size=(8, 8))
    bias = rng.normal(size=8)
    both = {
        PLAIN: ("classifier.0.weight", fc6.reshape(8, -1), "classifier.3.weight", fc7),
        "keras_vgg16": (
            *("fc1/kernel", fc6.transpose(2, 3, 1, 0).reshape(-1, 8)),
            *("fc2/kernel", fc7.T),
        ),
    }
    for layout, (first, fc6_array, second, fc7_array) in both.items():
        made = trunk_conversion.decimate(
            {
                "fc6": {
                    "kernel": entry(layout, first).convert(fc6_array),
                    "bias": bias,
                },
                "fc7": {
                    "kernel": entry(layout, second).convert(fc7_array),
                    "bias": bias,
                },
            }
        )
        kernel = made["conv_fc6"]["conv"]["kernel"]
        for (i, row), (j, column), (k, output) in itertools.product(
            *map(enumerate, ((0, 3, 6), (0, 3, 6), (0, 4)))
        ):
            expected = fc6[output, :, row, column]
            np.testing.assert_array_equal(kernel[i, j, :, k], expected)
        np.testing.assert_array_equal(
            made["conv_fc7"]["conv"]["kernel"][0, 0], fc7[::4, ::4].T
        )


def test_box_outputs_are_reordered_within_each_anchor():
    ssd = "torchvision_ssd300_vgg16"
    name = "head.regression_head.module_list.0"
    bias = np.arange(16.0)  # Of 4 anchors: dx, dy, dw, dh.
    expected = [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14]
    found = entry(ssd, f"{name}.bias").convert(bias)
    np.testing.assert_array_equal(found, expected)
    weight = np.random.default_rng(0).normal(size=(16, 2, 3, 3))
    kernel = entry(ssd, f"{name}.weight").convert(weight)
    for channel, source in enumerate(expected):
        np.testing.assert_array_equal(
            kernel[..., channel], weight[source].transpose(1, 2, 0)
        )


def test_kept_class_channels_stay_with_their_anchors():
    ids = (1, 2, 11, 13, 90)
    bias = np.arange(2 * 91)  # Of 2 anchors.
    box = np.arange(8)
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 2 * 91))
    given = {"head1/class/bias": bias, "head1/class/kernel": kernel, "head1/box/b": box}
    kept = layouts.keep_classes(given, ids)
    channels = [0, 1, 2, 11, 13, 90, 91, 92, 93, 102, 104, 181]
    np.testing.assert_array_equal(kept["head1/class/bias"], channels)
    np.testing.assert_array_equal(kept["head1/class/kernel"], kernel[..., channels])
    assert kept["head1/box/b"] is box
    every = layouts.keep_classes(given, range(1, 91))
    np.testing.assert_array_equal(every["head1/class/kernel"], kernel)


def test_only_the_tensors_of_the_layout_are_converted():
    known = layouts.LAYOUTS[FEATURES]
    tensors = tensors_of(FEATURES)
    for name in known.optional:
        tensors[name] = filled((1,), np.nan)
    value = np.random.default_rng(0).normal(size=(64, 3, 3, 3)).astype(np.float32)
    tensors["features.0.weight"] = Tensor(value.shape, "float32", lambda: value)
    converted = layouts.convert(tensors, known)
    assert converted["batch_stats"] == {}
    converted = converted["params"]
    assert set(converted) == {e.path for e in known.tensors.values() if e.path}
    kernel = converted["trunk/conv1_1/conv/kernel"]
    np.testing.assert_array_equal(kernel, value.transpose(2, 3, 1, 0))
    assert kernel.flags.c_contiguous
    assert {array.dtype for array in converted.values()} == {np.dtype(np.float32)}
