"""The matching of one level: queries, keys, and their scores P."""

import jax.numpy as jnp
from flax import struct
from jax import Array

from borrow_det.ops import attention


@struct.dataclass
class Matching:
    """Queries and keys whose similarities are the matching scores P of a level.

    P itself may be too large to hold (ops/attention.py), so it is computed on request.
    """

    Q: Array  # [B, R, C], or [B, 1, C] if all R descriptors share one query.
    K: Array  # [B, T, C]
    scale: Array | float  # [], factor of Q K^T.
    # Whether P is a softmax; otherwise it is the similarities divided by T.
    softmax: bool = struct.field(pytree_node=False)
    queries: int = struct.field(pytree_node=False)  # R.
    # With references, T = (1 + N) own: bool [B, T], false where a reference is absent.
    present: Array | None = None
    own: int = struct.field(pytree_node=False, default=0)

    @property
    def scores(self) -> Array:
        """P, float32 [B, R, T]; its rows sum to 1 if it is a softmax."""
        S = self._similarities(self.Q)
        P = attention.weights(S, self.softmax, self.present)
        return jnp.broadcast_to(P, (P.shape[0], self.queries, P.shape[2]))

    def similarities(self, rows: Array) -> Array:
        """Computes the similarities of some descriptors with all source positions.

        Args:
          rows: int32 [B, n], indices of descriptors in [0, R).

        Returns:
          float32 [B, n, T], the logits of P's softmax.
        """
        if self.Q.shape[1] == 1:
            S = self._similarities(self.Q)
            S = jnp.broadcast_to(S, (*rows.shape, S.shape[2]))
        else:
            chosen = jnp.take_along_axis(self.Q, rows[..., None], axis=1)
            S = self._similarities(chosen)
        return attention.mask_absent(S, self.present)

    def _similarities(self, Q: Array) -> Array:
        return attention.similarities(Q, self.K, self.scale)

    def represent(self, V: Array, form: str, block: int) -> Array:
        """Computes Z = P V, [B, R, C'], of V [B, T, C']; see attention.weighted_sum."""
        Z = attention.weighted_sum(
            self.Q,
            self.K,
            V,
            self.scale,
            softmax=self.softmax,
            form=form,
            block=block,
            present=self.present,
            own=self.own,
        )
        return jnp.broadcast_to(Z, (Z.shape[0], self.queries, Z.shape[2]))
