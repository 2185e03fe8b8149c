"""Attention: sums weighted by the similarity of queries and keys.

Each of R queries is compared with each of T keys: S = scale Q K^T, and P is the softmax
of S over T, or S / T. At 640 x 640 pixels S of the shallowest level is an array of
6400 x 2100 per image, the largest of the network. The form `blocks` holds S of one
block of queries only, and recomputes it in the backward pass.

The first `own` of the T positions always exist. Later ones belong to reference images
(models/references.py), which may be absent. The sums over both parts are computed
apart and combined by their weights: in float32, with all references absent, the result
is that of the first part to the bit.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.errors import InputError

FORMS = ("auto", "plain", "blocks", "cudnn")
# Most channels per head that cuDNN's flash attention supports.
_CUDNN_CHANNELS, _CUDNN_CHANNELS_HOPPER = 128, 256
# Similarity of absent positions: no other one is near it, and its gradient is zero.
_ABSENT = -1e30


def similarities(Q: Array, K: Array, scale: Array | float) -> Array:
    """Computes S = scale Q K^T, float32 [B, R, T], of Q [B, R, C] and K [B, T, C]."""
    S = jnp.einsum("brc,btc->brt", Q, K, preferred_element_type=jnp.float32)
    return S * scale


def mask_absent(S: Array, present: Array | None) -> Array:
    """Returns similarities [B, R, T] with the lowest value at absent positions.

    Args:
      S: float32 [B, R, T].
      present: bool [B, T], or None if all positions are present.
    """
    return S if present is None else jnp.where(present[:, None], S, _ABSENT)


def weights(S: Array, softmax: bool, present: Array | None = None) -> Array:
    """Computes P of S: its softmax, or else S over the number of positions.

    Args:
      S: float32 [B, R, T].
      softmax: whether P is a softmax.
      present: bool [B, T], or None if all positions are present. P is zero at absent
        ones; one position must be present.
    """
    if present is None:
        return jax.nn.softmax(S, axis=-1) if softmax else S / S.shape[-1]
    if softmax:
        return jax.nn.softmax(mask_absent(S, present), axis=-1)
    count = jnp.sum(present, axis=1, dtype=S.dtype)
    return jnp.where(present[:, None], S, 0.0) / count[:, None, None]


def center(x: Array, present: Array | None = None, own: int = 0) -> Array:
    """Subtracts the mean over present positions from [B, T, C], in float32.

    Args:
      x: [B, T, C].
      present: bool [B, T], or None if all positions are present.
      own: number of positions that come first and are present; for `present`.
    """
    centered = x.astype(jnp.float32)
    if present is None:
        mean = jnp.mean(centered, axis=1, keepdims=True)
    else:
        # Without references, this is the mean of the own positions to the bit.
        others = jnp.where(present[:, own:, None], centered[:, own:], 0.0)
        count = jnp.sum(present, axis=1, dtype=jnp.float32)[:, None, None]
        mean = jnp.mean(centered[:, :own], axis=1, keepdims=True) * (own / count)
        mean += jnp.sum(others, axis=1, keepdims=True) / count
    return (centered - mean).astype(x.dtype)


def weighted_sum(
    Q: Array,
    K: Array,
    V: Array,
    scale: Array | float,
    *,
    softmax: bool,
    form: str,
    block: int,
    present: Array | None = None,
    own: int = 0,
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
      present: bool [B, T], false for positions of absent references; None if all
        positions are the image's own.
      own: number of own positions, which come first and are present; for `present`.

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
        return _flash(Q, K, V, scale, present)

    def one_block(Q: Array, K: Array, V: Array) -> Array:
        if present is None:
            S = similarities(Q, K, scale)
            return _sum(weights(S, softmax), V)
        return _sum_of_parts(Q, K, V, scale, softmax, present, own)

    if form == "plain" or Q.shape[1] <= block:
        return one_block(Q, K, V)
    return _in_blocks(one_block, Q, K, V, block)


def _sum(P: Array, V: Array) -> Array:
    return jnp.einsum("brt,btc->brc", P.astype(V.dtype), V)


def _sum_of_parts(
    Q: Array,
    K: Array,
    V: Array,
    scale: Array | float,
    softmax: bool,
    present: Array,
    own: int,
) -> Array:
    """Computes Z from the own positions and from those of references."""
    S = similarities(Q, K[:, :own], scale)
    Z = _sum(weights(S, softmax), V[:, :own]).astype(jnp.float32)
    others = present[:, own:]
    S_others = mask_absent(similarities(Q, K[:, own:], scale), others)
    if softmax:
        Z_others = _sum(weights(S_others, softmax), V[:, own:]).astype(jnp.float32)
        # The barrier keeps the program of Z the one without references.
        kept = jax.lax.optimization_barrier((S, S_others))
        first, second = (jax.nn.logsumexp(s, axis=-1, keepdims=True) for s in kept)
        share = jax.nn.sigmoid(second - first)  # Zero if all references are absent.
        Z = (1 - share) * Z + share * Z_others
    else:
        S_others = jnp.where(others[:, None], S_others, 0.0) / own
        Z_others = _sum(S_others, V[:, own:]).astype(jnp.float32)
        count = own + jnp.sum(others, axis=1, dtype=jnp.float32)
        Z = (Z + Z_others) * (own / count)[:, None, None]
    return Z.astype(V.dtype)


def _in_blocks(
    compute: Callable[[Array, Array, Array], Array],
    Q: Array,
    K: Array,
    V: Array,
    block: int,
) -> Array:
    batch, queries, channels = Q.shape
    count = math.ceil(queries / block)
    size = 8 * math.ceil(queries / count / 8)  # Complete rows of a TPU's registers.
    padded = jnp.pad(Q, ((0, 0), (0, count * size - queries), (0, 0)))
    blocks = jnp.moveaxis(padded.reshape(batch, count, size, channels), 1, 0)
    # The gradients of all blocks are summed in float32, whatever V's type.
    K32, V32 = K.astype(jnp.float32), V.astype(jnp.float32)

    def one_block(Q: Array) -> Array:
        return compute(Q, K32.astype(K.dtype), V32.astype(V.dtype))

    # prevent_cse: nothing in a loop could be merged with what is recomputed.
    Z = jax.lax.map(jax.checkpoint(one_block, prevent_cse=False), blocks)
    return jnp.moveaxis(Z, 0, 1).reshape(batch, count * size, -1)[:, :queries]


def _flash(
    Q: Array, K: Array, V: Array, scale: Array | float, present: Array | None
) -> Array:
    Q = (Q.astype(jnp.float32) * scale).astype(Q.dtype)
    Q, K, V = (x[:, :, None] for x in (Q, K, V))
    mask = None if present is None else present[:, None, None]
    Z = jax.nn.dot_product_attention(
        Q, K, V, mask=mask, scale=1.0, implementation="cudnn"
    )
    return Z[:, :, 0]


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
