"""The detector: trunk {X} -> borrowing {Y} -> one prediction head a level."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from borrow_det.errors import InputError, check_choice
from borrow_det.models.borrowing import BorrowingNeck, Matching
from borrow_det.models.filters import Filters
from borrow_det.models.layers import L2Normalize, Normalization
from borrow_det.models.trunks import TRUNKS
from borrow_det.models.trunks.vgg import STAGE_CHANNELS, pairs_columns
from borrow_det.ops import anchors as anchor_ops
from borrow_det.ops.convolution import convolve


class Predictions(NamedTuple):
    """What the network says of each anchor, float32."""

    logits: Array  # [B, A, 1 + C], background at 0.
    offsets: Array  # [B, A, 4], `ops.boxes.encode`'s form.
    matchings: dict[int, Matching]  # Of each level (0-based) that borrows.


class Head(nn.Module):
    """3x3 convolutions to the class logits and box offsets of one level's anchors.

    They run as one, with the channels of both: alone, those of the boxes would leave
    most of a matrix unit idle. The parameters are those of an nn.Conv each.
    """

    anchors: int  # A position.
    num_classes: int  # Without background.
    background_bias: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """[B, H, W, C] -> logits [B, H W k, 1 + C] and offsets [B, H W k, 4]."""
        channels = 1 + self.num_classes

        def bias_init(key, shape, dtype=jnp.float32):
            bias = jnp.zeros((self.anchors, channels), dtype)
            return bias.at[:, 0].set(self.background_bias).reshape(shape)

        init = nn.initializers.xavier_uniform()
        classes, boxes = self.anchors * channels, self.anchors * 4
        both = (
            Filters(classes, init, bias_init, name="class")(x.shape[-1]),
            Filters(boxes, init, name="box")(x.shape[-1]),
        )
        x, *both = nn.dtypes.promote_dtype(x, *jax.tree.leaves(both), dtype=self.dtype)
        logits, offsets = jax.lax.platform_dependent(
            x, both[::2], both[1::2], cpu=_each, default=_as_one
        )
        batch = x.shape[0]
        return (
            logits.reshape(batch, -1, channels).astype(jnp.float32),
            offsets.reshape(batch, -1, 4).astype(jnp.float32),
        )


def _each(x: Array, kernels: Sequence[Array], biases: Sequence[Array]) -> list[Array]:
    """3x3 convolutions of x, one for each kernel."""
    return [
        convolve(x, kernel) + bias[None, None, None]
        for kernel, bias in zip(kernels, biases, strict=True)
    ]


def _as_one(x: Array, kernels: Sequence[Array], biases: Sequence[Array]) -> list[Array]:
    """The same, of all kernels together."""
    kernel, bias = (jnp.concatenate(parts, axis=-1) for parts in (kernels, biases))
    (y,) = _each(x, [kernel], [bias])
    ends = np.cumsum([part.size for part in biases])[:-1]
    return jnp.split(y, ends, axis=-1)


class Detector(nn.Module):
    """SSD whose levels borrow; with the neck switched off it is plain SSD."""

    num_classes: int
    trunk: nn.Module
    neck: BorrowingNeck
    anchors_per_position: Sequence[int]
    normalization: Normalization
    l2_scales: Sequence[float]
    background_bias: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> Predictions:
        """float32 RGB [B, H, W, 3] in 0..255 -> predictions of all A anchors."""
        levels = self.trunk(self.normalization(image), train)
        X = [
            L2Normalize(scale, name=f"l2_{n + 1}")(x) if scale else x
            for n, (x, scale) in enumerate(zip(levels, self.l2_scales, strict=True))
        ]
        Y, matchings = self.neck(X)
        heads = [
            Head(
                k,
                self.num_classes,
                self.background_bias,
                self.dtype,
                name=f"head{n + 1}",
            )(y)
            for n, (y, k) in enumerate(zip(Y, self.anchors_per_position, strict=True))
        ]
        logits, offsets = (
            jnp.concatenate(parts, axis=1) for parts in zip(*heads, strict=True)
        )
        return Predictions(logits, offsets, matchings)


def build_detector(config, num_classes: int) -> Detector:
    """The detector that `config` (configs/base.py) describes.

    Raises:
      InputError: on a trunk that does not exist, or fields that do not fit its levels.
    """
    check_choice("model.trunk", config.model.trunk, TRUNKS)
    _check_levels(config)
    dtype = jnp.dtype(config.dtype)
    trunk = TRUNKS[config.model.trunk](
        width=config.model.width,
        stages=tuple(config.model.stages),
        norm=config.model.norm,
        group_size=config.model.group_size,
        dtype=dtype,
        remat=config.remat == "trunk",
        pairs=pairs_columns(config),
    )
    return Detector(
        num_classes=num_classes,
        trunk=trunk,
        neck=BorrowingNeck(**config.borrow, dtype=dtype),
        anchors_per_position=anchor_ops.anchors_per_position(config.anchors),
        normalization=Normalization.of(config.model),
        l2_scales=tuple(config.model.l2_scales),
        background_bias=config.model.background_bias,
        dtype=dtype,
    )


def _check_levels(config) -> None:
    """Refuses fields that do not fit the levels of the trunk."""
    shapes = map_shapes(config.model.trunk, tuple(config.input_size))
    entries = {
        "model.stages": (config.model.stages, len(STAGE_CHANNELS)),
        "model.l2_scales": (config.model.l2_scales, len(shapes)),
        "anchors.strides": (config.anchors.strides, len(shapes)),
        "anchors.sizes": (config.anchors.sizes, len(shapes)),
        "anchors.aspect_ratios": (config.anchors.aspect_ratios, len(shapes)),
    }
    for field, (value, count) in entries.items():
        if len(value) != count:
            raise InputError(
                f"{field} has {len(value)} entries; {config.model.trunk} takes {count}"
            )
    strides, fixed = tuple(config.anchors.strides), TRUNKS[config.model.trunk].strides
    if strides[: len(fixed)] != fixed:
        raise InputError(
            f"anchors.strides is {strides}; the levels of {config.model.trunk} have "
            f"{fixed}"
        )
    _check_maps(config, shapes)


def _check_maps(config, shapes) -> None:
    """Refuses strides that give a level more or fewer positions than its map has."""
    size = tuple(config.input_size)
    covered = anchor_ops.level_shapes(size, config.anchors.strides)
    for level, stride, expected, shape in zip(
        range(1, len(shapes) + 1), config.anchors.strides, covered, shapes, strict=True
    ):
        if expected != shape:
            raise InputError(
                f"level {level} of {config.model.trunk} has a map of {shape} at "
                f"input_size={size}, but its stride of {stride} in anchors.strides "
                f"would make it {expected}: choose another of the two"
            )


@functools.cache
def map_shapes(trunk: str, input_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """(height, width) of each level's map that `model.trunk` makes of an input."""
    # Neither width nor depth changes them; the narrowest is traced fastest.
    module = TRUNKS[trunk](width=0.0, stages=(1,) * len(STAGE_CHANNELS))
    image = jax.ShapeDtypeStruct((1, *input_size, 3), jnp.float32)
    levels, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), image)
    return tuple(level.shape[1:3] for level in levels)
