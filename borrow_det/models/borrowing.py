"""The paper's three blocks: matching (FMB), representing (FRB), fusion (FFB).

Names follow the paper: X are the trunk's levels, Q and K the embedded descriptors, P
the matching scores, V the encapsulated descriptors, Z the borrowed map, Y the fused
one. A level is a map [B, H, W, C] whose R = H W positions are its descriptors; the
deeper levels' descriptors are concatenated along one axis of T positions.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from borrow_det.errors import InputError, check_choice
from borrow_det.models.context import Deconvolution
from borrow_det.models.layers import unit_vectors
from borrow_det.ops import attention
from borrow_det.ops.convolution import convolve

SIMILARITIES = (
    "embedded_gaussian",
    "scaled",
    "cosine",
    "dot_product",
    "query_independent",
)
SOURCES = ("deeper", "deconvolved", "same")
# Keys of length zero (a relu's) are no directions; this bounds their gradient.
_COSINE_EPSILON = 1e-6


@struct.dataclass
class Matching:
    """How R descriptors of a level match T deeper ones: P, which is seldom computed.

    The whole of P may be too large to hold (ops/attention.py); so this keeps what
    it is made of.
    """

    Q: Array  # [B, R, C], or [B, 1, C] where all R descriptors match alike.
    K: Array  # [B, T, C]
    scale: Array | float  # [], of Q K^T.
    softmax: bool = struct.field(pytree_node=False)  # False: P is divided by T instead.
    queries: int = struct.field(pytree_node=False)  # R.

    @property
    def scores(self) -> Array:
        """P, the weights of the sum that FRB takes, float32 [B, R, T].

        Rows sum to 1 (not those of dot_product).
        """
        P = attention.weights(self._similarities(self.Q), self.softmax)
        return jnp.broadcast_to(P, (P.shape[0], self.queries, P.shape[2]))

    def similarities(self, rows: Array) -> Array:
        """What P's softmax is taken of, for some descriptors.

        Args:
          rows: int32 [B, n], of R.

        Returns:
          float32 [B, n, T].
        """
        if self.Q.shape[1] == 1:
            S = self._similarities(self.Q)
            return jnp.broadcast_to(S, (*rows.shape, S.shape[2]))
        chosen = jnp.take_along_axis(self.Q, rows[..., None], axis=1)
        return self._similarities(chosen)

    def _similarities(self, Q):
        return attention.similarities(Q, self.K, self.scale)

    def represent(self, V: Array, form: str, block: int) -> Array:
        """Z = P V, [B, R, C'], of V [B, T, C']; see attention.weighted_sum."""
        Z = attention.weighted_sum(
            self.Q,
            self.K,
            V,
            self.scale,
            softmax=self.softmax,
            form=form,
            block=block,
        )
        return jnp.broadcast_to(Z, (Z.shape[0], self.queries, Z.shape[2]))


def descriptors(level: Array) -> Array:
    """[B, H, W, C] -> [B, H W, C]."""
    return level.reshape(level.shape[0], -1, level.shape[-1])


def _conv(channels: int, dtype: Any, name: str | None = None) -> nn.Conv:
    """A 1x1 convolution."""
    return nn.Conv(
        channels, (1, 1), dtype=dtype, conv_general_dilated=convolve, name=name
    )


class Embed(nn.Module):
    """1x1 convolutions, one a level, concatenated over positions."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, levels: Sequence[Array]) -> Array:
        """Maps [B, H_m, W_m, C_m] -> [B, sum of H_m W_m, channels]."""
        embedded = [
            descriptors(_conv(self.channels, self.dtype)(level)) for level in levels
        ]
        return jnp.concatenate(embedded, axis=1)


class FeatureMatchingBlock(nn.Module):
    """FMB (3.1): how well each shallow descriptor matches each deeper one.

    Similarity of q and k, after centring over positions if `center` is set:
      embedded_gaussian  q.k (the paper, after non-local networks)
      scaled             q.k / sqrt(C)
      cosine             temperature * cos(q, k), the temperature learned
      dot_product        q.k, divided by T in place of the softmax
      query_independent  w.k, with a learned w in place of the queries: every
                         descriptor receives the same pooled vector, as GCNet's
                         simplified non-local block. The control that cannot match;
                         w starts at zero, which is global average pooling
    """

    channels: int  # C of the embedding.
    similarity: str = "embedded_gaussian"
    center: bool = False
    temperature: float = 10.0  # Initial, of cosine.
    normalize: bool = False  # Layer normalisation of each level before theta and phi.
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, shallow: Array, deeper: Sequence[Array]) -> Matching:
        """[B, H, W, C_n] and maps [B, H_m, W_m, C_m] -> their matching."""
        check_choice("borrow.similarity", self.similarity, SIMILARITIES)
        if self.normalize:
            shallow, *deeper = (_standardize(x) for x in (shallow, *deeper))
        K = Embed(self.channels, self.dtype, name="phi")(deeper)
        K = _center(K) if self.center else K
        queries = shallow.shape[1] * shallow.shape[2]
        if self.similarity == "query_independent":
            return Matching(self._pooling(K), K, 1.0, True, queries)
        Q = Embed(self.channels, self.dtype, name="theta")([shallow])
        Q, K, scale = self._scaled(_center(Q) if self.center else Q, K)
        return Matching(Q, K, scale, self.similarity != "dot_product", queries)

    def _scaled(self, Q, K):
        """Queries, keys, and the scale of their products."""
        if self.similarity != "cosine":
            return Q, K, self.channels**-0.5 if self.similarity == "scaled" else 1.0
        log_temperature = self.param(
            "log_temperature",
            nn.initializers.constant(jnp.log(self.temperature)),
            (),
        )
        Q, K = (unit_vectors(x, _COSINE_EPSILON).astype(self.dtype) for x in (Q, K))
        return Q, K, jnp.exp(log_temperature)

    def _pooling(self, K):
        """One query [B, 1, C] for all descriptors."""
        w = self.param("w", nn.initializers.zeros, (self.channels,))
        return jnp.broadcast_to(w.astype(K.dtype), (K.shape[0], 1, w.size))


def _standardize(x: Array) -> Array:
    """Zero mean and unit variance over channels, without parameters, in float32."""
    return jax.nn.standardize(x.astype(jnp.float32), axis=-1).astype(x.dtype)


def _center(x: Array) -> Array:
    """Subtracts the mean over positions, [B, R, C]; computed in float32."""
    centered = x.astype(jnp.float32)
    centered = centered - jnp.mean(centered, axis=1, keepdims=True)
    return centered.astype(x.dtype)


class FeatureRepresentingBlock(nn.Module):
    """FRB (3.2): Z = P V, each descriptor as a weighted sum of what it matched."""

    channels: int
    form: str = "auto"  # Of the sum: attention.FORMS.
    block: int = 512  # Descriptors of a block, of `blocks`.
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, matching: Matching, deeper: Sequence[Array]) -> Array:
        """A matching and maps of its T positions in all -> [B, R, channels]."""
        check_choice("borrow.attention", self.form, attention.FORMS)
        V = Embed(self.channels, self.dtype, name="g")(deeper)
        return matching.represent(V, self.form, self.block)


class FeatureFusionBlock(nn.Module):
    """FFB (3.3): Y = X + relu(W [X, Z]) + D, without the terms that are switched off.

    W starts at random: behind the relu a zero start would have a zero gradient.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, X: Array, Z: Array | None, D: Array | None) -> Array:
        """X, D [B, H, W, C]; Z [B, R, C'] -> Y [B, H, W, C]."""
        Y = X
        if Z is not None:
            Z = Z.reshape(*X.shape[:-1], -1)
            both = jnp.concatenate([X, Z.astype(X.dtype)], axis=-1)
            W = _conv(X.shape[-1], self.dtype, name="W")
            Y = Y + nn.relu(W(both))
        return Y if D is None else Y + D


class BorrowingNeck(nn.Module):
    """Fuses every level with what it borrows and with its context: {X} -> {Y}.

    Works over any list of levels, shallow to deep; the last is returned as it is
    (Y_N = X_N). The fields are those of `config.borrow`.

    Sources of level n: `deeper`, the levels beyond it (3.1), of those `from_levels` if
    it names any; `deconvolved`, the next one, deconvolved to its size (the paper's
    discussion); `same`, itself: a plain non-local block.
    """

    enabled: bool = True
    context: bool = True
    similarity: str = "cosine"
    center: bool = True
    temperature: float = 10.0
    normalize: bool = False
    channels: int = 0
    value_channels: int = 0
    attention: str = "auto"
    query_block: int = 512
    levels: Sequence[int] = (0, 1, 2)
    source: str = "deeper"
    from_levels: Sequence[int] = ()
    after_context: bool = False
    context_from: str = "X"
    context_kernel: int = 2
    zero_init_context: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, X: Sequence[Array]
    ) -> tuple[tuple[Array, ...], dict[int, Matching]]:
        """Maps X_1..X_N -> (Y_1..Y_N, the matching of each level that borrows)."""
        check_choice("borrow.context_from", self.context_from, ("X", "Y"))
        check_choice("borrow.source", self.source, SOURCES)
        if self.from_levels and self.source != "deeper":
            raise InputError(
                f"borrow.from_levels names deeper levels; borrow.source={self.source} "
                "takes none"
            )
        if self.after_context and not self.context:
            raise InputError("borrow.after_context needs borrow.context")
        if not set(self.levels) <= set(range(len(X) - 1)):
            raise InputError(
                f"borrow.levels is {tuple(self.levels)}; it may name the levels "
                f"0 to {len(X) - 2}, which have deeper ones to borrow from"
            )
        Y = list(X)
        matchings = {}
        # From the deepest on, so that the context can come from the fused map.
        for n in reversed(range(len(X) - 1)):
            deeper = (X if self.context_from == "X" else Y)[n + 1]
            mapped = self._deconvolve(n, deeper, X[n]) if self._needs_map(n) else None
            x, D = X[n], mapped if self.context else None
            if self.after_context and D is not None:
                x, D = x + D, None
            Z = None
            if self.borrows(n):
                Z, matchings[n] = self._borrow(n, x, self._sources(n, X, x, mapped))
            Y[n] = FeatureFusionBlock(self.dtype, name=f"ffb{n + 1}")(x, Z, D)
        return tuple(Y), matchings

    def borrows(self, n: int) -> bool:
        """Whether level n (0-based) borrows."""
        return self.enabled and n in self.levels

    def _needs_map(self, n: int) -> bool:
        return self.context or (self.borrows(n) and self.source == "deconvolved")

    def _deconvolve(self, n: int, deeper: Array, like: Array) -> Array:
        # A map that is matched against must not start at zero.
        matched = self.borrows(n) and self.source == "deconvolved"
        zero = self.zero_init_context and not matched
        block = Deconvolution(
            self.context_kernel, zero, self.dtype, name=f"context{n + 1}"
        )
        return block(deeper, like)

    def _sources(self, n, X, x, mapped) -> list[Array]:
        if self.source == "deconvolved":
            return [mapped]
        if self.source == "same":
            return [x]
        return [X[m] for m in source_levels(self, n, len(X))]

    def _borrow(
        self, n: int, shallow: Array, sources: Sequence[Array]
    ) -> tuple[Array, Matching]:
        channels = self.channels or shallow.shape[-1]
        matching = FeatureMatchingBlock(
            channels,
            self.similarity,
            self.center,
            self.temperature,
            self.normalize,
            self.dtype,
            name=f"fmb{n + 1}",
        )(shallow, sources)
        representing = FeatureRepresentingBlock(
            self.value_channels or channels,
            self.attention,
            self.query_block,
            self.dtype,
            name=f"frb{n + 1}",
        )
        return representing(matching, sources), matching


def source_levels(borrow, n: int, num_levels: int) -> tuple[int, ...]:
    """The levels on whose grids level n's T source positions lie, in order.

    Args:
      borrow: has the fields `source` and `from_levels` of config.borrow.
      n: the level that borrows, from 0.
      num_levels: N.

    Raises:
      InputError: from_levels leaves it none.
    """
    if borrow.source != "deeper":
        return (n,)
    deeper = range(n + 1, num_levels)
    if not borrow.from_levels:
        return tuple(deeper)
    levels = tuple(m for m in deeper if m in borrow.from_levels)
    if not levels or not set(borrow.from_levels) <= set(range(1, num_levels)):
        raise InputError(
            f"borrow.from_levels is {tuple(borrow.from_levels)}; it may name the "
            f"levels 1 to {num_levels - 1}, and needs a deeper one than level {n}, "
            "which borrows"
        )
    return levels
