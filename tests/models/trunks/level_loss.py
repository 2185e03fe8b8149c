"""A loss of a trunk's levels, for tests of gradients."""

import jax.numpy as jnp


def level_loss(trunk, image, stats):
    """Returns a function: params -> (sum of squares of all levels, updates)."""

    def loss(params):
        levels, updates = trunk.apply(
            {"params": params, "batch_stats": stats},
            image,
            train=True,
            mutable=["batch_stats"],
        )
        return sum(jnp.sum(level**2) for level in levels), updates

    return loss
