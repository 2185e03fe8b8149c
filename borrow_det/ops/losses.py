"""SSD's multibox loss and the matching loss, as sums to be normalised by the caller.

Sums, because the normalisers are counts over the whole batch, which a micro-batch or a
device does not see: the caller counts first and divides each sum by the total.
"""

import jax
import jax.numpy as jnp
from jax import Array


def softmax_cross_entropy(logits: Array, target: Array) -> Array:
    """-log softmax(logits)[target]: [..., C], int [...] -> float32 [...]."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.take_along_axis(log_p, target[..., None], axis=-1)[..., 0]


def smooth_l1(x: Array) -> Array:
    """0.5 x^2 where |x| < 1, |x| - 0.5 beyond, elementwise (Fast R-CNN, Eq. 3)."""
    size = jnp.abs(x)
    return jnp.where(size < 1, 0.5 * x * x, size - 0.5)


def mine_hard_negatives(
    loss: Array, negative: Array, count: Array, axis: int = -1
) -> Array:
    """The `count` negatives of largest loss: bool of the shape of `loss`.

    By rank, not by threshold, so that exactly min(count, negatives) are taken; ties go
    to the lower index.

    Args:
      loss: float32 [..., A].
      negative: bool [..., A], the candidates.
      count: int [...].
      axis: the anchors' axis.
    """
    order = jnp.argsort(jnp.where(negative, -loss, jnp.inf), axis=axis, stable=True)
    rank = jnp.argsort(order, axis=axis)
    return negative & (rank < jnp.expand_dims(count, axis))


def classification_loss(
    logits: Array,
    target: Array,
    positive: Array,
    ignored: Array,
    *,
    negatives_per_positive: float,
    min_negatives: int,
) -> Array:
    """Cross-entropy summed over positives and mined negatives of one image.

    Args:
      logits: [A, 1 + C], background at 0.
      target: int32 [A], 1 + label where positive, 0 elsewhere.
      positive: bool [A].
      ignored: bool [A], never mined.
      negatives_per_positive: SSD's 3.
      min_negatives: mined in an image with fewer positives, or none, so that empty
        images train the background.
    """
    loss = softmax_cross_entropy(logits, target)
    positives = jnp.sum(positive).astype(jnp.float32)
    wanted = jnp.maximum(positives * negatives_per_positive, min_negatives)
    negative = mine_hard_negatives(
        jax.lax.stop_gradient(loss), ~positive & ~ignored, wanted.astype(jnp.int32)
    )
    return jnp.sum(jnp.where(positive | negative, loss, 0.0))


def localization_loss(offsets: Array, target: Array, positive: Array) -> Array:
    """Smooth L1 summed over the four offsets of the positives of one image.

    Args:
      offsets: float [A, 4], predicted.
      target: float32 [A, 4], encoded boxes.
      positive: bool [A].
    """
    # Masked before the loss: a target that is not used must not make a NaN gradient.
    error = jnp.where(positive[:, None], offsets.astype(jnp.float32) - target, 0.0)
    return jnp.sum(smooth_l1(error))


def matching_loss(S: Array, sources: Array, weight: Array) -> Array:
    """-log of the matching mass on the right sources, summed over descriptors.

    DESIGN section 1: for a descriptor r with sources M, -log sum_{t in M} P[r, t].

    Args:
      S: float32 [R, T], of which FMB's P is the softmax over T; of dot_product, whose P
        is not, the same is asked of the softmax: it is taught to score sources highest.
      sources: bool [R, T], M of each descriptor.
      weight: bool [R], the descriptors that count; each must have a source.
    """
    # Rows that do not count get every source: a finite value of zero.
    kept = jnp.where(sources | ~weight[:, None], S, -jnp.inf)
    missed = jax.nn.logsumexp(S, axis=1) - jax.nn.logsumexp(kept, axis=1)
    return jnp.sum(jnp.where(weight, missed, 0.0))
