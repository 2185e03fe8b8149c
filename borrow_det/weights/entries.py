"""Entries of layouts: tensors of published files, and our parameters made of them.

Our kernels are [height, width, in, out], and those of linear layers [in, out].
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Convert = Callable[[np.ndarray], np.ndarray]


class Entry(NamedTuple):
    """One tensor of a layout."""

    shape: tuple[int, ...]  # -1: any size.
    path: str  # Path of our parameter; "" if the tensor is not imported.
    convert: Convert
    collection: str = "params"  # Or "batch_stats", for statistics.


class Trained(NamedTuple):
    """Settings that the parameters of a complete detector were trained with."""

    input_size: tuple[int, int]  # (height, width) in pixels.
    anchors: dict[str, Any]  # Fields of config.anchors.


class Layout(NamedTuple):
    """A kind of weight file."""

    about: str  # Name for messages.
    tensors: dict[str, Entry]
    # Fields of init_from.PIXEL_STATISTICS, for values in 0..255.
    pixel_statistics: dict[str, Any]
    optional: tuple[str, ...] = ()  # Tensors of which a file has all or none.
    ignored: frozenset[str] = frozenset()  # Tensors that a file may have, too.
    trained: Trained | None = None  # For complete detectors with heads.

    @property
    def required(self) -> list[str]:
        """Names of the tensors that every file of this kind has."""
        return [name for name in self.tensors if name not in self.optional]


def same(array: np.ndarray) -> np.ndarray:
    """Returns the array as it is."""
    return array


def from_oihw(array: np.ndarray) -> np.ndarray:
    """Converts [out, in, height, width] to [height, width, in, out]."""
    return array.transpose(2, 3, 1, 0)


def layer(
    name: str,
    shape: tuple[int, ...],
    path: str,
    kernel: Convert = from_oihw,
    bias: Convert = same,
) -> dict[str, Entry]:
    """Returns the entries of weight and bias of a layer in PyTorch."""
    return {
        f"{name}.weight": Entry(shape, f"{path}/kernel", kernel),
        f"{name}.bias": Entry(shape[:1], f"{path}/bias", bias),
    }


def not_imported(entries: dict[str, Entry]) -> dict[str, Entry]:
    """Returns entries of tensors that a file has, but that are not imported."""
    return {name: entry._replace(path="") for name, entry in entries.items()}


def pixel_statistics(
    order: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, Any]:
    """Returns the fields init_from.PIXEL_STATISTICS, for values in 0..255."""
    return {"channel_order": order, "pixel_mean": mean, "pixel_std": std}
