"""The VGG-16 trunk with the receptive fields of the paper's Table 1."""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import ml_collections
from jax import Array

from borrow_det.models.column_pairs import ColumnPairs, Map
from borrow_det.models.layers import max_pool
from borrow_det.models.trunks.receptive_field import ReceptiveField
from borrow_det.models.trunks.trunk import Trunk

STAGE_CHANNELS = (64, 128, 256, 512, 512)
FC_CHANNELS = 1024


class VGGStages(Trunk):
    """The five convolution stages of VGG-16, which VGG16 and SSD's trunks start with.

    `stages` has the number of 3x3 convolutions in each.
    """

    stages: Sequence[int] = (2, 2, 3, 3, 3)
    # Stores the maps of the first stage as pairs of columns (column_pairs.py), if their
    # width is even and the norm is not group.
    pairs: bool = False

    norms: ClassVar = ("none", "batch", "group")

    @classmethod
    def own_fields(cls, config: ml_collections.ConfigDict) -> dict[str, Any]:
        """Returns the form of the first stage."""
        return {"pairs": config.first_stage == "pairs"}

    @staticmethod
    def stage_fields(stages: Sequence[int]) -> list[ReceptiveField]:
        """Returns the field of the last map of each stage."""
        fields, field = [], ReceptiveField()
        for count in stages:
            fields.append(field.after(3, count=count))
            field = fields[-1].after(2, stride=2)
        return fields

    @nn.nowrap
    def stage_layers(self) -> tuple[tuple[str, ...], ...]:
        """Returns the names of the layers of each stage, from the input on."""
        return tuple(
            tuple(f"conv{number}_{i}" for i in range(1, count + 1))
            for number, count in enumerate(self.stages, start=1)
        )

    def conv_stages(self, image: Array, train: bool) -> list[Array]:
        """Computes the last map of each stage.

        Args:
          image: [B, H, W, 3], pixel statistics applied.
          train: see ConvBlock.

        Returns:
          Maps of strides 1, 2, 4, 8, 16 (sizes rounded up) with 64, 128, 256, 512, 512
          channels times `width`; the last one is not pooled.
        """
        # A function, since nn.remat of a module would rename its parameters.
        rematerialized = nn.remat(_stage, static_argnums=(2, 3, 4, 5))
        x = image.astype(self.dtype)
        maps = []
        for number, (count, channels) in enumerate(
            zip(self.stages, STAGE_CHANNELS, strict=True), start=1
        ):
            # A frozen stage keeps no maps for a gradient.
            remat = self.remat and train and number > self.frozen
            one_stage = rematerialized if remat else _stage
            last, x = one_stage(self, x, train, number, count, channels)
            maps.append(last)
        return maps


def _stage(
    trunk: VGGStages, x: Array, train: bool, number: int, count: int, channels: int
) -> tuple[Array, Array]:
    """Computes stage `number` of a trunk: its last map, and that map pooled.

    The pooling belongs to the stage so that, with `remat`, nothing but its result is
    kept of the shallow stages, which have the largest maps.
    """

    def convolved(x: Map) -> Map:
        for i in range(1, count + 1):
            x = trunk.block(x, train, f"conv{number}_{i}", channels)
        return x

    even, supported = x.shape[2] % 2 == 0, trunk.norm in ("none", "batch")
    if trunk.pairs and number == 1 and even and supported:
        pairs = convolved(ColumnPairs.from_map(x))
        return pairs.to_map(), max_pool(pairs)
    x = convolved(x)
    return x, max_pool(x)


class VGG16(VGGStages):
    """VGG-16 with convolutional fc6 and fc7, and conv6: the paper's four levels.

    pool5 is 2x2 with stride 2 and conv_fc6 is 3x3 without dilation. With the 3x3
    prediction head, the receptive fields are 108, 228, 340 and 468 pixels as in the
    paper; SSD's dilated fc6 has others. Poolings keep a partial last window, so that
    any input size is covered.
    """

    strides: ClassVar = (8, 16, 32, 64)
    level_names: ClassVar = ("conv4_3", "conv5_3", "conv_fc7", "conv6_2")

    @classmethod
    def level_fields(cls, stages: Sequence[int]) -> tuple[ReceptiveField, ...]:
        """Returns the field of each level's map."""
        *_, conv4_3, conv5_3 = cls.stage_fields(stages)
        conv_fc7 = conv5_3.after(2, stride=2).after(3)
        return conv4_3, conv5_3, conv_fc7, conv_fc7.after(3, stride=2)

    @nn.nowrap
    def stage_layers(self) -> tuple[tuple[str, ...], ...]:
        """Returns the names of the layers of the seven stages."""
        fc, conv6 = ("conv_fc6", "conv_fc7"), ("conv6_1", "conv6_2")
        return (*super().stage_layers(), fc, conv6)

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> tuple[Array, ...]:
        """Computes conv4_3, conv5_3, conv_fc7 and conv6_2.

        Args:
          image: [B, H, W, 3], pixel statistics applied.
          train: see ConvBlock.

        Returns:
          Maps of strides 8, 16, 32, 64 (sizes rounded up) with 512, 512, 1024, 512
          channels times `width`.
        """
        *_, conv4_3, conv5_3 = self.conv_stages(image, train)
        x = max_pool(conv5_3)
        x = self.block(x, train, "conv_fc6", FC_CHANNELS)
        conv_fc7 = self.block(x, train, "conv_fc7", FC_CHANNELS, kernel=1)
        return conv4_3, conv5_3, conv_fc7, self.conv6(conv_fc7, train)
