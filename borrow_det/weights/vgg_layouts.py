"""Layouts of VGG-16 and SSD300.

Fully connected layers are convolutions (fc6 is 7x7), so that
workdir/trunk_conversion.py can decimate them by slicing.
"""

from collections.abc import Iterable

import numpy as np

from borrow_det.weights import keras_names, published
from borrow_det.weights.entries import (
    Convert,
    Entry,
    Layout,
    Trained,
    from_oihw,
    layer,
    not_imported,
    pixel_statistics,
    same,
)

# Class channels of torchvision's detector: background, then the COCO ids 1 to 90.
COCO_CHANNELS = 91

_CONVOLUTIONS = (
    *(("conv1_1", 3, 64), ("conv1_2", 64, 64)),
    *(("conv2_1", 64, 128), ("conv2_2", 128, 128)),
    *(("conv3_1", 128, 256), ("conv3_2", 256, 256), ("conv3_3", 256, 256)),
    *(("conv4_1", 256, 512), ("conv4_2", 512, 512), ("conv4_3", 512, 512)),
    *(("conv5_1", 512, 512), ("conv5_2", 512, 512), ("conv5_3", 512, 512)),
)
# Indices in torchvision's features; the others are poolings and relus.
_FEATURES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
# Indices in vgg16_reducedfc, whose layers up to conv5_3 have the same ones.
_REDUCED_FC6, _REDUCED_FC7 = 31, 33


def _fc6_from_chw(array: np.ndarray) -> np.ndarray:
    """Converts [4096, 25088], inputs [channel, y, x], to [7, 7, 512, 4096]."""
    return from_oihw(array.reshape(-1, 512, 7, 7))


def _fc6_from_hwc(array: np.ndarray) -> np.ndarray:
    """Converts [25088, 4096], inputs [y, x, channel], to [7, 7, 512, 4096]."""
    return array.reshape(7, 7, 512, -1)


def _from_rows(array: np.ndarray) -> np.ndarray:
    """Converts [out, in] to [1, 1, in, out]."""
    return array.T[None, None]


def _from_columns(array: np.ndarray) -> np.ndarray:
    """Converts [in, out] to [1, 1, in, out]."""
    return array[None, None]


def _swap_xy(array: np.ndarray) -> np.ndarray:
    """Converts offsets (dx, dy, dw, dh) on the last axis to (dy, dx, dh, dw)."""
    return array.reshape(*array.shape[:-1], -1, 4)[..., [1, 0, 3, 2]].reshape(
        array.shape
    )


def _torch_convolutions(names: Iterable[str]) -> dict[str, Entry]:
    """Returns the entries of VGG-16's convolutions with these names in PyTorch."""
    entries: dict[str, Entry] = {}
    for name, (ours, inputs, outputs) in zip(names, _CONVOLUTIONS, strict=True):
        entries |= layer(name, (outputs, inputs, 3, 3), f"trunk/{ours}/conv")
    return entries


def _torchvision_features() -> dict[str, Entry]:
    return _torch_convolutions(f"features.{i}" for i in _FEATURES)


def _torchvision_classifier() -> dict[str, Entry]:
    return {
        **layer("classifier.0", (4096, 25088), "fc6", _fc6_from_chw),
        **layer("classifier.3", (4096, 4096), "fc7", _from_rows),
        **layer("classifier.6", (1000, 4096), "fc8", _from_rows),
    }


def _keras(
    name: str, shape: tuple[int, ...], path: str, kernel: Convert = same
) -> dict[str, Entry]:
    """Returns the entries of kernel and bias of a layer in Keras."""
    return {
        f"{name}/kernel": Entry(shape, f"{path}/kernel", kernel),
        f"{name}/bias": Entry(shape[-1:], f"{path}/bias", same),
    }


def _keras_convolutions() -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for name, (ours, inputs, outputs) in zip(
        keras_names.CONVOLUTIONS, _CONVOLUTIONS, strict=True
    ):
        entries |= _keras(name, (3, 3, inputs, outputs), f"trunk/{ours}/conv")
    return entries


def _keras_top() -> dict[str, Entry]:
    return {
        **_keras("fc1", (25088, 4096), "fc6", _fc6_from_hwc),
        **_keras("fc2", (4096, 4096), "fc7", _from_columns),
        **_keras("predictions", (4096, 1000), "fc8", _from_columns),
    }


def _reduced_fc() -> dict[str, Entry]:
    fc6, fc7 = ("trunk/conv_fc6/conv", "trunk/conv_fc7/conv")
    return {
        **_torch_convolutions(str(i) for i in _FEATURES),
        **layer(str(_REDUCED_FC6), (1024, 512, 3, 3), fc6),
        **layer(str(_REDUCED_FC7), (1024, 1024, 1, 1), fc7),
    }


def _ssd300() -> dict[str, Entry]:
    """Returns the entries of torchvision.models.detection.ssd300_vgg16."""
    stages = [f"backbone.features.{i}" for i in _FEATURES[:10]]
    stages += [f"backbone.extra.0.{i}" for i in (1, 3, 5)]
    scale = Entry((512,), "l2_1/scale", same)
    entries = {"backbone.scale_weight": scale, **_torch_convolutions(stages)}
    layers = (
        ("0.7.1", "conv_fc6", 512, 1024, 3),
        ("0.7.3", "conv_fc7", 1024, 1024, 1),
        *(("1.0", "conv6_1", 1024, 256, 1), ("1.2", "conv6_2", 256, 512, 3)),
        *(("2.0", "conv7_1", 512, 128, 1), ("2.2", "conv7_2", 128, 256, 3)),
        *(("3.0", "conv8_1", 256, 128, 1), ("3.2", "conv8_2", 128, 256, 3)),
        *(("4.0", "conv9_1", 256, 128, 1), ("4.2", "conv9_2", 128, 256, 3)),
    )
    for place, ours, inputs, outputs, side in layers:
        shape = (outputs, inputs, side, side)
        entries |= layer(f"backbone.extra.{place}", shape, f"trunk/{ours}/conv")
    levels = ((512, 4), (1024, 6), (512, 6), (256, 6), (256, 4), (256, 4))
    for i, (inputs, anchors) in enumerate(levels):
        head = f"head{i + 1}"
        entries |= layer(
            f"head.classification_head.module_list.{i}",
            (anchors * COCO_CHANNELS, inputs, 3, 3),
            f"{head}/class",
        )
        entries |= layer(
            f"head.regression_head.module_list.{i}",
            (anchors * 4, inputs, 3, 3),
            f"{head}/box",
            lambda array: _swap_xy(from_oihw(array)),
            _swap_xy,
        )
    return entries


# keras.applications.imagenet_utils.preprocess_input, mode "caffe".
_CAFFE = pixel_statistics("BGR", (103.939, 116.779, 123.68), (1.0, 1.0, 1.0))
# The training code of its publisher (ssd.pytorch) subtracts (104, 117, 123) from
# OpenCV's BGR and converts to RGB; torchvision, which has its features from there, uses
# RGB, too. The weights come from Caffe, whose networks use BGR, and it is not
# documented that conv1_1 was converted. --channel_order changes the order.
_REDUCED = pixel_statistics("RGB", (123.0, 117.0, 104.0), (1.0, 1.0, 1.0))

_TWO, _THREE = (1.0, 2.0, 1 / 2), (1.0, 2.0, 1 / 2, 3.0, 1 / 3)  # Aspect ratios.
# torchvision's ssd300_vgg16: its DefaultBoxGenerator has the scales 0.07, 0.15, 0.33,
# 0.51, 0.69, 0.87, 1.05 and the steps 8, 16, 32, 64, 100, 300, its box coder the
# weights (10, 10, 5, 5). It limits the sides of anchors and keeps their centers.
_SSD300 = Trained(
    input_size=(300, 300),
    anchors={
        "strides": (8, 16, 32, 64, 100, 300),
        "sizes": (21.0, 45.0, 99.0, 153.0, 207.0, 261.0),
        "aspect_ratios": (_TWO, _THREE, _THREE, _THREE, _TWO, _TWO),
        "second_aspect_ratios": (1.0,),
        "second_last": "geometric",
        "next_size": 315.0,
        "second_after": "first",
        "variances": (0.1, 0.2),
        "clip": "sizes",
    },
)

VGG_LAYOUTS: dict[str, Layout] = {
    "torchvision_vgg16": Layout(
        "torchvision's vgg16",
        {**_torchvision_features(), **_torchvision_classifier()},
        published.IMAGENET.fields(),
    ),
    "torchvision_vgg16_features": Layout(
        "torchvision's vgg16_features",
        {**_torchvision_features(), **not_imported(_torchvision_classifier())},
        published.SSD_FEATURES.fields(),
        optional=tuple(_torchvision_classifier()),
    ),
    "keras_vgg16": Layout(
        "Keras' VGG16",
        {**_keras_convolutions(), **_keras_top()},
        _CAFFE,
        optional=tuple(_keras_top()),
    ),
    "vgg16_reducedfc": Layout("vgg16_reducedfc", _reduced_fc(), _REDUCED),
    "torchvision_ssd300_vgg16": Layout(
        "torchvision's ssd300_vgg16",
        _ssd300(),
        published.SSD_FEATURES.fields(),
        trained=_SSD300,
    ),
}
