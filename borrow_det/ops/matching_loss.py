"""The matching loss of a level, over the descriptors that count in it.

These are few: the anchors of an object that has a source in the image. Going through
them alone keeps the loss from being the one thing that needs all R T similarities.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.models.borrowing import Matching
from borrow_det.ops import losses

# Descriptors at a time. Images seldom have more that count; if one has, it takes
# longer.
_ROWS = 512


class BorrowTargets(NamedTuple):
    """What the descriptors of one level should borrow from."""

    sources: Array  # bool [B, G, T]: of each object (ops/matching.borrow_sources).
    index: Array  # int32 [B, R]: each descriptor's object.
    counts: Array  # bool [B, R]: it has an object, and that has a source.


def matching_loss(matching: Matching, targets: BorrowTargets) -> Array:
    """losses.matching_loss of a level's descriptors that count, summed over a batch."""
    batch, descriptors = targets.counts.shape
    if descriptors <= 2 * _ROWS:
        every = jnp.arange(descriptors, dtype=jnp.int32)
        every = jnp.broadcast_to(every, targets.counts.shape)
        return _of_rows(matching, targets, every, targets.counts)
    # Those that count first.
    order = jnp.argsort(~targets.counts, axis=1, stable=True).astype(jnp.int32)
    counts = jnp.take_along_axis(targets.counts, order, axis=1)

    def parts(x):
        x = jnp.pad(x, ((0, 0), (0, -descriptors % _ROWS)))
        return jnp.moveaxis(x.reshape(batch, -1, _ROWS), 1, 0)

    rows, counted = parts(order), parts(counts)
    first = _of_rows(matching, targets, rows[0], counted[0])

    def the_rest(matching):
        def one_part(part):
            return _of_rows(matching, targets, *part)

        # In a loop nothing could be merged with what is computed again.
        one_part = jax.checkpoint(one_part, prevent_cse=False)
        return jnp.sum(jax.lax.map(one_part, (rows[1:], counted[1:])))

    def nothing(matching):
        return jnp.zeros_like(matching.K[0, 0, 0], jnp.float32)

    return first + jax.lax.cond(jnp.any(counted[1]), the_rest, nothing, matching)


def _of_rows(matching, targets, rows, counted):
    """The loss of descriptors `rows` [B, n], of which `counted` count."""
    objects = jnp.take_along_axis(targets.index, rows, axis=1)
    sources = jnp.take_along_axis(targets.sources, objects[..., None], axis=1)
    S = matching.similarities(rows)
    return jnp.sum(jax.vmap(losses.matching_loss)(S, sources, counted))
