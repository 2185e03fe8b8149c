"""The detection network: trunk {X}, borrowing neck {Y}, heads on all levels."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax import Array

from borrow_det.errors import InputError, check_choice
from borrow_det.models.borrowing import BorrowingNeck
from borrow_det.models.heads import HeadOptions, check_shared, make_heads
from borrow_det.models.layers import L2Normalize, PixelStatistics
from borrow_det.models.matching import Matching
from borrow_det.models.references import ReferenceImages, ReferenceMaps, deeper_maps
from borrow_det.models.trunks import TRUNKS, Trunk, check_stages
from borrow_det.ops import anchors as anchor_ops


class Predictions(NamedTuple):
    """Predictions for all anchors, float32."""

    # [B, A, 1 + C], background at index 0; [B, A, C] with loss.classification=focal.
    logits: Array
    offsets: Array  # [B, A, 4], in the form of `ops.boxes.encode`.
    matchings: dict[int, Matching]  # One for each level (from 0) that borrows.


class BorrowNet(nn.Module):
    """SSD whose levels borrow; plain SSD if the neck is switched off."""

    trunk: Trunk
    neck: BorrowingNeck
    head_options: HeadOptions
    anchors_per_position: Sequence[int]
    pixel_statistics: PixelStatistics
    l2_scales: Sequence[float]  # Initial scale of each level's L2Normalize; 0: none.

    def setup(self) -> None:
        """Makes the layers other than the trunk and the neck."""
        for n, scale in enumerate(self.l2_scales, start=1):
            if scale:
                setattr(self, f"l2_{n}", L2Normalize(scale))
        heads = make_heads(self.anchors_per_position, self.head_options)
        for name, head in heads.items():
            setattr(self, name, head)

    @nn.nowrap
    def stage_modules(self) -> tuple[tuple[str, ...], ...]:
        """Returns the paths of the modules of each stage of the trunk."""
        return self.trunk.stage_modules()

    def __call__(
        self,
        image: Array,
        train: bool = False,
        references: ReferenceImages | ReferenceMaps | None = None,
    ) -> Predictions:
        """Predicts from images.

        Args:
          image: float32 [B, H, W, 3], RGB in [0, 255].
          train: whether BatchNorm uses the statistics of the batch, which are those of
            the images and their references together.
          references: images to borrow from, too, or their maps; or None.
        """
        if not isinstance(references, ReferenceImages):
            return self.predict_maps(self.maps(image, train), references)
        batch = image.shape[0]
        others = references.image.reshape(-1, *references.image.shape[2:])
        if train:
            both = self.maps(jnp.concatenate([image, others]), train)
            X, of_others = zip(*((x[:batch], x[batch:]) for x in both), strict=True)
        else:  # Apart, the maps of the images are those without references to the bit.
            X, of_others = self.maps(image), self.maps(others)
        return self.predict_maps(X, deeper_maps(of_others, references.mask))

    def maps(self, image: Array, train: bool = False) -> tuple[Array, ...]:
        """Returns the levels X_1 to X_N, [B, H_n, W_n, C_n] each, of images."""
        levels = self.trunk(self.pixel_statistics(image), train)
        return tuple(
            getattr(self, f"l2_{n}")(x) if scale else x
            for n, (x, scale) in enumerate(
                zip(levels, self.l2_scales, strict=True), start=1
            )
        )

    def predict_maps(
        self, X: Sequence[Array], references: ReferenceMaps | None = None
    ) -> Predictions:
        """Predicts from the levels of images, and the deeper ones of references."""
        Y = self.neck(X, references)
        if self.head_options.shared:
            levels = self.head(Y.classes, Y.boxes)
        else:
            levels = [
                getattr(self, f"head{n}")(*maps)
                for n, maps in enumerate(zip(Y.classes, Y.boxes, strict=True), start=1)
            ]
        logits, offsets = (
            jnp.concatenate(parts, axis=1) for parts in zip(*levels, strict=True)
        )
        return Predictions(logits, offsets, Y.matchings)


def build_borrow_net(config: ml_collections.ConfigDict, num_classes: int) -> BorrowNet:
    """Builds the network that `config` (configs/base.py) describes.

    Args:
      config: the configuration of a run. `first_stage=auto` counts as `plain`; see
        distributed.mesh.resolve_layout.
      num_classes: classes without background.

    Raises:
      InputError: the trunk is unknown, or fields do not fit its levels.
    """
    check_choice("model.trunk", config.model.trunk, TRUNKS)
    _check_levels(config)
    anchors_per_position = anchor_ops.anchors_per_position(config.anchors)
    head_options = HeadOptions.from_config(config, num_classes)
    check_shared(anchors_per_position, head_options)
    return BorrowNet(
        trunk=TRUNKS[config.model.trunk].from_config(config),
        neck=BorrowingNeck(**config.borrow, dtype=jnp.dtype(config.dtype)),
        head_options=head_options,
        anchors_per_position=anchors_per_position,
        pixel_statistics=PixelStatistics.of(config.model),
        l2_scales=tuple(config.model.l2_scales),
    )


def _check_levels(config: ml_collections.ConfigDict) -> None:
    """Raises InputError if fields do not fit the levels of the trunk."""
    check_stages(config)
    shapes = map_shapes(config.model.trunk, tuple(config.input_size))
    entries = {
        "model.l2_scales": (config.model.l2_scales, len(shapes)),
        "anchors.strides": (config.anchors.strides, len(shapes)),
        "anchors.sizes": (config.anchors.sizes, len(shapes)),
        "anchors.aspect_ratios": (config.anchors.aspect_ratios, len(shapes)),
    }
    for field, (value, count) in entries.items():
        if len(value) != count:
            raise InputError(
                f"{field} has {len(value)} entries; {config.model.trunk} takes {count}"
            )
    strides, fixed = tuple(config.anchors.strides), TRUNKS[config.model.trunk].strides
    if strides[: len(fixed)] != fixed:
        raise InputError(
            f"anchors.strides is {strides}; the levels of {config.model.trunk} have "
            f"{fixed}"
        )
    _check_maps(config, shapes)


def _check_maps(
    config: ml_collections.ConfigDict, shapes: Sequence[tuple[int, int]]
) -> None:
    """Raises InputError if strides do not give the levels the sizes of their maps."""
    size = tuple(config.input_size)
    covered = anchor_ops.level_shapes(size, config.anchors.strides)
    for level, stride, expected, shape in zip(
        range(1, len(shapes) + 1), config.anchors.strides, covered, shapes, strict=True
    ):
        if expected != shape:
            raise InputError(
                f"level {level} of {config.model.trunk} has a map of {shape} at "
                f"input_size={size}, but its stride of {stride} in anchors.strides "
                f"would make it {expected}: choose another of the two"
            )


@functools.cache
def map_shapes(trunk: str, input_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Returns (height, width) of each level's map.

    Args:
      trunk: name of the trunk in TRUNKS.
      input_size: (height, width) of the input in pixels.
    """
    # Neither width nor depth changes the sizes; the narrowest trunk is traced fastest.
    module = TRUNKS[trunk](width=0.0, stages=(1,) * len(TRUNKS[trunk].stages))
    image = jax.ShapeDtypeStruct((1, *input_size, 3), jnp.float32)
    levels, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), image)
    return tuple(level.shape[1:3] for level in levels)
