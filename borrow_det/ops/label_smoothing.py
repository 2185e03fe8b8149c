"""The loss of classification."""

import jax
import jax.numpy as jnp
from jax import Array


def smoothed_cross_entropy(logits: Array, label: Array, smoothing: float) -> Array:
    """-sum_c q_c log softmax(logits)_c with q = (1 - s) onehot(label) + s / C.

    Szegedy et al., Rethinking the Inception architecture (2016), section 7.

    Args:
      logits: [..., C].
      label: int [...].
      smoothing: s, in [0, 1); 0 is the cross entropy itself.

    Returns:
      float32 [...], in nats.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    own = jnp.take_along_axis(log_p, label[..., None], axis=-1)[..., 0]
    return -(1 - smoothing) * own - smoothing * jnp.mean(log_p, axis=-1)
