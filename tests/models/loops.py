"""Loops over the paper's equations."""

import jax
import numpy as np

CHANNELS = 5  # Of the embedding.


def random_variables(module, *inputs):
    """Returns random variables; flax would start biases at zero."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda leaf: rng.normal(0, 0.7, leaf.shape).astype(np.float32), shapes
    )


def embed_by_loop(params, maps):
    """Embeds descriptor by descriptor: [B, T, C]."""
    images = []
    for b in range(maps[0].shape[0]):
        rows = []
        for m, level in enumerate(maps):
            kernel = params[f"Conv_{m}"]["kernel"][0, 0]
            bias = params[f"Conv_{m}"]["bias"]
            for y in range(level.shape[1]):
                for x in range(level.shape[2]):
                    rows.append(level[b, y, x] @ kernel + bias)
        images.append(rows)
    return np.array(images)


def match_by_loop(params, shallow, deeper, similarity, center):
    """Computes P, row by row and score by score."""
    K = embed_by_loop(params["phi"], deeper)
    return scores_by_loop(params, shallow, K, similarity, center)


def scores_by_loop(params, shallow, K, similarity, center):
    """Computes P of a map and of keys [B, T, C] that are not centered yet."""
    if similarity == "query_independent":
        positions = shallow.shape[1] * shallow.shape[2]
        Q = np.tile(params["w"], (len(K), positions, 1))
    else:
        Q = embed_by_loop(params["theta"], [shallow])
        Q = Q - Q.mean(axis=1, keepdims=True) if center else Q
    K = K - K.mean(axis=1, keepdims=True) if center else K
    P = np.zeros((*Q.shape[:2], K.shape[1]))
    for b in range(Q.shape[0]):
        for r in range(Q.shape[1]):
            for t in range(K.shape[1]):
                q, k = Q[b, r], K[b, t]
                s = float(q @ k)
                if similarity == "scaled":
                    s /= np.sqrt(CHANNELS)
                elif similarity == "cosine":
                    s *= np.exp(params["log_temperature"])
                    # The only descriptor of its level is zero when centred.
                    s /= np.linalg.norm(q) * np.linalg.norm(k) or 1
                P[b, r, t] = s / K.shape[1] if similarity == "dot_product" else s
            if similarity != "dot_product":
                e = np.exp(P[b, r] - P[b, r].max())
                P[b, r] = e / e.sum()
    return P
