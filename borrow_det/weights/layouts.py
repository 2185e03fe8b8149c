"""What the tensors of known weight files are: names, shapes, and our parameters.

One table, `LAYOUTS`. Our kernels are [height, width, in, out]; fully connected layers
are convolutions (fc6 is 7x7), so that initialization.py can decimate them by slicing.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from borrow_det.errors import InputError
from borrow_det.weights import keras_names
from borrow_det.weights.files import Tensor

COCO_CHANNELS = 91  # Of torchvision's detector: background, then a COCO id each.


class Entry(NamedTuple):
    """One tensor of a layout."""

    shape: tuple[int, ...]
    path: str  # Of our parameter; "": the tensor is not imported.
    convert: Callable[[np.ndarray], np.ndarray]


class Trained(NamedTuple):
    """What a whole detector's parameters were trained with, and do not tell."""

    input_size: tuple[int, int]  # (height, width) in pixels.
    anchors: dict[str, Any]  # The fields of config.anchors.


class Layout(NamedTuple):
    """A kind of weight file."""

    about: str
    tensors: dict[str, Entry]
    # Of init_from.PIXEL_STATISTICS: order, mean and scale in units of 0..255.
    normalization: dict
    optional: tuple[str, ...] = ()  # Present all together or not at all.
    trained: Trained | None = None  # Of a whole detector, heads and all.

    @property
    def required(self) -> list[str]:
        """The tensors that every such file has."""
        return [name for name in self.tensors if name not in self.optional]


def recognise(tensors: Mapping[str, Tensor]) -> str:
    """The name of the layout that a file's tensors have.

    torchvision's `vgg16` and `vgg16_features` have the same names; the latter's
    classifier is missing, or there is not one finite number in it.

    Raises:
      InputError: none comes near; names the layouts.
    """
    if not tensors:
        raise InputError("the file holds no tensors")

    def likeness(name):
        known = LAYOUTS[name].tensors.keys()
        return len(known & tensors.keys()) / len(known | tensors.keys())

    best = max(LAYOUTS, key=likeness)  # The first of equals: plain vgg16.
    if likeness(best) < 0.5:
        raise InputError(
            f"its tensors ({_some(tensors)}) are those of no known layout: "
            f"{', '.join(LAYOUTS)} (--layout names one)"
        )
    plain, features = "torchvision_vgg16", "torchvision_vgg16_features"
    if best == plain and not set(LAYOUTS[features].optional) & tensors.keys():
        return features
    # Of a file that is not in order no number is read: it may declare any size.
    if best == plain and not _problems(tensors, LAYOUTS[plain]):
        classifier = list(LAYOUTS[features].optional)
        classifier.sort(key=lambda name: len(tensors[name].shape))  # Biases first.
        if not any(_has_finite(tensors[name]) for name in classifier):
            return features
    return best


def check(tensors: Mapping[str, Tensor], layout: Layout) -> None:
    """Compares a file's tensors with those of a layout.

    Raises:
      InputError: lists every tensor that is missing, surplus or misshaped.
    """
    found = _problems(tensors, layout)
    if found:
        raise InputError(f"it is not {layout.about}; {'; '.join(found)}")


def convert(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, np.ndarray]:
    """Our parameters {path: float32 array} of a file that `check` found in order.

    Raises:
      InputError: lists every tensor that holds NaN or infinite numbers.
    """
    converted, spoilt = {}, []
    for name, entry in layout.tensors.items():
        if name not in tensors or not entry.path:
            continue
        array = tensors[name].read()
        if not np.isfinite(array).all():
            spoilt.append(name)
        converted[entry.path] = np.ascontiguousarray(entry.convert(array))
    if spoilt:
        raise InputError(f"NaN or infinite numbers in {', '.join(spoilt)}")
    return converted


def keep_classes(
    parameters: Mapping[str, np.ndarray], ids: Iterable[int]
) -> dict[str, np.ndarray]:
    """Leaves of a torchvision detector's class channels background and those of `ids`.

    The channels of head{n}/class are anchor-major, [..., k * COCO_CHANNELS]; those that
    come back [..., k * (1 + len(ids))], in the order of `ids`.
    """
    channels = [0, *ids]

    def keep(path, array):
        if "/class/" not in path:
            return array
        lead = array.shape[:-1]
        kept = array.reshape(*lead, -1, COCO_CHANNELS)[..., channels]
        return kept.reshape(*lead, -1)

    return {path: keep(path, array) for path, array in parameters.items()}


def _problems(tensors, layout):
    """Lists, as texts, of the tensors that keep a file from being of a layout."""
    optional = layout.optional if set(layout.optional) & tensors.keys() else ()
    expected = [*layout.required, *optional]
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "surplus": [name for name in tensors if name not in layout.tensors],
        "misshaped": [
            f"{name} is {tensors[name].dtype} {list(tensors[name].shape)}, not float "
            f"{list(layout.tensors[name].shape)}"
            for name in expected
            if name in tensors and not _fits(tensors[name], layout.tensors[name])
        ],
    }
    return [f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names]


def _fits(tensor, entry):
    return tensor.shape == entry.shape and tensor.floating


def _has_finite(tensor):
    return bool(np.isfinite(tensor.read()).any())


def _some(names, count=4):
    names = list(names)
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


# The tensors.

_CONVOLUTIONS = (
    *(("conv1_1", 3, 64), ("conv1_2", 64, 64)),
    *(("conv2_1", 64, 128), ("conv2_2", 128, 128)),
    *(("conv3_1", 128, 256), ("conv3_2", 256, 256), ("conv3_3", 256, 256)),
    *(("conv4_1", 256, 512), ("conv4_2", 512, 512), ("conv4_3", 512, 512)),
    *(("conv5_1", 512, 512), ("conv5_2", 512, 512), ("conv5_3", 512, 512)),
)
# Their places among torchvision's features; poolings and relus take the others.
_FEATURES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
# The places in vgg16_reducedfc, whose layers are the same ones as far as conv5_3.
_REDUCED_FC6, _REDUCED_FC7 = 31, 33


def _same(array):
    return array


def _from_oihw(array):
    """[out, in, height, width] -> [height, width, in, out]."""
    return array.transpose(2, 3, 1, 0)


def _fc6_from_chw(array):
    """[4096, 25088], its inputs flattened from [channel, y, x] -> [7, 7, 512, 4096]."""
    return _from_oihw(array.reshape(-1, 512, 7, 7))


def _fc6_from_hwc(array):
    """[25088, 4096], its inputs flattened from [y, x, channel] -> [7, 7, 512, 4096]."""
    return array.reshape(7, 7, 512, -1)


def _from_rows(array):
    """[out, in] -> [1, 1, in, out]."""
    return array.T[None, None]


def _from_columns(array):
    """[in, out] -> [1, 1, in, out]."""
    return array[None, None]


def _swap_xy(array):
    """Offsets (dx, dy, dw, dh) of each anchor, last axis -> (dy, dx, dh, dw)."""
    return array.reshape(*array.shape[:-1], -1, 4)[..., [1, 0, 3, 2]].reshape(
        array.shape
    )


def _torch(name, shape, path, kernel=_from_oihw, bias=_same):
    """A layer's weight and bias, torch's names and shapes."""
    return {
        f"{name}.weight": Entry(shape, f"{path}/kernel", kernel),
        f"{name}.bias": Entry(shape[:1], f"{path}/bias", bias),
    }


def _torch_convolutions(names):
    """VGG-16's convolutions, named in turn as `names` says."""
    entries = {}
    for name, (layer, inputs, outputs) in zip(names, _CONVOLUTIONS, strict=True):
        entries |= _torch(name, (outputs, inputs, 3, 3), f"trunk/{layer}/conv")
    return entries


def _torchvision_features():
    return _torch_convolutions(f"features.{i}" for i in _FEATURES)


def _torchvision_classifier():
    return {
        **_torch("classifier.0", (4096, 25088), "fc6", _fc6_from_chw),
        **_torch("classifier.3", (4096, 4096), "fc7", _from_rows),
        **_torch("classifier.6", (1000, 4096), "fc8", _from_rows),
    }


def _keras(name, shape, path, kernel=_same):
    """A layer's kernel and bias, named by keras_names."""
    return {
        f"{name}/kernel": Entry(shape, f"{path}/kernel", kernel),
        f"{name}/bias": Entry(shape[-1:], f"{path}/bias", _same),
    }


def _keras_convolutions():
    entries = {}
    for name, (layer, inputs, outputs) in zip(
        keras_names.CONVOLUTIONS, _CONVOLUTIONS, strict=True
    ):
        entries |= _keras(name, (3, 3, inputs, outputs), f"trunk/{layer}/conv")
    return entries


def _keras_top():
    return {
        **_keras("fc1", (25088, 4096), "fc6", _fc6_from_hwc),
        **_keras("fc2", (4096, 4096), "fc7", _from_columns),
        **_keras("predictions", (4096, 1000), "fc8", _from_columns),
    }


def _reduced_fc():
    fc6, fc7 = ("trunk/conv_fc6/conv", "trunk/conv_fc7/conv")
    return {
        **_torch_convolutions(str(i) for i in _FEATURES),
        **_torch(str(_REDUCED_FC6), (1024, 512, 3, 3), fc6),
        **_torch(str(_REDUCED_FC7), (1024, 1024, 1, 1), fc7),
    }


def _ssd300():
    """torchvision.models.detection.ssd300_vgg16's state dict."""
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


def _ignored(entries):
    return {name: entry._replace(path="") for name, entry in entries.items()}


def _normalization(order, mean, std):
    return {"channel_order": order, "pixel_mean": mean, "pixel_std": std}


# ImageNet's, of VGG16_Weights.IMAGENET1K_V1, in units of 0..255.
_IMAGENET = _normalization("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
# Of VGG16_Weights.IMAGENET1K_FEATURES and the detector that was trained from it:
# 0.48235, 0.45882, 0.40784 of 255, and a scale of 1 / 255 where 1 is white.
_FEATURES_NORMALIZATION = _normalization(
    "RGB",
    tuple(round(255 * share, 5) for share in (0.48235, 0.45882, 0.40784)),
    (1.0, 1.0, 1.0),
)
# keras.applications.imagenet_utils.preprocess_input, mode "caffe".
_CAFFE = _normalization("BGR", (103.939, 116.779, 123.68), (1.0, 1.0, 1.0))
# As its publisher's own training feeds it (ssd.pytorch: OpenCV's BGR minus (104, 117,
# 123), then turned to RGB), and as torchvision feeds the features that it took from
# there. The weights come from Caffe, whose networks take BGR, and no document says
# that conv1_1 was turned round: --channel_order says otherwise where you know better.
_REDUCED = _normalization("RGB", (123.0, 117.0, 104.0), (1.0, 1.0, 1.0))

_TWO, _THREE = (1.0, 2.0, 1 / 2), (1.0, 2.0, 1 / 2, 3.0, 1 / 3)  # Aspect ratios.
# torchvision's ssd300_vgg16: scales 0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05 and steps
# 8, 16, 32, 64, 100, 300 of its DefaultBoxGenerator, weights (10, 10, 5, 5) of its box
# coder; it cuts the sides of its boxes, not their corners.
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
        {**_torchvision_features(), **_ignored(_torchvision_classifier())},
        _FEATURES_NORMALIZATION,
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
        _FEATURES_NORMALIZATION,
        trained=_SSD300,
    ),
}
