"""Layers that trunks, necks, heads and the classifier share."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax import Array

from borrow_det.errors import InputError
from borrow_det.models import column_pairs
from borrow_det.models.column_pairs import ColumnPairs, Map
from borrow_det.ops import collectives
from borrow_det.ops.convolution import convolve

Initializer = Callable[..., Array]


class Conv(nn.Module):
    """A square convolution with the parameters and initial values of `nn.Conv`.

    Its gradients are fast on CPUs, too (ops/convolution.py). It also convolves maps
    that are stored as pairs of columns (column_pairs.py), by a 3x3 kernel with stride
    1 and the default padding.
    """

    channels: int
    kernel: int = 1
    stride: int = 1
    padding: int | None = None  # Zeros on each side; None: half of the kernel.
    dilation: int = 1
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Map) -> Map:
        """Convolves a map [B, H, W, C] to [B, H', W', channels].

        H' and W' are H / stride and W / stride, rounded up, if the kernel is odd, and
        padding and dilation are the defaults.
        """
        promote = functools.partial(nn.dtypes.promote_dtype, dtype=self.dtype)
        if isinstance(x, ColumnPairs):
            values, kernel, bias = promote(x.array, *self._parameters(x.channels))
            return column_pairs.convolve(ColumnPairs(values), kernel, bias)
        x, kernel, bias = promote(x, *self._parameters(x.shape[-1]))
        padding = self.kernel // 2 if self.padding is None else self.padding
        y = convolve(
            x,
            kernel,
            strides=(self.stride, self.stride),
            padding=((padding, padding), (padding, padding)),
            rhs_dilation=(self.dilation, self.dilation),
        )
        return y if bias is None else y + bias[None, None, None]

    def _parameters(self, inputs: int) -> tuple[Array, Array | None]:
        """Returns the kernel [kernel, kernel, inputs, channels] and bias [channels]."""
        shape = (self.kernel, self.kernel, inputs, self.channels)
        kernel = self.param("kernel", self.kernel_init, shape)
        if not self.use_bias:
            return kernel, None
        return kernel, self.param("bias", self.bias_init, (self.channels,))


class ConvBlock(nn.Module):
    """Convolution, normalization, relu."""

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int | None = None  # Zeros on each side; None: half of the kernel.
    dilation: int = 1
    norm: str = "none"  # See `normalize`.
    group_size: int = 16
    relu: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Map, train: bool) -> Map:
        """Maps [B, H, W, C] to [B, H', W', channels], of the sizes of `Conv`.

        Args:
          x: the map.
          train: whether BatchNorm uses the statistics of the batch.

        Raises:
          InputError: `norm` is unknown, or its groups do not divide the channels.
        """
        x = Conv(
            self.channels,
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            use_bias=self.norm == "none",
            kernel_init=nn.initializers.he_normal(),
            dtype=self.dtype,
            name="conv",
        )(x)
        x = normalize(x, train, self.norm, self.group_size, self.dtype)
        return jax.tree.map(nn.relu, x) if self.relu else x


def normalize(x: Map, train: bool, norm: str, group_size: int, dtype: Any) -> Map:
    """Applies a new normalization layer of the calling module, named `norm`.

    Args:
      x: map [B, H, W, C].
      train: whether BatchNorm uses the statistics of the batch.
      norm: `none`; `batch`; `frozen_batch`, whose statistics are never updated;
        `group`; or `layer`, over the channels of each position.
      group_size: channels in a group.
      dtype: type to compute in.

    Raises:
      InputError: `norm` is unknown, or its groups do not divide the channels.
    """
    if norm == "none":
        return x
    if norm == "layer":
        return layer_norm(dtype, "norm")(x)
    if norm == "group":
        channels = x.channels if isinstance(x, ColumnPairs) else x.shape[-1]
        groups = max(1, channels // group_size)
        if channels % groups:
            raise InputError(
                f"model.group_size={group_size} leaves a remainder of the "
                f"{channels} channels of a layer: choose it, model.width or "
                "head.channels so that it divides them"
            )
        return nn.GroupNorm(groups, dtype=dtype, name="norm")(x)
    if norm in ("batch", "frozen_batch"):
        options: dict[str, Any] = dict(
            use_running_average=norm == "frozen_batch" or not train,
            momentum=0.9,
            dtype=dtype,
            # Statistics are those of the batch over all devices.
            axis_name=collectives.device_axes() or None,
            name="norm",
        )
        if isinstance(x, ColumnPairs):
            return column_pairs.BatchNorm(**options)(x)
        return nn.BatchNorm(**options)(x)
    raise InputError(
        f"model.norm is {norm!r}; it must be none, batch, frozen_batch, group or layer"
    )


def layer_norm(dtype: Any, name: str) -> nn.LayerNorm:
    """Returns a new LayerNorm over channels, with the epsilon of ViT and ConvNeXt."""
    return nn.LayerNorm(1e-6, dtype=dtype, use_fast_variance=False, name=name)


class PixelStatistics(NamedTuple):
    """Channel order, mean and standard deviation of pixels in the units 0 to 255."""

    channel_order: str  # RGB or BGR.
    mean: tuple[float, ...]  # In the channel order.
    std: tuple[float, ...]  # In the channel order.

    @classmethod
    def of(cls, model: ml_collections.ConfigDict) -> "PixelStatistics":
        """Returns the pixel statistics of `config.model`."""
        return cls(model.channel_order, tuple(model.pixel_mean), tuple(model.pixel_std))

    def __call__(self, image: Array) -> Array:
        """Turns RGB [..., 3] in [0, 255] into what the weights expect, float32."""
        if self.channel_order == "BGR":
            image = image[..., ::-1]
        lead = (1,) * (image.ndim - 1)
        mean, std = (
            jnp.array(v, jnp.float32).reshape(*lead, 3) for v in (self.mean, self.std)
        )
        return (image - mean) / std

    @property
    def gray(self) -> tuple[float, ...]:
        """RGB color that becomes zero."""
        return self.mean[::-1] if self.channel_order == "BGR" else self.mean


def max_pool(x: Array | ColumnPairs) -> Array:
    """Pools [B, H, W, C] by 2x2 windows with stride 2: [B, ceil(H/2), ceil(W/2), C].

    A partial last window is kept.
    """
    if isinstance(x, ColumnPairs):
        return column_pairs.max_pool(x)
    # Maxima of neighbors: on CPUs a narrow detector's step takes 0.87 of the time that
    # it takes with nn.max_pool, whose gradient scatters. The neighbors are slices: TPUs
    # would copy entire maps to make an axis of them.
    height, width = x.shape[1:3]
    odd = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    x = jnp.pad(x, odd, constant_values=-jnp.inf)
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])


def max_pool_overlapping(x: Array) -> Array:
    """Pools [B, H, W, C] by 3x3 windows with stride 2 around every second position.

    Returns:
      [B, ceil(H/2), ceil(W/2), C].
    """
    # Maxima of slices, as in max_pool; jax2onnx would leave out nn.max_pool's padding.
    height, width = x.shape[1:3]
    around = ((0, 0), (1, 1 + height % 2), (1, 1 + width % 2), (0, 0))
    x = jnp.pad(x, around, constant_values=-jnp.inf)
    for axis, size in ((1, height), (2, width)):
        last = 2 * ((size + 1) // 2) - 1
        before, at, after = (
            jax.lax.slice_in_dim(x, i, i + last, 2, axis) for i in range(3)
        )
        x = jnp.maximum(jnp.maximum(before, at), after)
    return x


class L2Normalize(nn.Module):
    """Unit length over channels times a learned scale per channel.

    Source: Liu et al., ParseNet: Looking Wider to See Better (2015).
    """

    initial_scale: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [..., C] to [..., C], computed in float32; a zero vector stays zero."""
        scale = self.param(
            "scale", nn.initializers.constant(self.initial_scale), (x.shape[-1],)
        )
        scale = scale.reshape((1,) * (x.ndim - 1) + (-1,))
        return (unit_vectors(x) * scale).astype(x.dtype)


def unit_vectors(x: Array, epsilon: float = 1e-12) -> Array:
    """Divides [..., C] by its length; float32, zero with a finite gradient at zero."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + epsilon)
