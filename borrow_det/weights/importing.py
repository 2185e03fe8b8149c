"""The content of a weight file as our parameters."""

import os
import types
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
      batch_stats: float32 arrays by path of our batch statistics.
    """

    layout: str
    parameters: dict[str, np.ndarray]
    pixel_statistics: dict[str, Any]
    dropped: list[str]
    batch_stats: Mapping[str, np.ndarray] = types.MappingProxyType({})

    def variables(self) -> dict[str, dict]:
        """Returns the variables {params, batch_stats} of a network."""
        params, batch_stats = (
            flax.traverse_util.unflatten_dict(dict(arrays), sep="/")
            for arrays in (self.parameters, self.batch_stats)
        )
        return {"params": params, "batch_stats": batch_stats}


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
            converted = layouts.convert(tensors, known)
        except InputError as error:
            # Errors of the reader already name the file.
            named = str(error).startswith(str(path))
            raise error if named else InputError(f"{path}: {error}") from error
        used = {tensor for tensor, entry in known.tensors.items() if entry.path}
        dropped = [tensor for tensor in tensors if tensor not in used]
    statistics = dict(pixel_statistics or known.pixel_statistics)
    params, batch_stats = converted["params"], converted["batch_stats"]
    return Imported(name, params, statistics, dropped, batch_stats)
