"""Sums weighted by similarity, with or without holding all similarities at once.

Each of R queries is compared with each of T keys: S = scale Q K^T, and P is the
softmax of S over T, or S / T. At 640 x 640 pixels the shallowest level makes S an array
of 6400 x 2100 an image, the largest of the whole network: `blocks` holds that of some
queries at a time, and computes it again in the backward pass.
"""

import math

import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.errors import InputError

FORMS = ("auto", "plain", "blocks", "cudnn")
# What flash attention takes, by the library that `jax.nn.dot_product_attention` calls.
_CUDNN_CHANNELS, _CUDNN_CHANNELS_HOPPER = 128, 256


def similarities(Q: Array, K: Array, scale: Array | float) -> Array:
    """S = scale Q K^T, float32 [B, R, T], of Q [B, R, C] and K [B, T, C]."""
    S = jnp.einsum("brc,btc->brt", Q, K, preferred_element_type=jnp.float32)
    return S * scale


def weights(S: Array, softmax: bool) -> Array:
    """P [..., T]: rows that sum to 1, or without `softmax` S / T."""
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
    """Z = P V.

    Args:
      Q: [B, R, C].
      K: [B, T, C].
      V: [B, T, C'].
      scale: [], multiplies Q K^T.
      softmax: whether P is the softmax of that over T, or else that over T in number.
      form: one of FORMS, equal but for rounding: plain (two products and all of S),
        blocks (the same for `block` queries at a time, S computed again for the
        gradient), cudnn (flash attention, on NVIDIA's GPUs, in bfloat16 or float16) or
        auto (cudnn where it runs, else blocks).
      block: queries of a block, at most; so many or fewer are one, as in plain.

    Returns:
      [B, R, C'], of V's type.

    Raises:
      InputError: it cannot be cudnn, here or of these.
    """
    if form == "auto":
        form = "cudnn" if softmax and _cudnn_takes(Q, V) else "blocks"
    if form == "cudnn" and not (softmax and _cudnn_takes(Q, V)):
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


def _plain(Q, K, V, scale, softmax):
    P = weights(similarities(Q, K, scale), softmax)
    return jnp.einsum("brt,btc->brc", P.astype(V.dtype), V)


def _in_blocks(Q, K, V, scale, softmax, block):
    batch, queries, channels = Q.shape
    count = math.ceil(queries / block)
    size = 8 * math.ceil(queries / count / 8)  # Whole rows of the registers of a TPU.
    padded = jnp.pad(Q, ((0, 0), (0, count * size - queries), (0, 0)))
    blocks = jnp.moveaxis(padded.reshape(batch, count, size, channels), 1, 0)
    # The gradients of all blocks are summed in float32, whatever V's type.
    K32, V32 = K.astype(jnp.float32), V.astype(jnp.float32)

    def one_block(Q):
        return _plain(Q, K32.astype(K.dtype), V32.astype(V.dtype), scale, softmax)

    # In a loop nothing could be merged with what is computed again.
    Z = jax.lax.map(jax.checkpoint(one_block, prevent_cse=False), blocks)
    return jnp.moveaxis(Z, 0, 1).reshape(batch, count * size, -1)[:, :queries]


def _flash(Q, K, V, scale):
    Q = (Q.astype(jnp.float32) * scale).astype(Q.dtype)
    heads = (x[:, :, None] for x in (Q, K, V))
    return jax.nn.dot_product_attention(*heads, scale=1.0, implementation="cudnn")[
        :, :, 0
    ]


def _cudnn_takes(Q, V):
    """Whether cuDNN has a kernel for these, here."""
    if jax.default_backend() != "gpu" or Q.dtype not in (jnp.bfloat16, jnp.float16):
        return False
    capability = getattr(jax.devices()[0], "compute_capability", "")
    major, _, minor = capability.partition(".")
    if not (major.isdigit() and minor.isdigit()):  # Not NVIDIA's.
        return False
    hopper = int(major) >= 9
    widest = _CUDNN_CHANNELS_HOPPER if hopper else _CUDNN_CHANNELS
    channels, of_values = Q.shape[-1], V.shape[-1]
    return int(major) >= 8 and channels == of_values <= widest and channels % 8 == 0
