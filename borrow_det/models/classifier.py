"""Classifiers, for pretraining: VGG-16, and a linear layer on any other trunk."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax import Array

from borrow_det.errors import InputError, check_choice
from borrow_det.models import layers
from borrow_det.models.layers import Conv, Initializer, PixelStatistics
from borrow_det.models.trunks import TRUNKS, Trunk, check_stages, vgg

FC6_KERNEL = 7  # The map of pool5 is 7x7 at the paper's input of 224 pixels.
# Ratio of channels to the detector's conv_fc6 and conv_fc7, which keep every fourth.
FC_FACTOR = 4
# pool5 has a row and a column for every 32 pixels, or part of 32 pixels.
MIN_INPUT = 32 * (FC6_KERNEL - 1) + 1


class Stages(vgg.VGGStages):
    """VGG-16's five stages, which the classifier shares with a detector's trunk."""

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        """Computes pool5, [B, ceil(H / 32), ceil(W / 32), 512 * width].

        Args:
          image: [B, H, W, 3], pixel statistics applied.
          train: see ConvBlock.
        """
        return layers.max_pool(self.conv_stages(image, train)[-1])


class Classifier(nn.Module):
    """VGG-16 (Simonyan and Zisserman, 2015, configuration D).

    fc6 to fc8 are convolutions without normalization, and the logits of an input larger
    than 224 pixels are the mean over positions (their section 3.2). fc6 and fc7 have
    four times the channels of the detector's conv_fc6 and conv_fc7 at any width;
    workdir/trunk_conversion.py reduces the former to the latter.
    """

    num_classes: int
    trunk: Stages
    pixel_statistics: PixelStatistics
    dropout: float = 0.5
    dtype: Any = jnp.float32

    @nn.nowrap
    def stage_modules(self) -> tuple[tuple[str, ...], ...]:
        """Returns the paths of the modules of VGG's five stages, and of fc6 and fc7.

        All six frozen leave a linear classifier to train.
        """
        return (*self.trunk.stage_modules(), ("fc6", "fc7"))

    @nn.compact
    def __call__(
        self, image: Array, train: bool = False, dropout_keys: Array | None = None
    ) -> Array:
        """Computes logits, float32 [B, num_classes].

        Args:
          image: float32 RGB [B, H, W, 3] in [0, 255]; sides of MIN_INPUT or more.
          train: whether to apply dropout and update the statistics of BatchNorm.
          dropout_keys: [B] random keys, one per example; needed if `train`. Dropout
            depends on nothing else.

        Raises:
          InputError: the input is too small for fc6.
        """
        if min(image.shape[1:3]) < MIN_INPUT:
            raise InputError(
                f"input_size is {image.shape[1:3]}; VGG-16's fc6 needs at least "
                f"{MIN_INPUT} pixels on each side"
            )
        x = self.trunk(self.pixel_statistics(image), train)
        channels = FC_FACTOR * max(1, round(vgg.FC_CHANNELS * self.trunk.width))
        for layer, (name, kernel) in enumerate((("fc6", FC6_KERNEL), ("fc7", 1))):
            x = nn.relu(self._dense(channels, kernel, name)(x))
            if self.trunk.frozen > len(self.trunk.stages):
                x = jax.lax.stop_gradient(x)
            if train:
                assert dropout_keys is not None, "training needs dropout_keys"
                x = _drop(x, dropout_keys, layer, self.dropout)
        init = nn.initializers.normal(0.01)
        logits = self._dense(self.num_classes, 1, "fc8", init)(x)
        return jnp.mean(logits.astype(jnp.float32), axis=(1, 2))

    def _dense(
        self, channels: int, kernel: int, name: str, init: Initializer | None = None
    ) -> Conv:
        return Conv(
            channels,
            kernel,
            padding=0,
            kernel_init=init or nn.initializers.he_normal(),
            dtype=self.dtype,
            name=name,
        )


class LinearClassifier(nn.Module):
    """A linear layer on the pooled features of a trunk."""

    num_classes: int
    trunk: Trunk
    pixel_statistics: PixelStatistics
    dropout: float = 0.5  # Dropout rate before the linear layer.
    dtype: Any = jnp.float32

    @nn.nowrap
    def stage_modules(self) -> tuple[tuple[str, ...], ...]:
        """Returns the paths of the modules of each stage of the trunk."""
        return self.trunk.stage_modules()

    @nn.compact
    def __call__(
        self, image: Array, train: bool = False, dropout_keys: Array | None = None
    ) -> Array:
        """Computes logits, float32 [B, num_classes]; see `Classifier`."""
        x = self.trunk(self.pixel_statistics(image), train)
        if train and self.dropout:
            assert dropout_keys is not None, "training needs dropout_keys"
            x = _drop(x, dropout_keys, 0, self.dropout)
        init = nn.initializers.normal(0.01)
        dense = nn.Dense(
            self.num_classes, kernel_init=init, dtype=self.dtype, name="fc"
        )
        return dense(x).astype(jnp.float32)


def _drop(x: Array, keys: Array, layer: int, rate: float) -> Array:
    """Applies dropout to [B, ...], each example by its own key."""

    def one_example(key: Array, x: Array) -> Array:
        kept = jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - rate, x.shape)
        return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))

    return jax.vmap(one_example)(keys, x)


def build_classifier(
    config: ml_collections.ConfigDict, num_classes: int
) -> Classifier | LinearClassifier:
    """Builds the classifier that `config` (configs/base.py) describes.

    Raises:
      InputError: the trunk is unknown, or fields do not fit it.
    """
    check_choice("model.trunk", config.model.trunk, TRUNKS)
    trunk = TRUNKS[config.model.trunk]
    check_stages(config)
    fields: dict[str, Any] = dict(
        num_classes=num_classes,
        pixel_statistics=PixelStatistics.of(config.model),
        dropout=config.model.dropout,
        dtype=jnp.dtype(config.dtype),
    )
    if issubclass(trunk, vgg.VGGStages):
        return Classifier(trunk=Stages.from_config(config), **fields)
    return LinearClassifier(trunk=trunk.from_config(config, pooled=True), **fields)
