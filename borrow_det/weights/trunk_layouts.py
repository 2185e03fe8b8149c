"""Layouts of the ResNets, ConvNeXts and ViTs of torchvision and timm.

timm's ResNets have torchvision's names.
"""

import functools
import itertools
from collections.abc import Iterator

import numpy as np

from borrow_det.weights import published
from borrow_det.weights.entries import (
    Entry,
    Layout,
    from_oihw,
    layer,
    same,
)

_ANY = -1  # Any number of classes.


def _transposed(array: np.ndarray) -> np.ndarray:
    """Converts the matrix [out, in] of a linear layer to [in, out]."""
    return array.T


def _flat(array: np.ndarray) -> np.ndarray:
    """Converts [..., C], with other sides of 1, to [C]."""
    return array.reshape(-1)


def _depthwise(array: np.ndarray) -> np.ndarray:
    """Converts [C, 1, height, width] to [height, width, C]."""
    return array[:, 0].transpose(1, 2, 0)


_linear = functools.partial(layer, kernel=_transposed)


def _norm(name: str, channels: int, path: str) -> dict[str, Entry]:
    """Returns the entries of a LayerNorm."""
    return {
        f"{name}.weight": Entry((channels,), f"{path}/scale", same),
        f"{name}.bias": Entry((channels,), f"{path}/bias", same),
    }


def _batch_norm(name: str, channels: int, path: str) -> dict[str, Entry]:
    """Returns the entries of a BatchNorm."""
    shape = (channels,)
    return {
        **_norm(name, channels, path),
        f"{name}.running_mean": Entry(shape, f"{path}/mean", same, "batch_stats"),
        f"{name}.running_var": Entry(shape, f"{path}/var", same, "batch_stats"),
    }


def _classifier(name: str, channels: int) -> dict[str, Entry]:
    """Returns the entries of the linear classifier, with any number of classes."""
    return {
        f"{name}.weight": Entry((_ANY, channels), "fc/kernel", _transposed),
        f"{name}.bias": Entry((_ANY,), "fc/bias", same),
    }


def _residual(
    name: str, path: str, taken: int, channels: int, made: int, stride: int
) -> dict[str, Entry]:
    """Returns the entries of a residual block, a bottleneck if `made` > `channels`."""
    if made > channels:
        convolutions = [(taken, channels, 1), (channels, channels, 3)]
        convolutions.append((channels, made, 1))
    else:
        convolutions = [(taken, made, 3), (made, made, 3)]
    places = [(f"conv{i}", f"bn{i}", f"conv{i}") for i in (1, 2, 3)]
    if stride > 1 or taken != made:
        convolutions.append((taken, made, 1))
        places[len(convolutions) - 1 :] = [("downsample.0", "downsample.1", "shortcut")]
    entries: dict[str, Entry] = {}
    for (conv, norm, ours), (inputs, outputs, side) in zip(
        places, convolutions, strict=False
    ):
        shape = (outputs, inputs, side, side)
        kernel = Entry(shape, f"{path}/{ours}/conv/kernel", from_oihw)
        entries[f"{name}.{conv}.weight"] = kernel
        entries |= _batch_norm(f"{name}.{norm}", outputs, f"{path}/{ours}/norm")
    return entries


def _resnet(depth: int, blocks: tuple[int, ...], expansion: int) -> Layout:
    """Returns the layout of torchvision.models.resnet{depth}."""
    stem = Entry((64, 3, 7, 7), "trunk/stem/conv/kernel", from_oihw)
    entries = {"conv1.weight": stem, **_batch_norm("bn1", 64, "trunk/stem/norm")}
    taken = 64
    for number, count in enumerate(blocks, start=1):
        channels = 32 * 2**number
        for i in range(count):
            stride = 2 if i == 0 and number > 1 else 1
            name, path = f"layer{number}.{i}", f"trunk/layer{number}_{i + 1}"
            made = expansion * channels
            entries |= _residual(name, path, taken, channels, made, stride)
            taken = made
    fc = _classifier("fc", taken)
    counters = {
        name.replace("running_mean", "num_batches_tracked")
        for name in entries
        if name.endswith("running_mean")
    }
    return Layout(
        f"torchvision's or timm's resnet{depth}",
        {**entries, **fc},
        published.IMAGENET.fields(),
        optional=tuple(fc),
        ignored=frozenset(counters),
    )


def _convnext_places(blocks: tuple[int, ...]) -> Iterator[tuple[int, int, str]]:
    """Yields stage, block (from 0), and our path of each block."""
    for stage, count in enumerate(blocks):
        for i in range(count):
            yield stage, i, f"trunk/stage{stage + 1}_{i + 1}"


_CONVNEXT_CHANNELS = (96, 192, 384, 768)


def _convnext_torchvision(size: str, blocks: tuple[int, ...]) -> Layout:
    """Returns the layout of torchvision.models.convnext_{size}."""
    first, *_, last = _CONVNEXT_CHANNELS
    entries = {
        **layer("features.0.0", (first, 3, 4, 4), "trunk/stem/conv", from_oihw),
        **_norm("features.0.1", first, "trunk/stem/norm"),
    }
    for number, (taken, made) in enumerate(
        itertools.pairwise(_CONVNEXT_CHANNELS), start=1
    ):
        name, path = f"features.{2 * number}", f"trunk/down{number + 1}"
        entries |= _norm(f"{name}.0", taken, f"{path}/norm")
        entries |= layer(f"{name}.1", (made, taken, 2, 2), f"{path}/conv", from_oihw)
    for stage, i, path in _convnext_places(blocks):
        channels, name = _CONVNEXT_CHANNELS[stage], f"features.{2 * stage + 1}.{i}"
        scale = Entry((channels, 1, 1), f"{path}/scale", _flat)
        entries[f"{name}.layer_scale"] = scale
        entries |= _convnext_block(f"{name}.block", "0235", channels, path)
    top = {
        **_norm("classifier.0", last, "trunk/pooled_norm"),
        **_classifier("classifier.2", last),
    }
    return Layout(
        f"torchvision's convnext_{size}",
        {**entries, **top},
        published.IMAGENET.fields(),
        optional=tuple(top),
    )


def _convnext_timm(size: str, blocks: tuple[int, ...]) -> Layout:
    """Returns the layout of timm's convnext_{size}."""
    first, *_, last = _CONVNEXT_CHANNELS
    entries = {
        **layer("stem.0", (first, 3, 4, 4), "trunk/stem/conv", from_oihw),
        **_norm("stem.1", first, "trunk/stem/norm"),
    }
    for number, (taken, made) in enumerate(
        itertools.pairwise(_CONVNEXT_CHANNELS), start=1
    ):
        name, path = f"stages.{number}.downsample", f"trunk/down{number + 1}"
        entries |= _norm(f"{name}.0", taken, f"{path}/norm")
        entries |= layer(f"{name}.1", (made, taken, 2, 2), f"{path}/conv", from_oihw)
    parts = ("conv_dw", "norm", "mlp.fc1", "mlp.fc2")
    for stage, i, path in _convnext_places(blocks):
        channels, name = _CONVNEXT_CHANNELS[stage], f"stages.{stage}.blocks.{i}"
        entries[f"{name}.gamma"] = Entry((channels,), f"{path}/scale", same)
        entries |= _convnext_block(name, parts, channels, path)
    top = {
        **_norm("head.norm", last, "trunk/pooled_norm"),
        **_classifier("head.fc", last),
    }
    about = f"timm's convnext_{size}"
    return Layout(
        about, {**entries, **top}, published.IMAGENET.fields(), optional=tuple(top)
    )


def _convnext_block(
    name: str, parts: str | tuple[str, ...], channels: int, path: str
) -> dict[str, Entry]:
    """Returns the entries of a block's layers, which have the names `parts`."""
    depthwise, norm, expand, reduce = (f"{name}.{part}" for part in parts)
    shape = (channels, 1, 7, 7)
    hidden = 4 * channels
    return {
        **layer(depthwise, shape, f"{path}/depthwise", _depthwise),
        **_norm(norm, channels, f"{path}/norm"),
        **_linear(expand, (hidden, channels), f"{path}/expand"),
        **_linear(reduce, (channels, hidden), f"{path}/reduce"),
    }


def _vit_embedding(
    patches: str, token: str, positions: str, channels: int
) -> dict[str, Entry]:
    """Returns the entries of patches, class token and position embeddings.

    The number of positions is open: files of other input sizes have other grids, which
    workdir/trunk_conversion.py interpolates.
    """
    shape = (channels, 3, 16, 16)
    rows = (1, _ANY, channels)
    return {
        **layer(patches, shape, "trunk/patch_embed", from_oihw),
        token: Entry((1, 1, channels), "trunk/cls_token", _flat),
        positions: Entry(rows, "trunk/pos_embed", lambda array: array[0]),
    }


def _vit_timm(size: str, channels: int) -> Layout:
    """Returns the layout of timm's vit_{size}_patch16."""
    entries = _vit_embedding("patch_embed.proj", "cls_token", "pos_embed", channels)
    for i in range(12):
        name, path = f"blocks.{i}", f"trunk/block{i + 1}"
        linear = (
            ("attn.qkv", "attention/qkv", 3, 1),
            ("attn.proj", "attention/out", 1, 1),
            ("mlp.fc1", "expand", 4, 1),
            ("mlp.fc2", "reduce", 1, 4),
        )
        for theirs, ours, made, taken in linear:
            shape = (made * channels, taken * channels)
            entries |= _linear(f"{name}.{theirs}", shape, f"{path}/{ours}")
        for number in (1, 2):
            norm = f"norm{number}"
            entries |= _norm(f"{name}.{norm}", channels, f"{path}/{norm}")
    entries |= _norm("norm", channels, "trunk/final_norm")
    top = _classifier("head", channels)
    about = f"timm's vit_{size}_patch16"
    return Layout(
        about, {**entries, **top}, published.HALF.fields(), optional=tuple(top)
    )


def _vit_torchvision(letter: str, channels: int) -> Layout:
    """Returns the layout of torchvision.models.vit_{letter}_16."""
    entries = _vit_embedding(
        "conv_proj", "class_token", "encoder.pos_embedding", channels
    )
    for i in range(12):
        name, path = f"encoder.layers.encoder_layer_{i}", f"trunk/block{i + 1}"
        attention, square = f"{name}.self_attention", (channels, channels)
        qkv = f"{path}/attention/qkv"
        rows = 3 * channels
        entries |= {
            f"{attention}.in_proj_weight": Entry(
                (rows, channels), f"{qkv}/kernel", _transposed
            ),
            f"{attention}.in_proj_bias": Entry((rows,), f"{qkv}/bias", same),
        }
        out = f"{path}/attention/out"
        entries |= _linear(f"{attention}.out_proj", square, out)
        hidden = 4 * channels
        entries |= _linear(f"{name}.mlp.0", (hidden, channels), f"{path}/expand")
        entries |= _linear(f"{name}.mlp.3", (channels, hidden), f"{path}/reduce")
        for number in (1, 2):
            entries |= _norm(f"{name}.ln_{number}", channels, f"{path}/norm{number}")
    entries |= _norm("encoder.ln", channels, "trunk/final_norm")
    top = _classifier("heads.head", channels)
    about = f"torchvision's vit_{letter}_16"
    return Layout(
        about, {**entries, **top}, published.IMAGENET.fields(), optional=tuple(top)
    )


TRUNK_LAYOUTS: dict[str, Layout] = {
    "resnet18": _resnet(18, (2, 2, 2, 2), 1),
    "resnet34": _resnet(34, (3, 4, 6, 3), 1),
    "resnet50": _resnet(50, (3, 4, 6, 3), 4),
    "resnet101": _resnet(101, (3, 4, 23, 3), 4),
    "torchvision_convnext_tiny": _convnext_torchvision("tiny", (3, 3, 9, 3)),
    "torchvision_convnext_small": _convnext_torchvision("small", (3, 3, 27, 3)),
    "timm_convnext_tiny": _convnext_timm("tiny", (3, 3, 9, 3)),
    "timm_convnext_small": _convnext_timm("small", (3, 3, 27, 3)),
    "torchvision_vit_b_16": _vit_torchvision("b", 768),
    "timm_vit_small": _vit_timm("small", 384),
    "timm_vit_base": _vit_timm("base", 768),
}
