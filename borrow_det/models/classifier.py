"""VGG-16 whole, as it is pretrained: the five stages, fc6, fc7 and fc8."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.errors import InputError
from borrow_det.models import layers
from borrow_det.models.layers import Normalization
from borrow_det.models.trunks import vgg
from borrow_det.ops.convolution import convolve

FC6_KERNEL = 7  # Of pool5's map: 7x7 at the paper's input of 224.
# Of the detector's conv_fc6 and conv_fc7, which keep every fourth of these channels.
FC_FACTOR = 4
# pool5 has a row or column for each started 32 pixels.
MIN_INPUT = 32 * (FC6_KERNEL - 1) + 1


class Stages(vgg.VGGStages):
    """The trunk that a detector shares with the classifier."""

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        """Normalised image [B, H, W, 3] -> pool5, [B, ceil(H / 32), ceil(W / 32), C].

        C is 512 times the width.
        """
        return layers.max_pool(self.conv_stages(image, train)[-1])


class Classifier(nn.Module):
    """VGG-16 (Simonyan and Zisserman, 2015, configuration D).

    fc6 to fc8 are convolutions, without normalisation, and the logits of an input
    larger than 224 are the mean over positions (their section 3.2). fc6 and fc7 have
    four times the channels of the detector's conv_fc6 and conv_fc7, at any width:
    `initialization.decimate` makes the one of the other.
    """

    num_classes: int
    normalization: Normalization
    width: float = 1.0
    stages: Sequence[int] = (2, 2, 3, 3, 3)
    norm: str = "none"
    group_size: int = 16
    dropout: float = 0.5
    dtype: Any = jnp.float32
    remat: bool = False  # This and the next are the trunk's: vgg.VGGStages.
    pairs: bool = False

    @nn.compact
    def __call__(
        self, image: Array, train: bool = False, dropout_keys: Array | None = None
    ) -> Array:
        """RGB [B, H, W, 3] in 0..255 -> logits float32 [B, num_classes].

        Args:
          image: float32; no side under `MIN_INPUT`.
          train: whether to drop, and to update what BatchNorm averages.
          dropout_keys: [B] random keys, one an example, if `train`: what is dropped
            then depends on nothing else.

        Raises:
          InputError: the input is too small for fc6.
        """
        if min(image.shape[1:3]) < MIN_INPUT:
            raise InputError(
                f"input_size is {image.shape[1:3]}; VGG-16's fc6 needs at least "
                f"{MIN_INPUT} pixels on each side"
            )
        x = Stages(
            self.width,
            self.stages,
            self.norm,
            self.group_size,
            self.dtype,
            self.remat,
            self.pairs,
            name="trunk",
        )(self.normalization(image), train)
        channels = FC_FACTOR * max(1, round(vgg.FC_CHANNELS * self.width))
        for layer, (name, kernel) in enumerate((("fc6", FC6_KERNEL), ("fc7", 1))):
            x = nn.relu(self._dense(channels, kernel, name)(x))
            if train:
                x = _drop(x, dropout_keys, layer, self.dropout)
        logits = self._dense(self.num_classes, 1, "fc8", nn.initializers.normal(0.01))(
            x
        )
        return jnp.mean(logits.astype(jnp.float32), axis=(1, 2))

    def _dense(self, channels, kernel, name, init=None):
        return nn.Conv(
            channels,
            (kernel, kernel),
            padding="VALID",
            kernel_init=init or nn.initializers.he_normal(),
            dtype=self.dtype,
            conv_general_dilated=convolve,
            name=name,
        )


def _drop(x, keys, layer, rate):
    """Each example of [B, ...] loses a share of its values by its own key."""

    def one_example(key, x):
        kept = jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - rate, x.shape)
        return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))

    return jax.vmap(one_example)(keys, x)


def build_classifier(config, num_classes: int) -> Classifier:
    """The classifier that `config.model` describes."""
    model = config.model
    return Classifier(
        num_classes=num_classes,
        normalization=Normalization.of(model),
        width=model.width,
        stages=tuple(model.stages),
        norm=model.norm,
        group_size=model.group_size,
        dropout=model.dropout,
        dtype=jnp.dtype(config.dtype),
        remat=config.remat == "trunk",
        pairs=vgg.pairs_columns(config),
    )
