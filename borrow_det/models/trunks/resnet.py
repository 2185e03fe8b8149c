"""ResNet-18, 34, 50 and 101 (version 1.5), with an extra level of stride 64."""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
from jax import Array

from borrow_det.models.layers import ConvBlock, max_pool_overlapping
from borrow_det.models.trunks.receptive_field import ReceptiveField
from borrow_det.models.trunks.trunk import Trunk

STEM_CHANNELS = 64
STAGE_CHANNELS = (64, 128, 256, 512)
# Ratio of a bottleneck's output channels to those of its 3x3 convolution.
EXPANSION = 4


class ResidualBlock(nn.Module):
    """relu(F(x) + shortcut(x)), where F has two or three convolutions.

    F is two 3x3 convolutions, or, as a bottleneck, 1x1, 3x3 and 1x1 ones; the stride is
    that of the first 3x3 one (ResNet 1.5). The shortcut is the identity, or a 1x1
    convolution where the shape changes.
    """

    channels: int  # Channels of the 3x3 convolutions.
    made: int  # Output channels.
    stride: int
    bottleneck: bool
    block: dict[str, Any]  # Fields norm, group_size and dtype of ConvBlock.

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Maps [B, H, W, C] to [B, ceil(H / stride), ceil(W / stride), made].

        Args:
          x: the map.
          train: see ConvBlock.
        """
        layers: list[dict[str, Any]] = (
            [
                dict(channels=self.channels, kernel=1),
                dict(channels=self.channels, stride=self.stride),
                dict(channels=self.made, kernel=1),
            ]
            if self.bottleneck
            else [
                dict(channels=self.channels, stride=self.stride),
                dict(channels=self.made),
            ]
        )
        y = x
        for number, layer in enumerate(layers, start=1):
            relu, name = number < len(layers), f"conv{number}"
            y = ConvBlock(**layer, **self.block, relu=relu, name=name)(y, train)
        if self.stride != 1 or x.shape[-1] != self.made:
            shape: dict[str, Any] = dict(kernel=1, stride=self.stride, relu=False)
            x = ConvBlock(self.made, **shape, **self.block, name="shortcut")(x, train)
        return nn.relu(x + y)


class ResNet(Trunk):
    """ResNet up to layer4, and conv6; or its pooled features, for a classifier.

    Source: He et al., Deep Residual Learning for Image Recognition (2016), table 1. As
    in torchvision, the stride of a bottleneck is that of its 3x3 convolution, and the
    strides of layer2 to layer4 are those of their first blocks. `stages` has the number
    of blocks of layer1 to layer4. Any input size works: sizes are rounded up.

    With `norm="frozen_batch"`, conv6 has no normalization, because published weights
    have no statistics for it.
    """

    norm: str = "batch"
    # Returns the mean of layer4 over positions, [B, C], in place of the levels.
    pooled: bool = False

    strides: ClassVar = (8, 16, 32, 64)
    level_names: ClassVar = ("layer2", "layer3", "layer4", "conv6_2")
    norms: ClassVar = ("batch", "frozen_batch", "group")
    bottleneck: ClassVar[bool]

    @classmethod
    def level_fields(cls, stages: Sequence[int]) -> tuple[ReceptiveField, ...]:
        """Returns the field of each level's map."""
        field = ReceptiveField().after(7, stride=2).after(3, stride=2)
        fields = []
        for number, count in enumerate(stages, start=1):
            for i in range(count):
                field = field.after(3, stride=2 if i == 0 < number - 1 else 1)
                field = field if cls.bottleneck else field.after(3)
            fields.append(field)
        _, layer2, layer3, layer4 = fields
        return layer2, layer3, layer4, layer4.after(3, stride=2)

    @nn.nowrap
    def stage_layers(self) -> tuple[tuple[str, ...], ...]:
        """Returns the names of the layers of each stage: stem, layer1 to 4, conv6."""
        stages = (
            tuple(f"layer{number}_{i}" for i in range(1, count + 1))
            for number, count in enumerate(self.stages, start=1)
        )
        deeper = () if self.pooled else (("conv6_1", "conv6_2"),)
        return (("stem",), *stages, *deeper)

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> Any:
        """Computes layer2, layer3, layer4 and conv6_2.

        Args:
          image: [B, H, W, 3], pixel statistics applied.
          train: see ConvBlock.

        Returns:
          Maps of strides 8, 16, 32, 64 (sizes rounded up), with 128, 256 and 512
          channels, four times as many with bottlenecks, and 512, times `width`. If
          `pooled`, the mean of layer4 over positions, [B, C].
        """
        x = image.astype(self.dtype)
        x = self.block(x, train, "stem", STEM_CHANNELS, kernel=7, stride=2)
        x = max_pool_overlapping(x)
        maps = []
        for number, (count, channels) in enumerate(
            zip(self.stages, STAGE_CHANNELS, strict=True), start=1
        ):
            for i in range(1, count + 1):
                stride = 2 if i == 1 < number else 1
                x = self._residual(x, train, f"layer{number}_{i}", channels, stride)
            maps.append(x)
        if self.pooled:
            return x.mean(axis=(1, 2))
        norm = "none" if self.norm == "frozen_batch" else self.norm
        return (*maps[1:], self.conv6(x, train, norm=norm))

    def _residual(
        self, x: Array, train: bool, name: str, channels: int, stride: int
    ) -> Array:
        frozen = self.is_frozen(name)
        # A frozen block keeps no maps for a gradient.
        remat = self.remat and train and not frozen
        block = nn.remat(ResidualBlock, static_argnums=(2,)) if remat else ResidualBlock
        made = channels * EXPANSION if self.bottleneck else channels
        x = block(
            self.channels(channels),
            self.channels(made),
            stride,
            self.bottleneck,
            dict(norm=self.norm, group_size=self.group_size, dtype=self.dtype),
            name=name,
        )(x, train and not frozen)
        return jax.lax.stop_gradient(x) if frozen else x


class ResNet18(ResNet):
    """ResNet-18: 11,689,512 parameters with its classifier of 1000 classes."""

    stages: Sequence[int] = (2, 2, 2, 2)
    bottleneck: ClassVar = False


class ResNet34(ResNet):
    """ResNet-34: 21,797,672 parameters with its classifier of 1000 classes."""

    stages: Sequence[int] = (3, 4, 6, 3)
    bottleneck: ClassVar = False


class ResNet50(ResNet):
    """ResNet-50: 25,557,032 parameters with its classifier of 1000 classes."""

    stages: Sequence[int] = (3, 4, 6, 3)
    bottleneck: ClassVar = True


class ResNet101(ResNet):
    """ResNet-101: 44,549,160 parameters with its classifier of 1000 classes."""

    stages: Sequence[int] = (3, 4, 23, 3)
    bottleneck: ClassVar = True
