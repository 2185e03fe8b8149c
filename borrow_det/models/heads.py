"""Prediction heads: class logits and box offsets of the anchors of each level.

SSD has a 3x3 convolution for the classes and one for the boxes on every level.
RetinaNet (Lin et al. 2017, Focal Loss for Dense Object Detection, section 4) has a
tower of 3x3 convolutions before each of them, and uses the same head on all levels.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import ml_collections
from jax import Array

from borrow_det.errors import InputError
from borrow_det.models.layers import Conv, ConvBlock


@dataclasses.dataclass(frozen=True)
class HeadOptions:
    """The form of the heads; most attributes are fields of `config.head`.

    Attributes:
      num_classes: classes without background.
      classification: `softmax`, with a logit for the background at index 0, or `focal`,
        with one logit per class for a sigmoid (`config.loss.classification`).
      depth: number of 3x3 convolutions in a tower; 0 for SSD's heads.
      channels: channels of a tower and, if shared, of the maps after the 1x1
        convolutions.
      shared: whether all levels have the same head.
      norm: `none`, or `group` for group normalization in the towers.
      group_size: channels per group (`config.model.group_size`).
      background_bias: initial logit of the background, with softmax
        (`config.model.background_bias`).
      prior: initial score of every class, with focal.
      dtype: compute type.
    """

    num_classes: int
    classification: str = "softmax"
    depth: int = 0
    channels: int = 256
    shared: bool = False
    norm: str = "none"
    group_size: int = 16
    background_bias: float = 0.0
    prior: float = 0.01
    dtype: Any = jnp.float32

    @classmethod
    def from_config(
        cls, config: ml_collections.ConfigDict, num_classes: int
    ) -> "HeadOptions":
        """Returns the options of a run's configuration."""
        return cls(
            num_classes=num_classes,
            classification=config.loss.classification,
            **config.head,
            group_size=config.model.group_size,
            background_bias=config.model.background_bias,
            dtype=jnp.dtype(config.dtype),
        )

    @property
    def logits(self) -> int:
        """Number of logits of an anchor."""
        return self.num_classes + (self.classification == "softmax")


class Tower(nn.Module):
    """3x3 convolutions, each followed by normalization, if any, and relu."""

    options: HeadOptions

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [B, H, W, C] to [B, H, W, options.channels]; x itself at depth 0."""
        options = self.options
        for n in range(1, options.depth + 1):
            x = ConvBlock(
                options.channels,
                norm=options.norm,
                group_size=options.group_size,
                dtype=options.dtype,
                name=f"conv{n}",
            )(x, train=False)  # No layer of a tower depends on it.
        return x


class Subnets(nn.Module):
    """The layers of a head: for classes and for boxes, a tower and a 3x3 convolution.

    The kernels of the class logits start as in SSD with `softmax`, and with a standard
    deviation of 0.01, as in RetinaNet, with `focal`: initial scores are near the prior.
    """

    anchors: int  # Anchors per position.
    options: HeadOptions

    def setup(self) -> None:
        """Makes the layers."""
        options = self.options
        kernel_init = nn.initializers.normal(0.01)
        if options.classification == "softmax":
            kernel_init = nn.initializers.xavier_uniform()
        if options.depth:
            self.class_tower, self.box_tower = Tower(options), Tower(options)
        logits = Conv(
            self.anchors * options.logits,
            kernel=3,
            kernel_init=kernel_init,
            bias_init=self._initial_biases,
            dtype=options.dtype,
        )
        setattr(self, "class", logits)  # The name of its parameters.
        self.box = Conv(
            self.anchors * 4,
            kernel=3,
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=options.dtype,
        )

    def predict(self, x: Array, x_boxes: Array) -> tuple[Array, Array]:
        """Predicts from the maps of a level.

        Args:
          x: map for the classes, [B, H, W, C].
          x_boxes: map for the boxes, [B, H, W, C]; may be `x`.

        Returns:
          Logits [B, H W k, options.logits] and offsets [B, H W k, 4], float32, where k
          is the number of anchors per position.
        """
        if self.options.depth:
            x, x_boxes = self.class_tower(x), self.box_tower(x_boxes)
        logits, offsets = getattr(self, "class")(x), self.box(x_boxes)
        batch = x.shape[0]
        return (
            logits.reshape(batch, -1, self.options.logits).astype(jnp.float32),
            offsets.reshape(batch, -1, 4).astype(jnp.float32),
        )

    @nn.nowrap
    def _initial_biases(
        self, key: Array, shape: tuple[int], dtype: Any = jnp.float32
    ) -> Array:
        options = self.options
        bias = jnp.zeros((self.anchors, options.logits), dtype)
        if options.classification == "softmax":
            bias = bias.at[:, 0].set(options.background_bias)
        else:
            bias = bias - math.log((1 - options.prior) / options.prior)
        return bias.reshape(shape)


class Head(Subnets):
    """The head of one level."""

    def __call__(self, x: Array, x_boxes: Array) -> tuple[Array, Array]:
        """Predicts from the maps of the level; see `predict`."""
        return self.predict(x, x_boxes)


class SharedHead(Subnets):
    """One head for all levels.

    Levels differ in their numbers of channels: a 1x1 convolution per level, without
    relu, as the lateral ones of a feature pyramid, turns their maps into maps of
    `options.channels`. Both maps of a level use the same one.
    """

    levels: int  # Number of levels.

    def setup(self) -> None:
        """Makes the layers."""
        super().setup()
        for n in range(1, self.levels + 1):
            lateral = Conv(self.options.channels, dtype=self.options.dtype)
            setattr(self, f"lateral{n}", lateral)

    def __call__(
        self, maps: Sequence[Array], box_maps: Sequence[Array]
    ) -> list[tuple[Array, Array]]:
        """Predicts from the maps of all levels, shallow to deep.

        Args:
          maps: maps for the classes, [B, H_n, W_n, C_n].
          box_maps: maps for the boxes, of the same shapes.

        Returns:
          Logits and offsets of each level; see `predict`.
        """
        predictions = []
        for n, (x, x_boxes) in enumerate(zip(maps, box_maps, strict=True), start=1):
            lateral = getattr(self, f"lateral{n}")
            same, x = x_boxes is x, lateral(x)
            predictions.append(self.predict(x, x if same else lateral(x_boxes)))
        return predictions


def make_heads(
    anchors_per_position: Sequence[int], options: HeadOptions
) -> dict[str, Subnets]:
    """Makes the heads by name: `head1`, `head2` and so on, or `head` for all levels.

    Args:
      anchors_per_position: number of anchors at a position of each level.
      options: the form of the heads.
    """
    if options.shared:
        levels = len(anchors_per_position)
        return {"head": SharedHead(anchors_per_position[0], options, levels)}
    return {
        f"head{n}": Head(anchors, options)
        for n, anchors in enumerate(anchors_per_position, start=1)
    }


def check_shared(anchors_per_position: Sequence[int], options: HeadOptions) -> None:
    """Raises InputError if a shared head does not fit the anchors of the levels."""
    if options.shared and len(set(anchors_per_position)) > 1:
        raise InputError(
            "head.shared needs the same number of anchors per position on all levels; "
            f"the config has {', '.join(map(str, anchors_per_position))}: set "
            "anchors.aspect_ratios to the same number of ratios on every level"
        )
