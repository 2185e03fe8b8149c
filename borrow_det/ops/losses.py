"""Losses of classes, of offsets and of matching, as sums that the caller normalizes.

The normalizers are counts over a batch, and a device or a micro-batch sees a part of
it: the caller counts first and divides each sum by the total.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
import optax
from jax import Array

from borrow_det.ops.borrow_targets import BorrowTargets, Lenders

# Descriptors that the matching loss processes together. Images seldom have more that
# count; those that have take longer.
_ROWS = 512


class Similarities(Protocol):
    """A pytree that computes similarities with the T source positions of a level."""

    def similarities(self, rows: Array) -> Array:
        """Returns float32 [B, n, T] for the descriptors `rows`, int32 [B, n]."""


def softmax_cross_entropy(logits: Array, target: Array) -> Array:
    """Computes -log softmax(logits)[target] in float32.

    Args:
      logits: [..., C].
      target: int32 [...].

    Returns:
      float32 [...], in nats.
    """
    # Equal to the last bit to indexing the log-probabilities, as earlier versions did;
    # optax's form for integer labels is not.
    return smoothed_cross_entropy(logits, target, smoothing=0.0)


def smoothed_cross_entropy(logits: Array, label: Array, smoothing: float) -> Array:
    """Computes the cross-entropy with smoothed labels in float32.

    The target is (1 - smoothing) onehot(label) + smoothing / C. Source: Szegedy et al.,
    Rethinking the Inception Architecture for Computer Vision (2016), section 7.

    Args:
      logits: [..., C].
      label: int32 [...].
      smoothing: in [0, 1); 0 gives the plain cross-entropy.

    Returns:
      float32 [...], in nats.
    """
    onehot = jax.nn.one_hot(label, logits.shape[-1], dtype=jnp.float32)
    target = optax.smooth_labels(onehot, smoothing)
    return optax.softmax_cross_entropy(logits.astype(jnp.float32), target)


def mine_hard_negatives(
    loss: Array, negative: Array, count: Array, axis: int = -1
) -> Array:
    """Selects the `count` negatives of largest loss.

    The selection is by rank, not by threshold, so that exactly min(count, negatives)
    are selected. Ties go to the lower index.

    Args:
      loss: float32 [..., A].
      negative: bool [..., A], the candidates.
      count: int [...].
      axis: axis of the anchors.

    Returns:
      bool, of the shape of `loss`.
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
    """Sums the cross-entropy over the positives and mined negatives of one image.

    Args:
      logits: [A, 1 + C], background at index 0.
      target: int32 [A], 1 + label for positives, else 0.
      positive: bool [A].
      ignored: bool [A], anchors that are never mined.
      negatives_per_positive: mined negatives per positive; 3 in SSD.
      min_negatives: smallest number of mined negatives, so that images without
        objects train the background.

    Returns:
      float32 [].
    """
    loss = softmax_cross_entropy(logits, target)
    positives = jnp.sum(positive).astype(jnp.float32)
    wanted = jnp.maximum(positives * negatives_per_positive, min_negatives)
    negative = mine_hard_negatives(
        jax.lax.stop_gradient(loss), ~positive & ~ignored, wanted.astype(jnp.int32)
    )
    return jnp.sum(jnp.where(positive | negative, loss, 0.0))


def sigmoid_focal_loss(
    logits: Array, target: Array, alpha: float, gamma: float
) -> Array:
    """Computes the focal loss -alpha_t (1 - p_t)^gamma log(p_t) of sigmoids in float32.

    p_t is the probability of the target, and alpha_t is alpha for the target 1 and
    1 - alpha for 0. Source: Lin et al., Focal Loss for Dense Object Detection (2017),
    Eq. 5.

    Args:
      logits: [...].
      target: bool [...].
      alpha: weight of the targets 1, in [0, 1].
      gamma: exponent, at least 0; 0 gives the weighted cross-entropy.

    Returns:
      float32 [...], in nats.
    """
    # p_t is the sigmoid of z. Both factors are functions of softplus, whose gradient
    # is finite even where p_t is rounded to 1; that of (1 - p_t)^gamma is not.
    z = jnp.where(target, 1.0, -1.0) * logits.astype(jnp.float32)
    alpha_t = jnp.where(target, alpha, 1 - alpha)
    return alpha_t * jnp.exp(-gamma * jax.nn.softplus(z)) * jax.nn.softplus(-z)


def focal_classification_loss(
    logits: Array, target: Array, ignored: Array, *, alpha: float, gamma: float
) -> Array:
    """Sums the focal loss over all classes of the anchors of one image.

    Args:
      logits: [A, C], without background.
      target: int32 [A], 1 + label for positives, else 0.
      ignored: bool [A], anchors that do not count.
      alpha: see `sigmoid_focal_loss`.
      gamma: see `sigmoid_focal_loss`.

    Returns:
      float32 [].
    """
    # The background, -1, is no class: its row is zero.
    onehot = jax.nn.one_hot(target - 1, logits.shape[-1], dtype=jnp.bool_)
    loss = sigmoid_focal_loss(logits, onehot, alpha, gamma)
    return jnp.sum(jnp.where(ignored[:, None], 0.0, loss))


def localization_loss(offsets: Array, target: Array, positive: Array) -> Array:
    """Sums smooth L1 over the four offsets of the positives of one image.

    Smooth L1 (Fast R-CNN, Eq. 3) is the Huber loss with delta = 1.

    Args:
      offsets: [A, 4], predicted.
      target: float32 [A, 4], encoded boxes.
      positive: bool [A].

    Returns:
      float32 [].
    """
    # Masked before the loss: a target that is not used must not make a NaN gradient.
    error = jnp.where(positive[:, None], offsets.astype(jnp.float32) - target, 0.0)
    # Not optax.huber_loss: rounding changes its gradient of a small error x, which is
    # 1 + (|x| - 1), and a training run would end with other figures.
    size = jnp.abs(error)
    return jnp.sum(jnp.where(size < 1, 0.5 * error * error, size - 0.5))


def source_cross_entropy(S: Array, sources: Array, weight: Array) -> Array:
    """Sums -log of the matching mass on the correct sources over descriptors.

    For a descriptor r with the correct source positions M, this is
    -log sum_{t in M} P[r, t], where P is the softmax of S. If the level does not use a
    softmax (borrow.similarity=dot_product), the loss still does: it teaches the level
    to score sources highest.

    Args:
      S: float32 [R, T], similarities.
      sources: bool [R, T], M of each descriptor.
      weight: bool [R], descriptors that count; each must have a source.

    Returns:
      float32 [].
    """
    # Rows that do not count get every source, which gives a finite value of zero.
    kept = jnp.where(sources | ~weight[:, None], S, -jnp.inf)
    missed = jax.nn.logsumexp(S, axis=1) - jax.nn.logsumexp(kept, axis=1)
    return jnp.sum(jnp.where(weight, missed, 0.0))


def sources_in_most_attended(S: Array, sources: Array, lenders: Lenders) -> Array:
    """Keeps the sources in the lender that has most of each descriptor's attention.

    Of the descriptor's lenders, this one gives the smallest `source_cross_entropy`.

    Args:
      S: float32 [R, T], similarities.
      sources: bool [R, T], positions in any lender of each descriptor.
      lenders: the lenders of each descriptor, [R, L], and positions in them, [L, T].

    Returns:
      bool [R, T].
    """
    S = jax.lax.stop_gradient(S)
    highest = jnp.max(S, axis=1, keepdims=True, where=sources, initial=-jnp.inf)
    mass = jnp.where(sources, jnp.exp(S - highest), 0.0)
    received = mass @ lenders.inside.T.astype(mass.dtype)
    best = jnp.argmax(jnp.where(lenders.lend, received, -1.0), axis=1)
    return sources & lenders.inside[best]


def matching_loss(matching: Similarities, targets: BorrowTargets) -> Array:
    """Sums `source_cross_entropy` over the descriptors of one level and a batch.

    Few descriptors count: those of objects with a lender in the image. They are
    processed in parts, so that all R T similarities are never held.

    Args:
      matching: the matching of the level.
      targets: the targets of the level.

    Returns:
      float32 [].
    """
    batch, descriptors = targets.counts.shape
    if descriptors <= 2 * _ROWS:
        every = jnp.arange(descriptors, dtype=jnp.int32)
        every = jnp.broadcast_to(every, targets.counts.shape)
        return _loss_of_rows(matching, targets, every, targets.counts)
    # Descriptors that count come first.
    order = jnp.argsort(~targets.counts, axis=1, stable=True).astype(jnp.int32)
    counts = jnp.take_along_axis(targets.counts, order, axis=1)

    def parts(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, -descriptors % _ROWS)))
        return jnp.moveaxis(x.reshape(batch, -1, _ROWS), 1, 0)

    rows, counted = parts(order), parts(counts)
    first = _loss_of_rows(matching, targets, rows[0], counted[0])

    def rest(matching: Similarities) -> Array:
        def one_part(part: tuple[Array, Array]) -> Array:
            return _loss_of_rows(matching, targets, *part)

        # prevent_cse: nothing in a loop could be merged with what is recomputed.
        part_loss = jax.checkpoint(one_part, prevent_cse=False)
        return jnp.sum(jax.lax.map(part_loss, (rows[1:], counted[1:])))

    def nothing(matching: Similarities) -> Array:
        del matching
        return jnp.zeros_like(first)

    return first + jax.lax.cond(jnp.any(counted[1]), rest, nothing, matching)


def _loss_of_rows(
    matching: Similarities, targets: BorrowTargets, rows: Array, counted: Array
) -> Array:
    """Computes the loss of descriptors `rows` [B, n], of which `counted` count."""
    objects = jnp.take_along_axis(targets.box_index, rows, axis=1)
    sources = jnp.take_along_axis(targets.sources, objects[..., None], axis=1)
    S = matching.similarities(rows)
    if targets.lenders is not None:
        lend = jnp.take_along_axis(targets.lenders.lend, objects[..., None], axis=1)
        lenders = targets.lenders._replace(lend=lend)
        sources = jax.vmap(sources_in_most_attended)(S, sources, lenders)
    return jnp.sum(jax.vmap(source_cross_entropy)(S, sources, counted))
