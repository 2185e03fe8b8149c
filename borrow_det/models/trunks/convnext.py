"""ConvNeXt-T and ConvNeXt-S, with an extra level of stride 64."""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from borrow_det.models.layers import Conv, layer_norm
from borrow_det.models.trunks.receptive_field import ReceptiveField
from borrow_det.models.trunks.trunk import Trunk
from borrow_det.ops.depthwise import depthwise_convolve

STAGE_CHANNELS = (96, 192, 384, 768)
PATCH = 4  # Side of the stem's patches in pixels.
KERNEL = 7  # Side of the depthwise kernels.
EXPANSION = 4  # Ratio of a block's hidden channels to its input channels.
LAYER_SCALE = 1e-6  # Initial scale of the residual of a block.


class DepthwiseConv(nn.Module):
    """A 7x7 depthwise convolution with bias."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Convolves [B, H, W, C] to the same shape."""
        channels = x.shape[-1]
        kernel = self.param(
            "kernel", nn.initializers.truncated_normal(0.02), (KERNEL, KERNEL, channels)
        )
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return depthwise_convolve(x, kernel) + bias[None, None, None]


class ConvNeXtBlock(nn.Module):
    """x + scale * MLP(LayerNorm(depthwise(x)))."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, C] to the same shape."""
        channels = x.shape[-1]
        y = DepthwiseConv(self.dtype, name="depthwise")(x)
        y = layer_norm(self.dtype, "norm")(y)
        y = pointwise(EXPANSION * channels, self.dtype, "expand")(y)
        y = pointwise(channels, self.dtype, "reduce")(nn.gelu(y, approximate=False))
        init = nn.initializers.constant(LAYER_SCALE)
        scale = self.param("scale", init, (channels,)).astype(y.dtype)
        return x + scale[None, None, None] * y


class Downsampling(nn.Module):
    """LayerNorm, then a convolution over 2x2 windows that do not overlap."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, C] to [B, ceil(H / 2), ceil(W / 2), channels]."""
        return windows(
            layer_norm(self.dtype, "norm")(x), 2, self.channels, self.dtype, "conv"
        )


class Stem(nn.Module):
    """Linear embedding of 4x4 patches, then LayerNorm."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Array) -> Array:
        """Maps [B, H, W, 3] to [B, ceil(H / 4), ceil(W / 4), channels]."""
        x = windows(image, PATCH, self.channels, self.dtype, "conv")
        return layer_norm(self.dtype, "norm")(x)


def windows(x: Array, side: int, channels: int, dtype: Any, name: str) -> Array:
    """Applies a new convolution of the calling module to windows without overlap.

    The last windows are filled up with zeros.

    Args:
      x: [B, H, W, C].
      side: side of the windows.
      channels: output channels.
      dtype: type to compute in.
      name: name of the layer.

    Returns:
      [B, ceil(H / side), ceil(W / side), channels].
    """
    filled = ((0, 0), *((0, -size % side) for size in x.shape[1:3]), (0, 0))
    init = nn.initializers.truncated_normal(0.02)
    conv = Conv(channels, side, side, 0, kernel_init=init, dtype=dtype, name=name)
    return conv(jnp.pad(x, filled))


def pointwise(channels: int, dtype: Any, name: str) -> nn.Dense:
    """Returns a new linear layer over channels, with the initial values of ViT."""
    init = nn.initializers.truncated_normal(0.02)
    return nn.Dense(channels, kernel_init=init, dtype=dtype, name=name)


class ConvNeXt(Trunk):
    """ConvNeXt's four stages and conv6; or its pooled features, for a classifier.

    Source: Liu et al., A ConvNet for the 2020s (2022). `stages` has the number of
    blocks in each. A separate LayerNorm normalizes each level, as in the detectors of
    the paper, and conv6 has LayerNorm and relu. Any input size works: the last windows
    are filled up with zeros. Stochastic depth is not implemented.
    """

    norm: str = "layer"
    # Returns the normalized mean over positions, [B, C], in place of the levels.
    pooled: bool = False

    strides: ClassVar = (8, 16, 32, 64)
    level_names: ClassVar = ("stage2", "stage3", "stage4", "conv6_2")
    norms: ClassVar = ("layer",)

    @classmethod
    def level_fields(cls, stages: Sequence[int]) -> tuple[ReceptiveField, ...]:
        """Returns the field of each level's map."""
        field, fields = ReceptiveField(), []
        for side, count in zip((PATCH, 2, 2, 2), stages, strict=True):
            field = field.after(side, stride=side).after(KERNEL, count=count)
            fields.append(field)
        _, stage2, stage3, stage4 = fields
        return stage2, stage3, stage4, stage4.after(3, stride=2)

    @nn.nowrap
    def stage_layers(self) -> tuple[tuple[str, ...], ...]:
        """Returns the names of the layers of each stage: stem, stages 1 to 4, the rest.

        The last stage of a detector's trunk has conv6 and the LayerNorm of each level.
        """
        stages = []
        for number, count in enumerate(self.stages, start=1):
            down = (f"down{number}",) if number > 1 else ()
            blocks = (f"stage{number}_{i}" for i in range(1, count + 1))
            stages.append((*down, *blocks))
        levels = (f"level{n}_norm" for n in (1, 2, 3))
        deeper = ("pooled_norm",) if self.pooled else (*levels, "conv6_1", "conv6_2")
        return (("stem",), *stages, deeper)

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> Any:
        """Computes the normalized maps of stages 2 to 4, and conv6_2.

        Args:
          image: [B, H, W, 3], pixel statistics applied.
          train: whether a gradient is taken.

        Returns:
          Maps of strides 8, 16, 32, 64 (sizes rounded up), with 192, 384, 768 and 512
          channels times `width`. If `pooled`, [B, 768 * width].
        """
        x = Stem(self.channels(STAGE_CHANNELS[0]), self.dtype, name="stem")(image)
        x = self.constant("stem", x)
        maps = []
        for number, (count, channels) in enumerate(
            zip(self.stages, STAGE_CHANNELS, strict=True), start=1
        ):
            if number > 1:
                name = f"down{number}"
                x = Downsampling(self.channels(channels), self.dtype, name=name)(x)
                x = self.constant(name, x)
            for i in range(1, count + 1):
                name = f"stage{number}_{i}"
                # A frozen block keeps no maps for a gradient.
                remat = self.remat and train and not self.is_frozen(name)
                block = nn.remat(ConvNeXtBlock) if remat else ConvNeXtBlock
                x = self.constant(name, block(self.dtype, name=name)(x))
            maps.append(x)
        if self.pooled:
            x = layer_norm(self.dtype, "pooled_norm")(x.mean(axis=(1, 2)))
            return self.constant("pooled_norm", x)
        levels = []
        for n, x in enumerate(maps[1:], start=1):
            x = layer_norm(self.dtype, f"level{n}_norm")(x)
            levels.append(self.constant(f"level{n}_norm", x))
        return (*levels, self.conv6(levels[-1], train))


class ConvNeXtTiny(ConvNeXt):
    """ConvNeXt-T: 28,589,128 parameters with its classifier of 1000 classes."""

    stages: Sequence[int] = (3, 3, 9, 3)


class ConvNeXtSmall(ConvNeXt):
    """ConvNeXt-S: 50,223,688 parameters with its classifier of 1000 classes."""

    stages: Sequence[int] = (3, 3, 27, 3)
