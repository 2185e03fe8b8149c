"""Conversion of the trunk of `init_from` to the network that starts from it."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from borrow_det.ops import position_embedding


def convert(given: Mapping[str, Any], fresh: Mapping[str, Any]) -> Mapping[str, Any]:
    """Converts parameters that have another form in the network to start.

    A classifier's fully connected layers become a detector's convolutions, and ViT's
    position embeddings are interpolated to the network's grid.

    Args:
      given: variables {params, batch_stats} of the origin.
      fresh: variables {params, batch_stats} of the network to start.
    """
    params = {**given["params"]}
    if {"fc6", "fc7"} <= params.keys() and "fc6" not in fresh["params"]:
        layers = {name: params[name] for name in ("fc6", "fc7")}
        params = {"trunk": {**params["trunk"], **decimate(layers)}}
    here, there = (tree.get("trunk", {}) for tree in (fresh["params"], params))
    if "pos_embed" in here and "pos_embed" in there:
        rows = resample_positions(there["pos_embed"], here["pos_embed"].shape[0])
        params["trunk"] = {**there, "pos_embed": rows}
    return {**given, "params": params}


def resample_positions(rows: np.ndarray, count: int) -> np.ndarray:
    """Interpolates ViT's position embeddings to another square grid.

    Args:
      rows: [1 + n * n, C], that of the class token first.
      count: 1 + m * m for the other grid.

    Returns:
      [1 + m * m, C]; `rows` if they are not those of a square grid.
    """
    given, wanted = (math.isqrt(n - 1) for n in (rows.shape[0], count))
    if given == wanted or given**2 != rows.shape[0] - 1:
        return rows
    grid = position_embedding.resample(jnp.asarray(rows[1:]), (wanted, wanted))
    return np.concatenate([rows[:1], np.asarray(grid)])


def decimate(layers: Mapping[str, Mapping[str, Any]]) -> dict[str, dict]:
    """Makes conv_fc6 and conv_fc7 from VGG-16's fc6 and fc7 by subsampling.

    fc6, as a 7x7 convolution, keeps rows and columns 0, 3, 6 and every fourth output;
    fc7 keeps every fourth input (the outputs that fc6 kept) and every fourth output,
    each beginning with the first: 7x7x512 -> 4096 becomes 3x3x512 -> 1024, and
    4096 -> 4096 becomes 1024 -> 1024. SSD's implementations subsample in this way
    (after DeepLab-LargeFOV). The kept taps were 3 apart, so the network must be trained
    further.

    Args:
      layers: `fc6` {kernel [7, 7, C, F], bias [F]}, `fc7` {kernel [1, 1, F, F],
        bias [F]}.

    Returns:
      {name: {conv: {kernel, bias}}}.
    """
    fc6, fc7 = layers["fc6"], layers["fc7"]
    kernels = {
        "conv_fc6": fc6["kernel"][::3, ::3, :, ::4],
        "conv_fc7": fc7["kernel"][:, :, ::4, ::4],
    }
    biases = {"conv_fc6": fc6["bias"][::4], "conv_fc7": fc7["bias"][::4]}
    return {
        name: {"conv": {"kernel": kernel, "bias": biases[name]}}
        for name, kernel in kernels.items()
    }
