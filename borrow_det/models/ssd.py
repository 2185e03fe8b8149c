"""The detector: trunk {X} -> borrowing {Y} -> one prediction head a level."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from borrow_det.errors import InputError
from borrow_det.models.borrowing import BorrowingNeck, Matching
from borrow_det.models.normalization import Normalization
from borrow_det.models.vgg import STAGE_CHANNELS, STRIDES, VGG16, L2Normalize
from borrow_det.ops import anchors as anchor_ops


class Predictions(NamedTuple):
    """What the network says of each anchor, float32."""

    logits: Array  # [B, A, 1 + C], background at 0.
    offsets: Array  # [B, A, 4], `ops.boxes.encode`'s form.
    matchings: dict[int, Matching]  # Of each level (0-based) that borrows.


class Head(nn.Module):
    """3x3 convolutions to the class logits and box offsets of one level's anchors."""

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
        options = dict(padding=1, kernel_init=init, dtype=self.dtype)
        logits = nn.Conv(
            self.anchors * channels,
            (3, 3),
            bias_init=bias_init,
            name="class",
            **options,
        )(x)
        offsets = nn.Conv(self.anchors * 4, (3, 3), name="box", **options)(x)
        batch = x.shape[0]
        return (
            logits.reshape(batch, -1, channels).astype(jnp.float32),
            offsets.reshape(batch, -1, 4).astype(jnp.float32),
        )


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
    if config.model.trunk != "vgg16":
        raise InputError(f"model.trunk is {config.model.trunk!r}; it must be vgg16")
    _check_levels(config)
    dtype = jnp.dtype(config.dtype)
    trunk = VGG16(
        width=config.model.width,
        stages=tuple(config.model.stages),
        norm=config.model.norm,
        group_size=config.model.group_size,
        dtype=dtype,
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
    if tuple(config.anchors.strides) != STRIDES:
        raise InputError(
            f"anchors.strides is {tuple(config.anchors.strides)}; the levels of "
            f"{config.model.trunk} have {STRIDES}"
        )
    entries = {
        "model.stages": (config.model.stages, len(STAGE_CHANNELS)),
        "model.l2_scales": (config.model.l2_scales, len(STRIDES)),
        "anchors.sizes": (config.anchors.sizes, len(STRIDES)),
        "anchors.aspect_ratios": (config.anchors.aspect_ratios, len(STRIDES)),
    }
    for field, (value, count) in entries.items():
        if len(value) != count:
            raise InputError(
                f"{field} has {len(value)} entries; {config.model.trunk} takes {count}"
            )
