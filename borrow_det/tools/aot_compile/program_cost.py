"""FLOPs of a traced program's convolutions and matrix products.

The compiler's count is not used: it counts the body of a loop once, and on a GPU it
omits convolutions that a library computes.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

# Side of a TPU's matrix unit, and rows of its registers.
_UNIT, _ROWS = 128, 8


class Products(NamedTuple):
    """FLOPs of convolutions and matrix products; a multiply-add counts as two.

    Attributes:
      flops: FLOPs by definition, without the zeros with which a convolution pads or
        dilates its input.
      padded: FLOPs of a 128 x 128 matrix unit. The longest of the three sides of a
        product is padded to a multiple of 8, the others to multiples of 128. For a tap
        of a convolution, the sides are positions, input channels and output channels.
    """

    flops: int
    padded: int

    @property
    def wasted(self) -> float:
        """Share of padding in the FLOPs of the matrix unit, in [0, 1)."""
        return 1 - self.flops / self.padded if self.padded else 0.0


def products(function: Callable, *args: Any) -> Products:
    """Counts the FLOPs of a function's convolutions and matrix products.

    The body of a loop counts as often as it runs, if that is known when it is traced
    (`scan`, `map`, `fori_loop`), else once. A `cond` counts as its cheapest branch, and
    a choice by platform as the default branch. Kernels of libraries, such as cuDNN's
    attention, do not count.

    Args:
      function: function to trace.
      *args: its arguments, arrays or `jax.ShapeDtypeStruct`s.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    # Unused results are not computed, such as the value of a function next to its
    # gradient.
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _sum(jaxpr)


def _sum(jaxpr: core.Jaxpr) -> Products:
    flops = padded = 0
    for equation in jaxpr.eqns:
        count = _COUNTS.get(equation.primitive.name, _inner)(equation)
        flops, padded = flops + count.flops, padded + count.padded
    return Products(flops, padded)


def _inner(equation: core.JaxprEqn) -> Products:
    """Counts the programs inside an equation, such as a jitted function or a loop."""
    counts = [_sum(jaxpr) for jaxpr in _jaxprs(equation.params)]
    name = equation.primitive.name
    if not counts:
        return Products(0, 0)
    if equation.params.get("branches_platforms"):
        return counts[-1]
    if name == "cond":
        return Products(*(min(numbers) for numbers in zip(*counts, strict=True)))
    times = 1
    if name == "scan":
        times = equation.params["length"]
    elif name == "shard_map":  # Shapes inside are per device.
        times = equation.params["mesh"].size
    return Products(*(times * sum(numbers) for numbers in zip(*counts, strict=True)))


def _jaxprs(params: dict) -> Iterator[core.Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _shapes(variables: Sequence[Any]) -> list[tuple[int, ...]]:
    return [variable.aval.shape for variable in variables]


def _dot(equation: core.JaxprEqn) -> Products:
    left, right = _shapes(equation.invars)
    contracted, batched = equation.params["dimension_numbers"]
    batch, K = (math.prod(left[i] for i in axes[0]) for axes in (batched, contracted))
    M, N = (math.prod(shape) // (batch * K) for shape in (left, right))
    return Products(2 * batch * M * N * K, 2 * batch * _filled(M, N, K))


def _convolution(equation: core.JaxprEqn) -> Products:
    image, kernel = _shapes(equation.invars)
    (out,) = _shapes(equation.outvars)
    params = equation.params
    numbers = params["dimension_numbers"]
    positions, taps = (
        [shape[i] for i in spec[2:]]
        for shape, spec in ((out, numbers.out_spec), (kernel, numbers.rhs_spec))
    )
    met = math.prod(
        _pairs(image[axis], *rest)
        for axis, *rest in zip(
            numbers.lhs_spec[2:],
            positions,
            taps,
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            strict=True,
        )
    )
    batch, made = (out[i] for i in numbers.out_spec[:2])
    taken = kernel[numbers.rhs_spec[1]]
    groups = params["feature_group_count"] * params["batch_group_count"]
    sides, times = [batch, made // groups, taken], [math.prod(positions)]
    times.append(math.prod(taps))
    # In the gradient of a kernel, the roles of positions and taps are exchanged.
    gradient = times[1] > times[0]
    sides[2 if gradient else 0] *= max(times)
    return Products(
        2 * batch * made * taken * met, 2 * groups * min(times) * _filled(*sides)
    )


def _pairs(
    size: int,
    positions: int,
    taps: int,
    stride: int,
    padding: tuple[int, int],
    dilation: int,
    kernel_dilation: int,
) -> int:
    """Counts the pairs of a position and a tap that read an input along one axis."""
    at = stride * np.arange(positions)[:, None] - padding[0]
    at = at + kernel_dilation * np.arange(taps)
    inside = (at >= 0) & (at <= dilation * (size - 1)) & (at % dilation == 0)
    return int(inside.sum())


def _filled(*sides: int) -> int:
    """Returns the product of the sides, padded as in `Products.padded`."""
    *others, longest = sorted(sides)
    filled = math.prod(-(-side // _UNIT) * _UNIT for side in others)
    return filled * -(-longest // _ROWS) * _ROWS


_COUNTS = {"dot_general": _dot, "conv_general_dilated": _convolution}
