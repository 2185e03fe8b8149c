"""ViT-S/16 and ViT-B/16, with the simple feature pyramid of ViTDet."""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax import Array

from borrow_det.errors import InputError
from borrow_det.models.context import Deconvolution
from borrow_det.models.layers import ConvBlock, layer_norm, max_pool
from borrow_det.models.trunks.convnext import pointwise, windows
from borrow_det.models.trunks.trunk import Trunk
from borrow_det.ops import attention, position_embedding

PATCH = 16  # Side of a patch in pixels.
HEAD_CHANNELS = 64  # Channels of an attention head at width 1.
GRID = 14  # Side of the grid of the position embeddings: 224 pixels.
MLP_RATIO = 4  # Ratio of the MLP's hidden channels to its input channels.
PYRAMID_CHANNELS = 256


class Attention(nn.Module):
    """Self-attention with several heads."""

    heads: int
    form: str = "auto"  # One of attention.FORMS.
    query_block: int = 512  # Number of queries whose similarities are held at once.
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps tokens [B, T, C] to the same shape.

        Similarities are computed for blocks of queries, so that memory grows linearly
        with T.
        """
        batch, tokens, channels = x.shape
        qkv = pointwise(3 * channels, self.dtype, "qkv")(x)
        qkv = qkv.reshape(batch, tokens, 3, self.heads, channels // self.heads)
        # Heads become examples: [B * heads, T, C / heads].
        q, k, v = (
            jnp.moveaxis(part, 2, 1).reshape(batch * self.heads, tokens, -1)
            for part in jnp.moveaxis(qkv, 2, 0)
        )
        scale = q.shape[-1] ** -0.5
        options: dict[str, Any] = dict(
            softmax=True, form=self.form, block=self.query_block
        )
        z = attention.weighted_sum(q, k, v, scale, **options)
        z = jnp.moveaxis(z.reshape(batch, self.heads, tokens, -1), 1, 2)
        return pointwise(channels, self.dtype, "out")(z.reshape(x.shape))


class Block(nn.Module):
    """x + Attention(LayerNorm(x)), then x + MLP(LayerNorm(x))."""

    heads: int
    window: int = 0  # Side of the windows of attention in patches; 0: global.
    form: str = "auto"  # See Attention.
    query_block: int = 512
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, grid: tuple[int, int]) -> Array:
        """Maps tokens [B, T, C] to the same shape.

        Args:
          x: the tokens; with windows, those of the grid alone.
          grid: (rows, columns) of patches.
        """
        y = layer_norm(self.dtype, "norm1")(x)
        attend = Attention(
            self.heads, self.form, self.query_block, self.dtype, name="attention"
        )
        if self.window:
            y = _join(attend(_partition(y, grid, self.window)), grid, self.window)
        else:
            y = attend(y)
        x = x + y
        y = layer_norm(self.dtype, "norm2")(x)
        y = pointwise(MLP_RATIO * x.shape[-1], self.dtype, "expand")(y)
        y = nn.gelu(y, approximate=False)
        return x + pointwise(x.shape[-1], self.dtype, "reduce")(y)


def _partition(x: Array, grid: tuple[int, int], side: int) -> Array:
    """Splits tokens [B, h w, C] into those of windows, [B windows, side side, C].

    The last windows are filled up with zeros. Attention includes them, as in ViTDet.
    """
    batch, _, channels = x.shape
    x = x.reshape(batch, *grid, channels)
    x = jnp.pad(x, ((0, 0), (0, -grid[0] % side), (0, -grid[1] % side), (0, 0)))
    rows, columns = (n // side for n in x.shape[1:3])
    x = x.reshape(batch, rows, side, columns, side, channels)
    return jnp.moveaxis(x, 3, 2).reshape(-1, side * side, channels)


def _join(x: Array, grid: tuple[int, int], side: int) -> Array:
    """Reverses `_partition`."""
    rows, columns = (-(-n // side) for n in grid)
    channels = x.shape[-1]
    x = x.reshape(-1, rows, columns, side, side, channels)
    x = jnp.moveaxis(x, 3, 2).reshape(-1, rows * side, columns * side, channels)
    return x[:, : grid[0], : grid[1]].reshape(x.shape[0], -1, channels)


class PyramidLevel(nn.Module):
    """Map at another stride, then 1x1 and 3x3 convolutions, each with LayerNorm."""

    stride: int  # 8, 16 or 32.
    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, size: tuple[int, int]) -> Array:
        """Maps [B, h, w, C] of stride 16 to [B, *size, channels]."""
        if self.stride == 8:
            half = jnp.zeros((1, *size, max(1, x.shape[-1] // 2)), x.dtype)
            x = Deconvolution(dtype=self.dtype, name="deconv")(x, half)
        elif self.stride == 32:
            x = max_pool(x)
        for name, kernel in (("conv1", 1), ("conv2", 3)):
            fields = dict(kernel=kernel, norm="layer", relu=False, dtype=self.dtype)
            x = ConvBlock(self.channels, name=name, **fields)(x, False)
        return x


class ViT(Trunk):
    """Vision transformer with a feature pyramid; or its class token's features.

    Sources: Dosovitskiy et al., An Image is Worth 16x16 Words (2021); Touvron et al.,
    DeiT (2021), for ViT-S; Li et al., Exploring Plain Vision Transformer Backbones for
    Object Detection (ViTDet, 2022), for the pyramid and the windows. The final
    LayerNorm, which ViTDet leaves out, applies to the map of the pyramid, too.
    `stages` has the number of blocks.

    Position embeddings are those of a 14x14 grid, interpolated bicubically to that of
    the input. Any input size works: the last patches are filled up with zeros.

    With `window`, attention is limited to windows of that side in patches, except in
    `global_blocks` blocks at equal distances, the last block among them. There is no
    class token then. Stochastic depth is not implemented.
    """

    stages: Sequence[int] = (12,)
    norm: str = "layer"
    window: int = 0
    global_blocks: int = 4
    form: str = "auto"  # See Attention.
    query_block: int = 512
    # Returns the class token, [B, C], in place of the levels.
    pooled: bool = False

    strides: ClassVar = (8, 16, 32, 64)
    level_names: ClassVar = ("pyramid1", "pyramid2", "pyramid3", "conv6_2")
    norms: ClassVar = ("layer",)
    heads: ClassVar[int]

    @classmethod
    def own_fields(cls, config: ml_collections.ConfigDict) -> dict[str, Any]:
        """Returns the fields of windowed attention.

        Raises:
          InputError: more global blocks than blocks; or classification with windows,
            which has no class token.
        """
        model = config.model
        blocks = (tuple(model.stages) or cls.stages)[0]
        if model.window and model.global_blocks > blocks:
            raise InputError(
                f"model.global_blocks is {model.global_blocks}; {model.trunk} has "
                f"{blocks} blocks"
            )
        if model.window and config.task == "classification":
            raise InputError(
                f"model.window is {model.window}; classification needs the class "
                "token, which attends to all patches: set model.window=0"
            )
        return dict(
            window=model.window,
            global_blocks=model.global_blocks,
            form=config.borrow.attention,
            query_block=config.borrow.query_block,
        )

    @classmethod
    def level_fields(cls, stages: Sequence[int]) -> None:
        """Returns None: every position depends on the entire image."""
        del stages

    @nn.nowrap
    def stage_layers(self) -> tuple[tuple[str, ...], ...]:
        """Returns the names of the layers of each stage: patches, each block, the rest.

        The last stage has the final LayerNorm, and the pyramid of a detector's trunk.
        """
        embed = ["patch_embed", "pos_embed"] + ["cls_token"] * (not self.window)
        blocks = [(f"block{i}",) for i in range(1, self.stages[0] + 1)]
        levels = ("pyramid1", "pyramid2", "pyramid3", "conv6_1", "conv6_2")
        deeper = ("final_norm",) if self.pooled else ("final_norm", *levels)
        return (tuple(embed), *blocks, deeper)

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> Any:
        """Computes the levels of the pyramid, and conv6_2.

        Args:
          image: [B, H, W, 3], pixel statistics applied.
          train: whether a gradient is taken.

        Returns:
          Maps of strides 8, 16, 32, 64 (sizes rounded up), with 256, 256, 256 and 512
          channels times `width`. If `pooled`, the normalized class token, [B, C].
        """
        heads = max(1, round(self.heads * self.width))
        channels = heads * max(
            1, round(self.heads * HEAD_CHANNELS * self.width / heads)
        )
        x, grid = self._embed(image, channels)
        count = self.stages[0]
        for i in range(1, count + 1):
            name = f"block{i}"
            # A frozen block keeps no maps for a gradient.
            remat = self.remat and train and not self.is_frozen(name)
            block = nn.remat(Block, static_argnums=(2,)) if remat else Block
            # A block is global where the share of global blocks reaches a whole one.
            before, after = (n * self.global_blocks // count for n in (i - 1, i))
            window = self.window if before == after else 0
            fields = (heads, window, self.form, self.query_block, self.dtype)
            x = block(*fields, name=name)(x, grid)
            x = self.constant(name, x)
        x = self.constant("final_norm", layer_norm(self.dtype, "final_norm")(x))
        if self.pooled:
            return x[:, 0]
        x = x[:, x.shape[1] - grid[0] * grid[1] :].reshape(-1, *grid, channels)
        levels = []
        for n, stride in enumerate((8, 16, 32), start=1):
            name = f"pyramid{n}"
            size = (-(-image.shape[1] // stride), -(-image.shape[2] // stride))
            made = self.channels(PYRAMID_CHANNELS)
            level = PyramidLevel(stride, made, self.dtype, name=name)(x, size)
            levels.append(self.constant(name, level))
        return (*levels, self.conv6(levels[-1], train))

    def _embed(self, image: Array, channels: int) -> tuple[Array, tuple[int, int]]:
        """Returns the tokens and the grid (h, w) of patches.

        The tokens are [B, 1 + h w, channels], the class token first, or with windows
        [B, h w, channels], without it.
        """
        x = windows(
            image.astype(self.dtype), PATCH, channels, self.dtype, "patch_embed"
        )
        grid = (x.shape[1], x.shape[2])
        x = x.reshape(x.shape[0], -1, channels)
        init = nn.initializers.truncated_normal(0.02)
        positions = self.param("pos_embed", init, (1 + GRID**2, channels))
        x += position_embedding.resample(positions[1:], grid)[None].astype(x.dtype)
        if not self.window:
            token = self.param("cls_token", init, (channels,)) + positions[0]
            token = jnp.broadcast_to(token[None, None], (x.shape[0], 1, channels))
            x = jnp.concatenate([token.astype(x.dtype), x], axis=1)
        return (jax.lax.stop_gradient(x) if self.frozen else x), grid


class ViTSmall(ViT):
    """ViT-S/16: 22,050,664 parameters with its classifier of 1000 classes."""

    heads: ClassVar = 6


class ViTBase(ViT):
    """ViT-B/16: 86,567,656 parameters with its classifier of 1000 classes."""

    heads: ClassVar = 12
