"""The VGG-16 trunk whose receptive fields are those of the paper's Table 1."""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.models import column_pairs
from borrow_det.models.layers import ConvBlock, max_pool

STAGE_CHANNELS = (64, 128, 256, 512, 512)
FC_CHANNELS = 1024
CONV6_CHANNELS = (256, 512)


class VGGStages(nn.Module):
    """The five convolution stages of VGG-16, for the trunks that are built on them."""

    width: float = 1.0  # Multiplies every channel count.
    stages: Sequence[int] = (2, 2, 3, 3, 3)  # Convolutions of each stage.
    norm: str = "none"
    group_size: int = 16
    dtype: Any = jnp.float32
    # Whether a stage's maps are computed again for its gradient, instead of kept.
    remat: bool = False
    # Whether the first stage's maps are pairs of columns (column_pairs.py), where they
    # have an even number and norm is not group.
    pairs: bool = False

    def block(
        self, x: Array, train: bool, name: str, channels: int, **options: Any
    ) -> Array:
        """A `ConvBlock` of this trunk: `channels` before the width; see its fields."""
        return ConvBlock(
            max(1, round(channels * self.width)),
            norm=self.norm,
            group_size=self.group_size,
            dtype=self.dtype,
            name=name,
            **options,
        )(x, train)

    def conv_stages(self, image: Array, train: bool) -> list[Array]:
        """Normalised image [B, H, W, 3] -> the last map of each stage.

        Maps of strides 1, 2, 4, 8, 16 (sizes rounded up) with 64, 128, 256, 512, 512
        channels times `width`; the last one is not pooled.
        """
        # As a function of the module, `remat` leaves the names of parameters alone.
        one_stage = _stage
        if self.remat and train:
            one_stage = nn.remat(_stage, static_argnums=(2, 3, 4, 5))
        x = image.astype(self.dtype)
        maps = []
        for number, (count, channels) in enumerate(
            zip(self.stages, STAGE_CHANNELS, strict=True), start=1
        ):
            last, x = one_stage(self, x, train, number, count, channels)
            maps.append(last)
        return maps


def _stage(
    trunk: VGGStages, x: Array, train: bool, number: int, count: int, channels: int
) -> tuple[Array, Array]:
    """Stage `number` of a trunk: its last map, and that pooled.

    Both, so that of the shallow stages, whose maps are the largest, nothing but what
    the next one reads is kept where stages are computed again.
    """
    even, can = x.shape[2] % 2 == 0, trunk.norm in ("none", "batch")
    pairs = trunk.pairs and number == 1 and even and can
    if pairs:
        x = column_pairs.paired(x)
    for i in range(1, count + 1):
        x = trunk.block(x, train, f"conv{number}_{i}", channels, pairs=pairs)
    if pairs:
        return column_pairs.single(x), column_pairs.max_pool(x)
    return x, max_pool(x)


def pairs_columns(config) -> bool:
    """Whether `config.first_stage` asks for pairs of columns, on this machine."""
    if config.first_stage == "auto":
        return jax.default_backend() == "tpu"
    return config.first_stage == "pairs"


class VGG16(VGGStages):
    """VGG-16 with fc6, fc7 as convolutions and conv6: the four detection levels.

    pool5 is 2x2 with stride 2 and conv_fc6 3x3 undilated, which gives (with the 3x3
    prediction head) the receptive fields 108, 228, 340, 468 of the paper; SSD's atrous
    fc6 gives others. Poolings keep a partial last window, so that any input size is
    covered.
    """

    strides: ClassVar = (8, 16, 32, 64)  # Of the levels.

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> tuple[Array, ...]:
        """Normalised image [B, H, W, 3] -> conv4_3, conv5_3, conv_fc7, conv6_2.

        Maps of strides 8, 16, 32, 64 (sizes rounded up) with 512, 512, 1024, 512
        channels times `width`.
        """
        *_, conv4_3, conv5_3 = self.conv_stages(image, train)
        x = max_pool(conv5_3)
        x = self.block(x, train, "conv_fc6", FC_CHANNELS)
        conv_fc7 = self.block(x, train, "conv_fc7", FC_CHANNELS, kernel=1)
        x = self.block(conv_fc7, train, "conv6_1", CONV6_CHANNELS[0], kernel=1)
        conv6_2 = self.block(x, train, "conv6_2", CONV6_CHANNELS[1], stride=2)
        return conv4_3, conv5_3, conv_fc7, conv6_2
