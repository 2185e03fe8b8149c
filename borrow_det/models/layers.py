"""Layers that trunks, necks and heads share."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.errors import InputError
from borrow_det.models import column_pairs
from borrow_det.models.filters import Filters
from borrow_det.ops import collectives
from borrow_det.ops.convolution import convolve


class ConvBlock(nn.Module):
    """Convolution, normalisation, relu."""

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int | None = None  # Zeros at each side; None: half of the kernel.
    dilation: int = 1
    norm: str = "none"  # none, group or batch.
    group_size: int = 16
    dtype: Any = jnp.float32
    pairs: bool = False  # Whether maps are pairs of columns; a 3x3 kernel's only.

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), channels].

        That size is an odd kernel's with its default padding, undilated.
        """
        return nn.relu(self._normalize(self._convolve(x), train))

    def _convolve(self, x: Array) -> Array:
        has_bias = self.norm == "none"
        init = nn.initializers.he_normal()
        if self.pairs:
            bias_init = nn.initializers.zeros if has_bias else None
            filters = Filters(self.channels, init, bias_init, name="conv")
            kernel, bias = filters(x.shape[-1] // 2)
            return column_pairs.convolve(x, kernel, bias, self.dtype)
        return nn.Conv(
            self.channels,
            (self.kernel, self.kernel),
            strides=self.stride,
            padding=self.kernel // 2 if self.padding is None else self.padding,
            kernel_dilation=self.dilation,
            use_bias=has_bias,
            kernel_init=init,
            dtype=self.dtype,
            conv_general_dilated=convolve,
            name="conv",
        )(x)

    def _normalize(self, x: Array, train: bool) -> Array:
        if self.norm == "none":
            return x
        if self.norm == "group":
            groups = max(1, self.channels // self.group_size)
            if self.channels % groups:
                raise InputError(
                    f"model.group_size={self.group_size} leaves a remainder of the "
                    f"{self.channels} channels of a layer: choose it or model.width "
                    "so that it divides them"
                )
            return nn.GroupNorm(groups, dtype=self.dtype, name="norm")(x)
        if self.norm == "batch":
            batch_norm = column_pairs.BatchNorm if self.pairs else nn.BatchNorm
            return batch_norm(
                use_running_average=not train,
                momentum=0.9,
                dtype=self.dtype,
                # The statistics are the whole batch's, wherever its images are.
                axis_name=collectives.device_axes() or None,
                name="norm",
            )(x)
        raise InputError(
            f"model.norm is {self.norm!r}; it must be none, group or batch"
        )


class Normalization(NamedTuple):
    """Channel order, mean and scale; the last two in that order, units of 0..255."""

    channel_order: str  # RGB or BGR.
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, model) -> "Normalization":
        """That of `config.model`."""
        return cls(model.channel_order, tuple(model.pixel_mean), tuple(model.pixel_std))

    def __call__(self, image: Array) -> Array:
        """float32 RGB [..., 3] in 0..255 -> float32 [..., 3] as the weights want it."""
        if self.channel_order == "BGR":
            image = image[..., ::-1]
        lead = (1,) * (image.ndim - 1)
        mean, std = (
            jnp.array(v, jnp.float32).reshape(*lead, 3) for v in (self.mean, self.std)
        )
        return (image - mean) / std

    @property
    def gray(self) -> tuple[float, ...]:
        """The RGB colour that becomes zero."""
        return self.mean[::-1] if self.channel_order == "BGR" else self.mean


def max_pool(x: Array) -> Array:
    """2x2 max pooling with stride 2 that keeps a partial last window.

    As maxima of neighbours: on CPUs a narrow detector's step then takes 0.87 of the
    time that it takes with nn.max_pool, whose gradient scatters. The neighbours are
    slices: TPUs would copy whole maps to make an axis of them.
    """
    height, width = x.shape[1:3]
    odd = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    x = jnp.pad(x, odd, constant_values=-jnp.inf)
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])


class L2Normalize(nn.Module):
    """Unit length over channels times a learned scale a channel (ParseNet)."""

    initial_scale: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[..., C] -> [..., C], computed in float32; a zero vector stays zero."""
        scale = self.param(
            "scale", nn.initializers.constant(self.initial_scale), (x.shape[-1],)
        )
        scale = scale.reshape((1,) * (x.ndim - 1) + (-1,))
        return (unit_vectors(x) * scale).astype(x.dtype)


def unit_vectors(x: Array, epsilon: float = 1e-12) -> Array:
    """[..., C] over its length, float32; zero (and a finite gradient) at zero."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + epsilon)
