"""Layouts of published weight files: names and shapes of tensors, and our parameters.

`LAYOUTS` has all of them. Our kernels are [height, width, in, out]. Fully connected
layers are convolutions (fc6 is 7x7), so that workdir/init_from.py can decimate them by
slicing.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from borrow_det.errors import InputError
from borrow_det.weights import keras_names
from borrow_det.weights.files import Tensor

# Class channels of torchvision's detector: background, then the COCO ids 1 to 90.
COCO_CHANNELS = 91


_Convert = Callable[[np.ndarray], np.ndarray]


class Entry(NamedTuple):
    """One tensor of a layout."""

    shape: tuple[int, ...]
    path: str  # Path of our parameter; "" if the tensor is not imported.
    convert: _Convert


class Trained(NamedTuple):
    """Settings that the parameters of a complete detector were trained with."""

    input_size: tuple[int, int]  # (height, width) in pixels.
    anchors: dict[str, Any]  # Fields of config.anchors.


class Layout(NamedTuple):
    """A kind of weight file."""

    about: str  # Name for messages.
    tensors: dict[str, Entry]
    # Fields of init_from.PIXEL_STATISTICS, for values in 0..255.
    pixel_statistics: dict[str, Any]
    optional: tuple[str, ...] = ()  # Tensors of which a file has all or none.
    trained: Trained | None = None  # For complete detectors with heads.

    @property
    def required(self) -> list[str]:
        """Names of the tensors that every file of this kind has."""
        return [name for name in self.tensors if name not in self.optional]


def recognize(tensors: Mapping[str, Tensor]) -> str:
    """Returns the name of the layout of a file.

    torchvision's `vgg16` and `vgg16_features` have the same names. The classifier of
    the latter is missing, or has no finite number.

    Raises:
      InputError: the tensors are similar to no layout; the message names the layouts.
    """
    if not tensors:
        raise InputError("the file has no tensors")

    def similarity(name: str) -> float:
        known = LAYOUTS[name].tensors.keys()
        return len(known & tensors.keys()) / len(known | tensors.keys())

    best = max(LAYOUTS, key=similarity)  # The first of equals is vgg16.
    if similarity(best) < 0.5:
        raise InputError(
            f"its tensors ({_some(tensors)}) do not match a known layout "
            f"({', '.join(LAYOUTS)}): set --layout to one of them"
        )
    plain, features = "torchvision_vgg16", "torchvision_vgg16_features"
    if best == plain and not set(LAYOUTS[features].optional) & tensors.keys():
        return features
    # Numbers are read only from valid files: others may declare any size.
    if best == plain and not _problems(tensors, LAYOUTS[plain]):
        classifier = list(LAYOUTS[features].optional)
        classifier.sort(
            key=lambda name: len(tensors[name].shape)
        )  # Small tensors first.
        if not any(np.isfinite(tensors[name].read()).any() for name in classifier):
            return features
    return best


def check(tensors: Mapping[str, Tensor], layout: Layout) -> None:
    """Checks the names, shapes and types of a file's tensors.

    Raises:
      InputError: lists all tensors that are missing, unexpected or of another shape.
    """
    found = _problems(tensors, layout)
    if found:
        raise InputError(f"it is not {layout.about}; {'; '.join(found)}")


def convert(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, np.ndarray]:
    """Converts the tensors of a file that passed `check` to our parameters.

    Returns:
      Path of the parameter to its float32 array.

    Raises:
      InputError: lists all tensors with NaN or infinite numbers.
    """
    converted, not_finite = {}, []
    for name, entry in layout.tensors.items():
        if name not in tensors or not entry.path:
            continue
        array = tensors[name].read()
        if not np.isfinite(array).all():
            not_finite.append(name)
        converted[entry.path] = np.ascontiguousarray(entry.convert(array))
    if not_finite:
        raise InputError(f"NaN or infinite numbers in {', '.join(not_finite)}")
    return converted


def keep_classes(
    parameters: Mapping[str, np.ndarray], ids: Iterable[int]
) -> dict[str, np.ndarray]:
    """Keeps the class channels of background and `ids` of a torchvision detector.

    Args:
      parameters: path to array. The channels of head{n}/class are anchor-major,
        [..., k * COCO_CHANNELS].
      ids: COCO category ids.

    Returns:
      The parameters, with channels [..., k * (1 + len(ids))] in the order of `ids`.
    """
    channels = [0, *ids]

    def keep(path: str, array: np.ndarray) -> np.ndarray:
        if "/class/" not in path:
            return array
        lead = array.shape[:-1]
        kept = array.reshape(*lead, -1, COCO_CHANNELS)[..., channels]
        return kept.reshape(*lead, -1)

    return {path: keep(path, array) for path, array in parameters.items()}


def _problems(tensors: Mapping[str, Tensor], layout: Layout) -> list[str]:
    """Describes the differences between a file and a layout; [] if there are none."""
    optional = layout.optional if set(layout.optional) & tensors.keys() else ()
    expected = [*layout.required, *optional]
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "unexpected": [name for name in tensors if name not in layout.tensors],
        "of another shape": [
            f"{name} is {tensors[name].dtype} {list(tensors[name].shape)}, not float "
            f"{list(layout.tensors[name].shape)}"
            for name in expected
            if name in tensors and not _fits(tensors[name], layout.tensors[name])
        ],
    }
    return [f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names]


def _fits(tensor: Tensor, entry: Entry) -> bool:
    return tensor.shape == entry.shape and tensor.floating


def _some(names: Iterable[str], count: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


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


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _from_oihw(array: np.ndarray) -> np.ndarray:
    """Converts [out, in, height, width] to [height, width, in, out]."""
    return array.transpose(2, 3, 1, 0)


def _fc6_from_chw(array: np.ndarray) -> np.ndarray:
    """Converts [4096, 25088], inputs [channel, y, x], to [7, 7, 512, 4096]."""
    return _from_oihw(array.reshape(-1, 512, 7, 7))


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


def _torch(
    name: str,
    shape: tuple[int, ...],
    path: str,
    kernel: _Convert = _from_oihw,
    bias: _Convert = _same,
) -> dict[str, Entry]:
    """Returns the entries of weight and bias of a layer in PyTorch."""
    return {
        f"{name}.weight": Entry(shape, f"{path}/kernel", kernel),
        f"{name}.bias": Entry(shape[:1], f"{path}/bias", bias),
    }


def _torch_convolutions(names: Iterable[str]) -> dict[str, Entry]:
    """Returns the entries of VGG-16's convolutions with these names in PyTorch."""
    entries: dict[str, Entry] = {}
    for name, (layer, inputs, outputs) in zip(names, _CONVOLUTIONS, strict=True):
        entries |= _torch(name, (outputs, inputs, 3, 3), f"trunk/{layer}/conv")
    return entries


def _torchvision_features() -> dict[str, Entry]:
    return _torch_convolutions(f"features.{i}" for i in _FEATURES)


def _torchvision_classifier() -> dict[str, Entry]:
    return {
        **_torch("classifier.0", (4096, 25088), "fc6", _fc6_from_chw),
        **_torch("classifier.3", (4096, 4096), "fc7", _from_rows),
        **_torch("classifier.6", (1000, 4096), "fc8", _from_rows),
    }


def _keras(
    name: str, shape: tuple[int, ...], path: str, kernel: _Convert = _same
) -> dict[str, Entry]:
    """Returns the entries of kernel and bias of a layer in Keras."""
    return {
        f"{name}/kernel": Entry(shape, f"{path}/kernel", kernel),
        f"{name}/bias": Entry(shape[-1:], f"{path}/bias", _same),
    }


def _keras_convolutions() -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for name, (layer, inputs, outputs) in zip(
        keras_names.CONVOLUTIONS, _CONVOLUTIONS, strict=True
    ):
        entries |= _keras(name, (3, 3, inputs, outputs), f"trunk/{layer}/conv")
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
        **_torch(str(_REDUCED_FC6), (1024, 512, 3, 3), fc6),
        **_torch(str(_REDUCED_FC7), (1024, 1024, 1, 1), fc7),
    }


def _ssd300() -> dict[str, Entry]:
    """Returns the entries of torchvision.models.detection.ssd300_vgg16."""
    stages = [f"backbone.features.{i}" for i in _FEATURES[:10]]
    stages += [f"backbone.extra.0.{i}" for i in (1, 3, 5)]
    scale = Entry((512,), "l2_1/scale", _same)
    entries = {"backbone.scale_weight": scale, **_torch_convolutions(stages)}
    layers = (
        ("0.7.1", "conv_fc6", 512, 1024, 3),
        ("0.7.3", "conv_fc7", 1024, 1024, 1),
        *(("1.0", "conv6_1", 1024, 256, 1), ("1.2", "conv6_2", 256, 512, 3)),
        *(("2.0", "conv7_1", 512, 128, 1), ("2.2", "conv7_2", 128, 256, 3)),
        *(("3.0", "conv8_1", 256, 128, 1), ("3.2", "conv8_2", 128, 256, 3)),
        *(("4.0", "conv9_1", 256, 128, 1), ("4.2", "conv9_2", 128, 256, 3)),
    )
    for place, layer, inputs, outputs, side in layers:
        shape = (outputs, inputs, side, side)
        entries |= _torch(f"backbone.extra.{place}", shape, f"trunk/{layer}/conv")
    levels = ((512, 4), (1024, 6), (512, 6), (256, 6), (256, 4), (256, 4))
    for i, (inputs, anchors) in enumerate(levels):
        head = f"head{i + 1}"
        entries |= _torch(
            f"head.classification_head.module_list.{i}",
            (anchors * COCO_CHANNELS, inputs, 3, 3),
            f"{head}/class",
        )
        entries |= _torch(
            f"head.regression_head.module_list.{i}",
            (anchors * 4, inputs, 3, 3),
            f"{head}/box",
            lambda array: _swap_xy(_from_oihw(array)),
            _swap_xy,
        )
    return entries


def _not_imported(entries: dict[str, Entry]) -> dict[str, Entry]:
    return {name: entry._replace(path="") for name, entry in entries.items()}


def _pixel_statistics(
    order: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, Any]:
    return {"channel_order": order, "pixel_mean": mean, "pixel_std": std}


# VGG16_Weights.IMAGENET1K_V1: ImageNet's statistics.
_IMAGENET = _pixel_statistics("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# VGG16_Weights.IMAGENET1K_FEATURES, and the detector that was trained from it: means
# 0.48235, 0.45882, 0.40784 and a scale of 1 / 255, for values in 0..1.
_FEATURES_STATISTICS = _pixel_statistics(
    "RGB",
    tuple(round(255 * share, 5) for share in (0.48235, 0.45882, 0.40784)),
    (1.0, 1.0, 1.0),
)
# keras.applications.imagenet_utils.preprocess_input, mode "caffe".
_CAFFE = _pixel_statistics("BGR", (103.939, 116.779, 123.68), (1.0, 1.0, 1.0))
# The training code of its publisher (ssd.pytorch) subtracts (104, 117, 123) from
# OpenCV's BGR and converts to RGB; torchvision, which has its features from there, uses
# RGB, too. The weights come from Caffe, whose networks use BGR, and it is not
# documented that conv1_1 was converted. --channel_order changes the order.
_REDUCED = _pixel_statistics("RGB", (123.0, 117.0, 104.0), (1.0, 1.0, 1.0))

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

LAYOUTS: dict[str, Layout] = {
    "torchvision_vgg16": Layout(
        "torchvision's vgg16",
        {**_torchvision_features(), **_torchvision_classifier()},
        _IMAGENET,
    ),
    "torchvision_vgg16_features": Layout(
        "torchvision's vgg16_features",
        {**_torchvision_features(), **_not_imported(_torchvision_classifier())},
        _FEATURES_STATISTICS,
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
        _FEATURES_STATISTICS,
        trained=_SSD300,
    ),
}
