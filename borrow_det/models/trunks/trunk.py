"""Base of all trunks: fields, levels, stages, and the level of stride 64."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax import Array

from borrow_det.errors import check_choice
from borrow_det.models.column_pairs import Map
from borrow_det.models.layers import ConvBlock
from borrow_det.models.trunks.receptive_field import ReceptiveField

# Output channels of conv6_1 and conv6_2, the layers of the level of stride 64.
CONV6_CHANNELS = (256, 512)


class Trunk(nn.Module):
    """Base of the networks that turn an image into the levels of a detector."""

    width: float = 1.0  # Factor of every channel count.
    stages: Sequence[int] = ()  # Layers, or blocks of layers, in each stage.
    norm: str = "none"  # One of `norms`.
    group_size: int = 16
    dtype: Any = jnp.float32
    # Recomputes maps for the gradient instead of keeping all of them.
    remat: bool = False
    # Stages, counted from the input, whose parameters and statistics are constants.
    frozen: int = 0

    # Strides in pixels of the input, and names, of a detection trunk's levels. Strides
    # that depend on the input size are left out at the end.
    strides: ClassVar[tuple[int, ...]] = ()
    level_names: ClassVar[tuple[str, ...]] = ()
    # Values of `norm`.
    norms: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_config(cls, config: ml_collections.ConfigDict, **fields: Any) -> Self:
        """Builds the trunk that `config` (configs/base.py) describes.

        Args:
          config: the configuration of a run.
          **fields: further fields of the trunk.

        Raises:
          InputError: the trunk does not have this normalization.
        """
        model = config.model
        check_choice(f"model.norm of {model.trunk}", model.norm, cls.norms)
        return cls(
            width=model.width,
            stages=tuple(model.stages) or cls.stages,
            norm=model.norm,
            group_size=model.group_size,
            dtype=jnp.dtype(config.dtype),
            remat=config.remat == "trunk",
            frozen=model.frozen,
            **cls.own_fields(config),
            **fields,
        )

    @classmethod
    def own_fields(cls, config: ml_collections.ConfigDict) -> dict[str, Any]:
        """Returns the fields that this trunk has besides those of all trunks."""
        del config
        return {}

    @classmethod
    def receptive_fields(
        cls, stages: Sequence[int], head: int = 1
    ) -> tuple[int, ...] | None:
        """Returns the side of each level's receptive field in pixels of the input.

        Args:
          stages: as `model.stages`; () for those of the trunk.
          head: number of 3x3 convolutions of the prediction head, which are included.

        Returns:
          One side a level; None if every position depends on the entire image.
        """
        fields = cls.level_fields(tuple(stages) or cls.stages)
        if fields is None:
            return None
        return tuple(field.after(3, count=head).size for field in fields)

    @classmethod
    def level_fields(cls, stages: Sequence[int]) -> tuple[ReceptiveField, ...] | None:
        """Returns the field of each level's map; None for the entire image."""
        raise NotImplementedError(f"{cls.__name__} has no detection levels")

    @nn.nowrap
    def stage_layers(self) -> tuple[tuple[str, ...], ...]:
        """Returns the names of the layers of each stage, from the input on."""
        raise NotImplementedError

    @nn.nowrap
    def stage_modules(self) -> tuple[tuple[str, ...], ...]:
        """Returns the paths of the modules of each stage in a network."""
        stages = self.stage_layers()
        return tuple(tuple(f"trunk/{name}" for name in stage) for stage in stages)

    @nn.nowrap
    def channels(self, count: int) -> int:
        """Returns a number of channels times `width`, at least 1."""
        return max(1, round(count * self.width))

    @nn.nowrap
    def is_frozen(self, layer: str) -> bool:
        """Returns whether a layer belongs to a frozen stage."""
        return any(layer in stage for stage in self.stage_layers()[: self.frozen])

    @nn.nowrap
    def constant(self, layer: str, x: Map) -> Map:
        """Stops the gradient of a layer's result if the layer is frozen."""
        frozen = self.is_frozen(layer)
        return jax.tree.map(jax.lax.stop_gradient, x) if frozen else x

    def block(
        self, x: Map, train: bool, name: str, channels: int, **options: Any
    ) -> Map:
        """Applies a new `ConvBlock` named `name`.

        In a frozen stage, BatchNorm uses the stored statistics, and there is no
        gradient.

        Args:
          x: the map.
          train: see ConvBlock.
          name: name of the block.
          channels: output channels at width 1.
          **options: further fields of ConvBlock.
        """
        fields = dict(norm=self.norm, group_size=self.group_size, dtype=self.dtype)
        x = ConvBlock(self.channels(channels), name=name, **(fields | options))(
            x, train and not self.is_frozen(name)
        )
        return self.constant(name, x)

    def conv6(self, x: Array, train: bool, **options: Any) -> Array:
        """Computes the level of stride 64 from that of stride 32, as VGG-16's conv6.

        Args:
          x: [B, H, W, C].
          train: see ConvBlock.
          **options: further fields of ConvBlock.

        Returns:
          [B, ceil(H / 2), ceil(W / 2), 512 * width].
        """
        reduced, made = CONV6_CHANNELS
        x = self.block(x, train, "conv6_1", reduced, kernel=1, **options)
        return self.block(x, train, "conv6_2", made, stride=2, **options)
