"""Attention: sums weighted by the similarity of queries and keys.

Each of R queries is compared with each of T keys: S = scale Q K^T, and P is the softmax
of S over T, or S / T. At 640 x 640 pixels S of the shallowest level is an array of
6400 x 2100 per image, the largest of the network. The form `blocks` holds S of one
block of queries only, and recomputes it in the backward pass.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.errors import InputError

FORMS = ("auto", "plain", "blocks", "cudnn")
# Most channels per head that cuDNN's flash attention supports.
_CUDNN_CHANNELS, _CUDNN_CHANNELS_HOPPER = 128, 256


def similarities(Q: Array, K: Array, scale: Array | float) -> Array:
    """Computes S = scale Q K^T, float32 [B, R, T], of Q [B, R, C] and K [B, T, C]."""
    S = jnp.einsum("brc,btc->brt", Q, K, preferred_element_type=jnp.float32)
    return S * scale


def weights(S: Array, softmax: bool) -> Array:
    """Computes P of S [..., T]: its softmax over T, or else S / T."""
    return jax.nn.softmax(S, axis=-1) if softmax else S / S.shape[-1]


def weighted_sum(
    Q: Array,
    K: Array,
    V: Array,
    scale: Array | float,
    *,
    softmax: bool,
    form: str,
    block: int,
) -> Array:
    """Computes Z = P V.

    Args:
      Q: [B, R, C].
      K: [B, T, C].
      V: [B, T, C'].
      scale: [], factor of Q K^T.
      softmax: whether P is a softmax; otherwise it is S / T.
      form: one of FORMS, equal up to rounding: `plain` (two products and all of S),
        `blocks` (the same block by block, S recomputed for the gradient), `cudnn`
        (flash attention on NVIDIA GPUs, in bfloat16 or float16) or `auto` (cudnn if it
        supports the arrays on this device, else blocks).
      block: most queries per block; with fewer queries, `blocks` is `plain`.

    Returns:
      [B, R, C'], of V's type.

    Raises:
      InputError: `form` is cudnn, which does not support the arrays or the device.
    """
    if form == "auto":
        form = "cudnn" if softmax and _cudnn_supports(Q, V) else "blocks"
    if form == "cudnn" and not (softmax and _cudnn_supports(Q, V)):
        raise InputError(
            "borrow.attention is cudnn; that needs an NVIDIA GPU, dtype=bfloat16, "
            "embeddings as wide as values (borrow.channels, borrow.value_channels) and "
            "a similarity with a softmax"
        )
    if form == "cudnn":
        return _flash(Q, K, V, scale)
    if form == "plain" or Q.shape[1] <= block:
        return _plain(Q, K, V, scale, softmax)
    return _in_blocks(Q, K, V, scale, softmax, block)


def _plain(Q: Array, K: Array, V: Array, scale: Array | float, softmax: bool) -> Array:
    P = weights(similarities(Q, K, scale), softmax)
    return jnp.einsum("brt,btc->brc", P.astype(V.dtype), V)


def _in_blocks(
    Q: Array, K: Array, V: Array, scale: Array | float, softmax: bool, block: int
) -> Array:
    batch, queries, channels = Q.shape
    count = math.ceil(queries / block)
    size = 8 * math.ceil(queries / count / 8)  # Complete rows of a TPU's registers.
    padded = jnp.pad(Q, ((0, 0), (0, count * size - queries), (0, 0)))
    blocks = jnp.moveaxis(padded.reshape(batch, count, size, channels), 1, 0)
    # The gradients of all blocks are summed in float32, whatever V's type.
    K32, V32 = K.astype(jnp.float32), V.astype(jnp.float32)

    def one_block(Q: Array) -> Array:
        return _plain(Q, K32.astype(K.dtype), V32.astype(V.dtype), scale, softmax)

    # prevent_cse: nothing in a loop could be merged with what is recomputed.
    Z = jax.lax.map(jax.checkpoint(one_block, prevent_cse=False), blocks)
    return jnp.moveaxis(Z, 0, 1).reshape(batch, count * size, -1)[:, :queries]


def _flash(Q: Array, K: Array, V: Array, scale: Array | float) -> Array:
    Q = (Q.astype(jnp.float32) * scale).astype(Q.dtype)
    heads = (x[:, :, None] for x in (Q, K, V))
    return jax.nn.dot_product_attention(*heads, scale=1.0, implementation="cudnn")[
        :, :, 0
    ]


def _cudnn_supports(Q: Array, V: Array) -> bool:
    """Returns whether cuDNN has a kernel for the arrays on this device."""
    if jax.default_backend() != "gpu" or Q.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    capability = getattr(jax.devices()[0], "compute_capability", "")
    major, _, minor = capability.partition(".")
    if not (major.isdigit() and minor.isdigit()):  # Not an NVIDIA GPU.
        return False
    hopper = int(major) >= 9
    widest = _CUDNN_CHANNELS_HOPPER if hopper else _CUDNN_CHANNELS
    channels, of_values = Q.shape[-1], V.shape[-1]
    return int(major) >= 8 and channels == of_values <= widest and channels % 8 == 0
