"""The content of a weight file as our parameters."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax
import numpy as np

from borrow_det.errors import InputError
from borrow_det.weights import files, layouts


class Imported(NamedTuple):
    """Content of a weight file.

    Attributes:
      layout: name in `layouts.LAYOUTS`.
      parameters: float32 arrays by path of our parameter.
      pixel_statistics: values of the fields `init_from.PIXEL_STATISTICS`.
      dropped: names of tensors that are not used.
    """

    layout: str
    parameters: dict[str, np.ndarray]
    pixel_statistics: dict[str, Any]
    dropped: list[str]

    def variables(self) -> dict[str, dict]:
        """Returns the variables {params, batch_stats} of a network."""
        nested = flax.traverse_util.unflatten_dict(self.parameters, sep="/")
        return {"params": nested, "batch_stats": {}}


def read(
    path: str | os.PathLike,
    layout: str | None = None,
    pixel_statistics: Mapping[str, Any] | None = None,
) -> Imported:
    """Reads a weight file.

    Args:
      path: weight file.
      layout: name in `layouts.LAYOUTS`; None to recognize it.
      pixel_statistics: values of the fields `init_from.PIXEL_STATISTICS`; None for
        those of the layout's publisher.

    Raises:
      InputError: the file cannot be read, or does not have the layout, or has no known
        layout.
    """
    with files.open_tensors(path) as tensors:
        try:
            name = layout or layouts.recognize(tensors)
            known = layouts.LAYOUTS[name]
            layouts.check(tensors, known)
            parameters = layouts.convert(tensors, known)
        except InputError as error:
            # Errors of the reader already name the file.
            named = str(error).startswith(str(path))
            raise error if named else InputError(f"{path}: {error}") from error
        dropped = [tensor for tensor in tensors if not known.tensors[tensor].path]
    statistics = dict(pixel_statistics or known.pixel_statistics)
    return Imported(name, parameters, statistics, dropped)
