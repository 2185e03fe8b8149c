"""SSD's own trunks: VGG-16 with atrous fc6, and the layers beyond it."""

from typing import ClassVar, NamedTuple

import flax.linen as nn
from jax import Array

from borrow_det.models.trunks.vgg import FC_CHANNELS, VGGStages


class ExtraLayer(NamedTuple):
    """A 1x1 convolution to fewer channels, then one that makes the next level."""

    reduced: int  # Channels between the two.
    channels: int  # Of the level.
    kernel: int = 3
    stride: int = 1
    padding: int = 0  # At all four sides, also of a stride-2 convolution.


_HALVING = ExtraLayer(128, 256, stride=2, padding=1)


class SSDTrunk(VGGStages):
    """What SSD300 and SSD512 share: VGG-16 up to fc7, then `extra_layers`.

    pool5 is 3x3 with stride 1, and conv_fc6 3x3 with dilation 6: fc7 keeps conv5_3's
    stride. conv4_3 goes on as it is; where it is normalised for its prediction layer
    (`model.l2_scales`), the trunk does not see it. Poolings keep a partial last window
    (300 pixels become 38 by pool3), as all do in Caffe and pool3 in torchvision; for
    300 and 512 pixels the others have none.

    Source: Liu et al., SSD: Single Shot MultiBox Detector (2016), section 3.1, and its
    Caffe implementation (model_libs.py, ssd_coco.py), whose fc6 to conv10_2 it names.
    """

    extra_layers: ClassVar[tuple[ExtraLayer, ...]]
    # Of the first levels, those that it has at any input.
    strides: ClassVar[tuple[int, ...]]

    @nn.compact
    def __call__(self, image: Array, train: bool = False) -> tuple[Array, ...]:
        """Normalised image [B, H, W, 3] -> conv4_3, conv_fc7, conv6_2, conv7_2, ...

        512, 1024, and each extra layer's `channels`, times `width`.
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
    """Of 300 pixels, maps of 38, 19, 10, 5, 3 and 1; the last two are not padded."""

    extra_layers: ClassVar = (
        ExtraLayer(256, 512, stride=2, padding=1),
        _HALVING,
        ExtraLayer(128, 256),
        ExtraLayer(128, 256),
    )
    strides: ClassVar = (8, 16, 32, 64)


class SSD512(SSDTrunk):
    """Of 512 pixels, maps of 64, 32, 16, 8, 4, 2 and 1."""

    extra_layers: ClassVar = (
        ExtraLayer(256, 512, stride=2, padding=1),
        _HALVING,
        _HALVING,
        _HALVING,
        ExtraLayer(128, 256, kernel=4, padding=1),
    )
    strides: ClassVar = (8, 16, 32, 64, 128, 256)
