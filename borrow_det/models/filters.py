"""The parameters of a 3x3 convolution, for those that run it in a form of their own."""

from collections.abc import Callable

import flax.linen as nn
from jax import Array


class Filters(nn.Module):
    """Those of a 3x3 nn.Conv, by the same names and with the same initial values."""

    channels: int  # Made.
    kernel_init: Callable
    bias_init: Callable | None = nn.initializers.zeros  # None: there is no bias.

    @nn.compact
    def __call__(self, taken: int) -> tuple[Array, Array | None]:
        """Kernel [3, 3, taken, channels] and bias [channels]."""
        kernel = self.param("kernel", self.kernel_init, (3, 3, taken, self.channels))
        if self.bias_init is None:
            return kernel, None
        return kernel, self.param("bias", self.bias_init, (self.channels,))
