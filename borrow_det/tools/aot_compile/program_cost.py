"""FLOPs of a program, from the convolutions and matrix products that it is traced to.

A compiler's own count has the body of a loop once, however often it runs, and on a GPU
none of the convolutions that are a library's.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

# The sides of a TPU's matrix unit, and the rows of its registers.
_UNIT, _ROWS = 128, 8


class Products(NamedTuple):
    """FLOPs of convolutions and products: a multiply-add is two.

    Attributes:
      flops: those of the definition; none with zeros that a convolution pads or dilates
        its input with.
      padded: those of a matrix unit of 128 x 128. Of the three sides of a product (for
        a tap of a convolution: positions, channels taken and channels made) the longest
        passes by in rows of 8, and the others fill multiples of 128; with zeros, too.
    """

    flops: int
    padded: int

    @property
    def wasted(self) -> float:
        """The share of the unit's FLOPs that padding takes."""
        return 1 - self.flops / self.padded if self.padded else 0.0


def products(function: Callable, *args: Any) -> Products:
    """Counts a function's, of arrays or shapes (jax.ShapeDtypeStruct).

    A loop counts as often as it runs, where that is known as it is traced (`scan`,
    `map`, `fori_loop`), or else once; of a choice the cheapest branch, and of one by
    platform that of the platforms without a name. A library's kernel, such as attention
    by cuDNN, has no products to count.
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    # What nobody reads is not computed, such as a value beside its gradient.
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _sum(jaxpr)


def _sum(jaxpr: core.Jaxpr) -> Products:
    flops = padded = 0
    for equation in jaxpr.eqns:
        count = _COUNTS.get(equation.primitive.name, _inner)(equation)
        flops, padded = flops + count.flops, padded + count.padded
    return Products(flops, padded)


def _inner(equation) -> Products:
    """Of what an equation runs, such as a jitted function or a loop."""
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
    elif name == "shard_map":  # Its shapes are those of one device.
        times = equation.params["mesh"].size
    return Products(*(times * sum(numbers) for numbers in zip(*counts, strict=True)))


def _jaxprs(params: dict) -> Iterator[core.Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _dot(equation) -> Products:
    left, right = (v.aval.shape for v in equation.invars)
    contracted, batched = equation.params["dimension_numbers"]
    batch, K = (math.prod(left[i] for i in axes[0]) for axes in (batched, contracted))
    M, N = (math.prod(shape) // (batch * K) for shape in (left, right))
    return Products(2 * batch * M * N * K, 2 * batch * _filled(M, N, K))


def _convolution(equation) -> Products:
    image, kernel = (v.aval.shape for v in equation.invars)
    (out,) = (v.aval.shape for v in equation.outvars)
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
    # In a kernel's gradient the positions are the window, and the taps what is made.
    gradient = times[1] > times[0]
    sides[2 if gradient else 0] *= max(times)
    return Products(
        2 * batch * made * taken * met, 2 * groups * min(times) * _filled(*sides)
    )


def _pairs(size, positions, taps, stride, padding, dilation, kernel_dilation) -> int:
    """How many pairs of a position and a tap meet an input along one axis."""
    at = stride * np.arange(positions)[:, None] - padding[0]
    at = at + kernel_dilation * np.arange(taps)
    inside = (at >= 0) & (at <= dilation * (size - 1)) & (at % dilation == 0)
    return int(inside.sum())


def _filled(*sides: int) -> int:
    *others, longest = sorted(sides)
    filled = math.prod(-(-side // _UNIT) * _UNIT for side in others)
    return filled * -(-longest // _ROWS) * _ROWS


_COUNTS = {"dot_general": _dot, "conv_general_dilated": _convolution}
