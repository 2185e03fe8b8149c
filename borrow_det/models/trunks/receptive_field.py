"""Receptive fields of convolutions and poolings that follow one another."""

from typing import NamedTuple


class ReceptiveField(NamedTuple):
    """The part of the image that one position of a map depends on.

    Attributes:
      size: side of the field in pixels of the image.
      stride: distance of neighboring positions in pixels of the image.
    """

    size: int = 1
    stride: int = 1

    def after(
        self, kernel: int, stride: int = 1, dilation: int = 1, count: int = 1
    ) -> "ReceptiveField":
        """Returns the field after `count` equal layers.

        Args:
          kernel: side of the window of a layer.
          stride: stride of a layer.
          dilation: distance of neighboring taps of a layer.
          count: number of layers.
        """
        field = self
        for _ in range(count):
            size = field.size + (kernel - 1) * dilation * field.stride
            field = ReceptiveField(size, field.stride * stride)
        return field
