"""Borrowing of features from deeper levels: matching, representing and fusion.

The three blocks of section 3 of the paper (arXiv 2505.00044), and the neck that applies
them to every level. Level n of the trunk is a map X_n [B, H, W, C]; its R = H W
positions are its descriptors. The descriptors of the deeper levels m > n are
concatenated along one axis of T positions.

  FMB  Q = theta(X_n), K = concat phi_m(X_m), P = softmax(similarity(Q, K))
  FRB  V = concat g_m(X_m), Z = P V
  FFB  Y_n = X_n + relu(W [X_n, Z]) + D(deeper)

theta, phi, g and W are 1x1 convolutions, and D is a deconvolution (context.py).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from borrow_det.errors import InputError, check_choice
from borrow_det.models.context import Deconvolution
from borrow_det.models.layers import Conv, unit_vectors
from borrow_det.models.matching import Matching
from borrow_det.models.references import ReferenceMaps
from borrow_det.models.source_levels import SOURCES, source_levels
from borrow_det.ops import attention

SIMILARITIES = (
    "embedded_gaussian",
    "scaled",
    "cosine",
    "dot_product",
    "query_independent",
)
HEADS = ("both", "class")
# Bounds the gradient of keys of length zero, which a relu makes.
_COSINE_EPSILON = 1e-6


class Embed(nn.Module):
    """One 1x1 convolution per level, concatenated over images and positions."""

    channels: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, levels: Sequence[Array], references: ReferenceMaps | None = None
    ) -> Array:
        """Turns maps into descriptors: the image's own, then those of each reference.

        Args:
          levels: maps [B, H_m, W_m, C_m].
          references: the same levels of N references, or None.

        Returns:
          [B, (1 + N) T, channels], T = sum of H_m W_m.
        """
        convs = [Conv(self.channels, dtype=self.dtype) for _ in levels]

        def embed(maps: Sequence[Array]) -> Array:
            parts = [
                conv(x).reshape(x.shape[0], -1, self.channels)
                for conv, x in zip(convs, maps, strict=True)
            ]
            return jnp.concatenate(parts, axis=1)

        own = embed(levels)
        if references is None:
            return own
        others = embed([x.reshape(-1, *x.shape[2:]) for x in references.levels])
        others = others.reshape(own.shape[0], -1, self.channels)
        return jnp.concatenate([own, others], axis=1)


class FeatureMatchingBlock(nn.Module):
    """FMB (section 3.1): matches each shallow descriptor with every deeper one.

    Similarities of a query q and a key k, which are centered over positions if `center`
    is set:
      embedded_gaussian  q.k (the paper, after non-local networks)
      scaled             q.k / sqrt(C)
      cosine             temperature * cos(q, k), with a learned temperature
      dot_product        q.k, divided by T instead of a softmax
      query_independent  w.k, with a learned w instead of the queries: every descriptor
                         receives the same pooled vector, as in GCNet's simplified
                         non-local block. A control that cannot match; w starts at
                         zero, which is global average pooling
    """

    channels: int  # C of the embedding.
    similarity: str = "embedded_gaussian"
    center: bool = False
    temperature: float = 10.0  # Initial temperature of cosine.
    normalize: bool = False  # Layer normalization of each level before theta and phi.
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        shallow: Array,
        deeper: Sequence[Array],
        references: ReferenceMaps | None = None,
    ) -> Matching:
        """Matches a map with deeper maps, also those of references.

        Args:
          shallow: [B, H, W, C_n].
          deeper: maps [B, H_m, W_m, C_m].
          references: the same levels of N references, or None.

        Raises:
          InputError: `similarity` is not one of SIMILARITIES.
        """
        check_choice("borrow.similarity", self.similarity, SIMILARITIES)
        if self.normalize:
            shallow, *deeper = map(_standardize_map, (shallow, *deeper))
            if references is not None:
                references = references.map_levels(_standardize_map)
        K = Embed(self.channels, self.dtype, name="phi")(deeper, references)
        queries = shallow.shape[1] * shallow.shape[2]
        own = sum(x.shape[1] * x.shape[2] for x in deeper)
        present = None if references is None else references.present()
        K = attention.center(K, present, own) if self.center else K
        if self.similarity == "query_independent":
            return Matching(self._pooling(K), K, 1.0, True, queries, present, own)
        Q = Embed(self.channels, self.dtype, name="theta")([shallow])
        Q, K, scale = self._scaled(attention.center(Q) if self.center else Q, K, own)
        softmax = self.similarity != "dot_product"
        return Matching(Q, K, scale, softmax, queries, present, own)

    def _scaled(
        self, Q: Array, K: Array, own: int
    ) -> tuple[Array, Array, Array | float]:
        """Returns queries, keys, and the scale of their products."""
        if self.similarity != "cosine":
            return Q, K, self.channels**-0.5 if self.similarity == "scaled" else 1.0
        log_temperature = self.param(
            "log_temperature",
            nn.initializers.constant(jnp.log(self.temperature)),
            (),
        )
        parts = jnp.split(K, [own], axis=1) if own < K.shape[1] else [K]
        # Apart from those of references, own keys are to the bit those without any.
        Q, *parts = (
            unit_vectors(x, _COSINE_EPSILON).astype(self.dtype) for x in (Q, *parts)
        )
        K = jnp.concatenate(parts, axis=1)
        return Q, K, jnp.exp(log_temperature)

    def _pooling(self, K: Array) -> Array:
        """Returns one query [B, 1, C] for all descriptors."""
        w = self.param("w", nn.initializers.zeros, (self.channels,))
        return jnp.broadcast_to(w.astype(K.dtype), (K.shape[0], 1, w.size))


def _standardize_map(x: Array) -> Array:
    """Gives [..., C] zero mean and unit variance over channels, in float32."""
    return jax.nn.standardize(x.astype(jnp.float32), axis=-1).astype(x.dtype)


class FeatureRepresentingBlock(nn.Module):
    """FRB (section 3.2): Z = P V, a weighted sum of deeper descriptors."""

    channels: int
    form: str = "auto"  # Form of the weighted sum, one of attention.FORMS.
    block: int = 512  # Descriptors per block of the form `blocks`.
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        matching: Matching,
        deeper: Sequence[Array],
        references: ReferenceMaps | None = None,
    ) -> Array:
        """Represents R descriptors by maps of T positions in total.

        Args:
          matching: matching of the level with `deeper` and `references`.
          deeper: maps [B, H_m, W_m, C_m].
          references: the same levels of references, or None.

        Returns:
          Z, [B, R, channels].

        Raises:
          InputError: `form` is not one of attention.FORMS, or cannot run here.
        """
        check_choice("borrow.attention", self.form, attention.FORMS)
        V = Embed(self.channels, self.dtype, name="g")(deeper, references)
        return matching.represent(V, self.form, self.block)


class FeatureFusionBlock(nn.Module):
    """FFB (section 3.3): Y = X + relu(W [X, Z]) + D, or fewer terms.

    W starts at random: behind the relu a zero start would have a zero gradient.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, X: Array, Z: Array | None, D: Array | None) -> Array:
        """Fuses a level with what it borrows and with its context.

        Args:
          X: [B, H, W, C].
          Z: [B, R, C'], or None to leave the second term out.
          D: [B, H, W, C], or None to leave the third term out.

        Returns:
          Y, [B, H, W, C].
        """
        Y = X
        if Z is not None:
            Z = Z.reshape(*X.shape[:-1], -1)
            both = jnp.concatenate([X, Z.astype(X.dtype)], axis=-1)
            W = Conv(X.shape[-1], dtype=self.dtype, name="W")
            Y = Y + nn.relu(W(both))
        return Y if D is None else Y + D


class FusedMaps(NamedTuple):
    """The levels after fusion.

    Attributes:
      classes: Y_1 to Y_N for the class logits.
      boxes: the maps for the box offsets: X_n + D_n, without what level n borrows, or
        with heads="both" Y_1 to Y_N.
      matchings: matching of each level (from 0) that borrows.
    """

    classes: tuple[Array, ...]
    boxes: tuple[Array, ...]
    matchings: dict[int, Matching]


class BorrowingNeck(nn.Module):
    """Fuses every level with what it borrows and with its context: {X} to {Y}.

    Takes any number of levels, shallow to deep; the last one is returned unchanged
    (Y_N = X_N). The fields are those of `config.borrow`.

    Source positions of level n, by `source`:
      deeper       the deeper levels (section 3.1), or those in `from_levels`
      deconvolved  the next level, deconvolved to the size of level n (the paper's
                   discussion)
      same         level n itself, which makes a plain non-local block
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
    heads: str = "class"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, X: Sequence[Array], references: ReferenceMaps | None = None
    ) -> FusedMaps:
        """Turns the maps X_1 to X_N into Y_1 to Y_N.

        Args:
          X: maps [B, H_n, W_n, C_n], shallow to deep.
          references: the levels 2 to N of reference images, whose positions are source
            positions, too; or None.

        Returns:
          The fused maps, of the same shapes.

        Raises:
          InputError: a field has an unknown value, or contradicts another one.
        """
        check_choice("borrow.context_from", self.context_from, ("X", "Y"))
        check_choice("borrow.source", self.source, SOURCES)
        check_choice("borrow.heads", self.heads, HEADS)
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
        if references is not None and self.source != "deeper":
            raise InputError(
                "references need borrow.source=deeper, and it is "
                f"borrow.source={self.source}"
            )
        Y, boxes = list(X), list(X)
        matchings = {}
        # Deepest level first, so that the context can come from the fused map.
        for n in reversed(range(len(X) - 1)):
            deeper = (X if self.context_from == "X" else Y)[n + 1]
            upsampled = None
            if self._needs_deconvolution(n):
                upsampled = self._deconvolve(n, deeper, X[n])
            x, D = X[n], upsampled if self.context else None
            if self.after_context and D is not None:
                x, D = x + D, None
            Z = None
            if self.borrows(n):
                sources = self._sources(n, X, x, upsampled, references)
                Z, matchings[n] = self._borrow(n, x, *sources)
            Y[n] = FeatureFusionBlock(self.dtype, name=f"ffb{n + 1}")(x, Z, D)
            boxes[n] = Y[n]
            if self.heads == "class":
                boxes[n] = x if D is None else x + D
        return FusedMaps(tuple(Y), tuple(boxes), matchings)

    def borrows(self, n: int) -> bool:
        """Returns whether level n (from 0) borrows."""
        return self.enabled and n in self.levels

    def _needs_deconvolution(self, n: int) -> bool:
        return self.context or (self.borrows(n) and self.source == "deconvolved")

    def _deconvolve(self, n: int, deeper: Array, like: Array) -> Array:
        # Keys must not start at zero.
        matched = self.borrows(n) and self.source == "deconvolved"
        zero = self.zero_init_context and not matched
        block = Deconvolution(
            self.context_kernel, zero, self.dtype, name=f"context{n + 1}"
        )
        return block(deeper, like)

    def _sources(
        self,
        n: int,
        X: Sequence[Array],
        x: Array,
        upsampled: Array | None,
        references: ReferenceMaps | None,
    ) -> tuple[list[Array], ReferenceMaps | None]:
        if self.source == "deconvolved":
            assert upsampled is not None  # See _needs_deconvolution.
            return [upsampled], None
        if self.source == "same":
            return [x], None
        levels = source_levels(self, n, len(X))
        if references is not None:  # Their levels begin with the second one.
            references = references.choose([m - 1 for m in levels])
        return [X[m] for m in levels], references

    def _borrow(
        self,
        n: int,
        shallow: Array,
        sources: Sequence[Array],
        references: ReferenceMaps | None,
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
        )(shallow, sources, references)
        representing = FeatureRepresentingBlock(
            self.value_channels or channels,
            self.attention,
            self.query_block,
            self.dtype,
            name=f"frb{n + 1}",
        )
        return representing(matching, sources, references), matching
