"""The trunks of SSD300 and SSD512: VGG-16 with a dilated fc6, and extra layers."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import flax.linen as nn
from jax import Array

from borrow_det.models.trunks.receptive_field import ReceptiveField
from borrow_det.models.trunks.vgg import FC_CHANNELS, VGGStages


class ExtraLayer(NamedTuple):
    """A 1x1 convolution to fewer channels, and a convolution that makes a level."""

    reduced: int  # Output channels of the first convolution.
    channels: int  # Output channels of the second convolution, the level.
    kernel: int = 3
    stride: int = 1
    padding: int = 0  # Zeros on each of the four sides, at any stride.


_HALVING = ExtraLayer(128, 256, stride=2, padding=1)


class SSDTrunk(VGGStages):
    """Base of SSD300 and SSD512: VGG-16 up to fc7, then `extra_layers`.

    pool5 is 3x3 with stride 1, and conv_fc6 is 3x3 with dilation 6, so fc7 keeps the
    stride of conv5_3. The L2 normalization of conv4_3 (`model.l2_scales`) applies to
    its prediction head only, as in SSD; the trunk continues from the plain map.
    Poolings keep a partial last window (300 pixels become 38 at pool3), as all do in
    Caffe, and pool3 in torchvision; at 300 and 512 pixels the others have none.

    Source: Liu et al., SSD: Single Shot MultiBox Detector (2016), section 3.1, and its
    Caffe implementation (model_libs.py, ssd_coco.py), which has the names of layers.
    """

    extra_layers: ClassVar[tuple[ExtraLayer, ...]]

    @classmethod
    def level_fields(cls, stages: Sequence[int]) -> tuple[ReceptiveField, ...]:
        """Returns the field of each level's map."""
        *_, conv4_3, conv5_3 = cls.stage_fields(stages)
        fields = [conv4_3, conv5_3.after(3).after(3, dilation=6)]
        for layer in cls.extra_layers:
            fields.append(fields[-1].after(layer.kernel, layer.stride))
        return tuple(fields)

    @nn.nowrap
    def stage_layers(self) -> tuple[tuple[str, ...], ...]:
        """Returns the names of the layers of each stage, an extra layer being one."""
        numbers = range(6, 6 + len(self.extra_layers))
        extra = (tuple(f"conv{n}_{i}" for i in (1, 2)) for n in numbers)
        return (*super().stage_layers(), ("conv_fc6", "conv_fc7"), *extra)

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> tuple[Array, ...]:
        """Computes conv4_3, conv_fc7, conv6_2, conv7_2, and so on.

        Args:
          image: [B, H, W, 3], pixel statistics applied.
          train: see ConvBlock.

        Returns:
          Maps with 512, 1024, and each extra layer's `channels`, times `width`.
        """
        *_, conv4_3, conv5_3 = self.conv_stages(image, train)
        x = nn.max_pool(conv5_3, window_shape=(3, 3), strides=(1, 1), padding="SAME")
        x = self.block(x, train, "conv_fc6", FC_CHANNELS, dilation=6, padding=6)
        x = self.block(x, train, "conv_fc7", FC_CHANNELS, kernel=1)
        levels = [conv4_3, x]
        for number, layer in enumerate(self.extra_layers, start=6):
            x = self.block(x, train, f"conv{number}_1", layer.reduced, kernel=1)
            options = dict(
                kernel=layer.kernel, stride=layer.stride, padding=layer.padding
            )
            x = self.block(x, train, f"conv{number}_2", layer.channels, **options)
            levels.append(x)
        return tuple(levels)


class SSD300(SSDTrunk):
    """SSD300: maps of 38, 19, 10, 5, 3 and 1 positions a side at 300 pixels."""

    extra_layers: ClassVar = (
        ExtraLayer(256, 512, stride=2, padding=1),
        _HALVING,
        ExtraLayer(128, 256),
        ExtraLayer(128, 256),
    )
    strides: ClassVar = (8, 16, 32, 64)
    level_names: ClassVar = (
        *("conv4_3", "conv_fc7", "conv6_2", "conv7_2", "conv8_2", "conv9_2"),
    )


class SSD512(SSDTrunk):
    """SSD512: maps of 64, 32, 16, 8, 4, 2 and 1 positions a side at 512 pixels."""

    extra_layers: ClassVar = (
        ExtraLayer(256, 512, stride=2, padding=1),
        _HALVING,
        _HALVING,
        _HALVING,
        ExtraLayer(128, 256, kernel=4, padding=1),
    )
    strides: ClassVar = (8, 16, 32, 64, 128, 256)
    level_names: ClassVar = (*SSD300.level_names, "conv10_2")
