"""The borrowing blocks against loops over the paper's equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.errors import InputError
from borrow_det.models import borrowing, detector
from borrow_det.models import context as context_lib
from tests.models.loops import (
    CHANNELS,
    embed_by_loop,
    match_by_loop,
    random_variables,
)

SHAPES = ((3, 4, 6), (2, 2, 7), (1, 2, 3))  # Level maps, shallow to deep.


@pytest.fixture(scope="module")
def levels():
    rng = np.random.default_rng(0)
    return [rng.normal(1, 1, (2, *shape)).astype(np.float32) for shape in SHAPES]


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("similarity", borrowing.SIMILARITIES)
@pytest.mark.parametrize("n", [0, 1])
def test_matching_and_representing_equal_the_equations(levels, n, similarity, center):
    shallow, deeper = levels[n], levels[n + 1 :]
    matching = borrowing.FeatureMatchingBlock(CHANNELS, similarity, center)
    variables = random_variables(matching, shallow, deeper)
    found = jax.jit(matching.apply)(variables, shallow, deeper)
    P = match_by_loop(variables["params"], shallow, deeper, similarity, center)
    scores = np.array(found.scores)
    np.testing.assert_allclose(scores, P, rtol=1e-4, atol=1e-5)
    if similarity == "dot_product":
        P = jax.nn.softmax(scores * P.shape[-1], axis=-1)
    else:
        np.testing.assert_allclose(scores.sum(axis=-1), 1, rtol=1e-6)
    rows = np.array([[0, len(P[0]) - 1]] * len(P), np.int32)
    chosen = jax.nn.softmax(found.similarities(rows), axis=-1)
    np.testing.assert_allclose(chosen, P[:, rows[0]], rtol=1e-4, atol=1e-5)

    representing = borrowing.FeatureRepresentingBlock(CHANNELS)
    variables = random_variables(representing, found, deeper)
    Z = representing.apply(variables, found, deeper)
    V = embed_by_loop(variables["params"]["g"], deeper)
    expected = np.zeros(Z.shape)
    for b, r, t in np.ndindex(scores.shape):
        expected[b, r] += float(scores[b, r, t]) * V[b, t]
    np.testing.assert_allclose(Z, expected, rtol=1e-4, atol=1e-4)


def test_only_cosine_has_a_temperature_and_it_starts_at_the_field(levels):
    for similarity in borrowing.SIMILARITIES:
        module = borrowing.FeatureMatchingBlock(CHANNELS, similarity, temperature=7.0)
        key = jax.random.key(0, impl="rbg")
        params = jax.jit(module.init)(key, levels[0], levels[1:])["params"]
        if similarity == "cosine":
            np.testing.assert_allclose(params["log_temperature"], np.log(7), rtol=1e-6)
        elif similarity == "query_independent":
            assert set(params) == {"phi", "w"}
            assert not params["w"].any()  # Average pooling at the start.
        else:
            assert set(params) == {"theta", "phi"}


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("similarity", borrowing.SIMILARITIES)
def test_gradients_are_finite_at_zero_descriptors(similarity, center):
    zeros = [np.zeros((1, *shape), np.float32) for shape in SHAPES]
    module = borrowing.FeatureMatchingBlock(CHANNELS, similarity, center)
    variables = random_variables(module, zeros[0], zeros[1:])
    for block in {"theta", "phi"} & set(variables["params"]):
        for conv in variables["params"][block].values():
            conv["bias"][:] = 0  # As initialised: every query and key is zero.

    def loss(variables, shallow, deeper):
        found = module.apply(variables, shallow, deeper)
        rows = jnp.zeros((1, 1), jnp.int32)
        return found.similarities(rows)[0, 0, 0] + jnp.sum(found.scores**2)

    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(
        variables, zeros[0], zeros[1:]
    )
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    if similarity != "dot_product":
        P = module.apply(variables, zeros[0], zeros[1:]).scores
        np.testing.assert_allclose(P, 1 / P.shape[-1], rtol=1e-6)


def test_cosine_bounds_the_gradient_of_keys_of_length_zero(levels):
    zeros = [np.zeros_like(level) for level in levels[1:]]
    module = borrowing.FeatureMatchingBlock(CHANNELS, "cosine", False)
    variables = random_variables(module, levels[0], zeros)
    for conv in variables["params"]["phi"].values():
        conv["bias"][:] = 0  # Every key is zero: relu's descriptors, no bias yet.
    variables["params"]["log_temperature"] *= 0

    def first_score(keys):
        return jnp.log(module.apply(variables, levels[0], keys).scores[0, 0, 0])

    gradient = jax.grad(first_score)(zeros)
    # A thousandth is the least length that counts as one; kernels are about 1.
    assert 10 < max(np.abs(leaf).max() for leaf in gradient) < 1e4


def test_normalized_queries_and_keys_ignore_the_scale_of_descriptors(levels):
    shallow, deeper = levels[0], levels[1:]
    module = borrowing.FeatureMatchingBlock(CHANNELS, "scaled", normalize=True)
    variables = random_variables(module, shallow, deeper)
    P = module.apply(variables, shallow, deeper).scores
    plain = borrowing.FeatureMatchingBlock(CHANNELS, "scaled")

    def standardized(x):
        centered = x - x.mean(axis=-1, keepdims=True)
        return centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + 1e-5)

    by_hand = plain.apply(
        variables, standardized(shallow), [standardized(x) for x in deeper]
    ).scores
    np.testing.assert_allclose(P, by_hand, rtol=1e-3, atol=1e-5)
    moved = module.apply(variables, 3 * shallow + 1, [7 * x - 2 for x in deeper]).scores
    np.testing.assert_allclose(P, moved, rtol=1e-3, atol=1e-4)


def test_centering_removes_what_all_positions_share(levels):
    shallow, deeper = levels[0], levels[1:]
    module = borrowing.FeatureMatchingBlock(CHANNELS, "embedded_gaussian", True)
    variables = random_variables(module, shallow, deeper)
    P = module.apply(variables, shallow, deeper).scores
    shifted = module.apply(
        variables, shallow + 3, [level - 5 for level in deeper]
    ).scores
    # One constant for all levels' keys, whose embeddings differ, would not vanish:
    # with a single deeper level it does.
    alone = module.apply(variables, shallow, deeper[:1])
    moved = module.apply(variables, shallow + 3, [deeper[0] - 5])
    np.testing.assert_allclose(moved.scores, alone.scores, rtol=1e-3, atol=1e-5)
    assert np.abs(shifted - P).max() > 0.01


def test_fusion_equals_the_equation(levels):
    X, rng = levels[0], np.random.default_rng(2)
    Z = rng.normal(size=(2, 12, CHANNELS)).astype(np.float32)
    D = rng.normal(size=X.shape).astype(np.float32)
    module = borrowing.FeatureFusionBlock()
    variables = random_variables(module, X, Z, D)
    W = variables["params"]["W"]
    expected = np.empty_like(X)
    for b, y, x in np.ndindex(X.shape[:3]):
        both = np.concatenate([X[b, y, x], Z[b, y * X.shape[2] + x]])
        fused = both @ W["kernel"][0, 0] + W["bias"]
        expected[b, y, x] = X[b, y, x] + np.maximum(fused, 0)
    apply = module.apply
    np.testing.assert_allclose(apply(variables, X, Z, None), expected, atol=1e-5)
    np.testing.assert_allclose(apply(variables, X, Z, D), expected + D, atol=1e-5)
    np.testing.assert_allclose(apply({}, X, None, D), X + D, atol=1e-6)
    np.testing.assert_array_equal(apply({}, X, None, None), X)


def test_deconvolution_doubles_and_crops_the_far_sides():
    rng = np.random.default_rng(3)
    deeper = rng.normal(size=(2, 2, 3, 4)).astype(np.float32)
    like = np.zeros((2, 3, 5, 6), np.float32)  # Odd: the maps are rounded up.
    module = context_lib.Deconvolution()
    variables = random_variables(module, deeper, like)
    kernel = variables["params"]["deconv"]["kernel"]
    bias = variables["params"]["deconv"]["bias"]
    D = module.apply(variables, deeper, like)
    assert D.shape == like.shape
    for b, y, x in np.ndindex(D.shape[:3]):
        # Each deeper position makes the four that lie on it; flax's kernels of
        # transposed convolutions run backwards.
        tap = kernel[1 - y % 2, 1 - x % 2]
        expected = deeper[b, y // 2, x // 2] @ tap + bias
        np.testing.assert_allclose(D[b, y, x], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [2, 4])
def test_deconvolution_spreads_a_position_evenly_around_itself(kernel):
    deeper = np.zeros((1, 4, 5, 1), np.float32)
    deeper[0, 1, 3] = 1
    like = np.zeros((1, 8, 10, 1), np.float32)
    module = context_lib.Deconvolution(kernel, zero_init=True)
    params = module.init(jax.random.key(0), deeper, like)["params"]["deconv"]
    params["kernel"] += 1
    D = module.apply({"params": {"deconv": params}}, deeper, like)
    expected = np.zeros((8, 10), np.float32)
    margin = kernel // 2 - 1
    expected[2 - margin : 4 + margin, 6 - margin : 8 + margin] = 1
    np.testing.assert_array_equal(D[0, ..., 0], expected)


def deconvolve_by_loop(deeper, kernel, bias, stride):
    """Adds the kernel around each deeper position: [h * stride, w * stride]."""
    height, width = deeper.shape[:2]
    reach = [(size - s) // 2 for size, s in zip(kernel.shape, stride, strict=False)]
    D = np.tile(bias, (height * stride[0], width * stride[1], 1))
    for y, x in np.ndindex(height, width):
        for row, column in np.ndindex(kernel.shape[:2]):
            i = y * stride[0] + row - reach[0]
            j = x * stride[1] + column - reach[1]
            if 0 <= i < D.shape[0] and 0 <= j < D.shape[1]:
                # flax's kernels of transposed convolutions run backwards.
                D[i, j] += deeper[y, x] @ kernel[::-1, ::-1][row, column]
    return D


# Sizes of the shallow and the deeper map; stride of each axis; the rows that are kept.
FITTED = [
    ((3, 3), (1, 1), (3, 3), [0, 1, 2]),  # SSD300's last two levels.
    ((5, 5), (3, 3), (2, 2), [0, 1, 2, 3, 4]),  # Its fourth and fifth.
    ((2, 5), (1, 2), (2, 3), [0, 1]),
    ((7, 2), (2, 1), (4, 2), [0, 1, 2, 3, 4, 5, 6]),
    ((1, 1), (1, 1), (2, 2), [0]),
    # 8 from 6 is no halving: of the 12 rows the nearest, up to the last but one.
    ((8, 4), (6, 2), (2, 2), [0, 2, 3, 5, 6, 8, 9, 11]),
    ((4, 4), (4, 2), (2, 2), [1, 3, 5, 7]),
]


@pytest.mark.parametrize("kernel_size", [2, 4])
@pytest.mark.parametrize(("shallow", "small", "stride", "rows"), FITTED)
def test_deconvolution_fits_any_two_maps(kernel_size, shallow, small, stride, rows):
    rng = np.random.default_rng(6)
    deeper = rng.normal(size=(2, *small, 3)).astype(np.float32)
    like = np.zeros((2, *shallow, 4), np.float32)
    module = context_lib.Deconvolution(kernel_size)
    variables = random_variables(module, deeper, like)
    kernel, bias = (variables["params"]["deconv"][name] for name in ("kernel", "bias"))
    assert kernel.shape[:2] == tuple(kernel_size + s - 2 for s in stride)
    D = module.apply(variables, deeper, like)
    for image, found in zip(deeper, D, strict=True):
        expected = deconvolve_by_loop(image, kernel, bias, stride)
        expected = expected[rows, : shallow[1]]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def neck_output(pyramid, **fields):
    neck = borrowing.BorrowingNeck(channels=CHANNELS, heads="both", **fields)
    variables = random_variables(neck, pyramid)
    fused = jax.jit(neck.apply)(variables, pyramid)
    for y, of_boxes in zip(fused.classes, fused.boxes, strict=True):
        np.testing.assert_array_equal(y, of_boxes)
    return variables.get("params", {}), fused.classes, fused.matchings


@pytest.fixture(scope="module")
def pyramid():
    """Maps that halve, rounded up, as the trunk's do."""
    rng = np.random.default_rng(4)
    shapes = ((5, 6, 4), (3, 3, 6), (2, 2, 5), (1, 1, 3))
    return [rng.normal(0, 1, (2, *shape)).astype(np.float32) for shape in shapes]


def fuse(X, Z, D, params):
    both = np.concatenate([X, Z.reshape(*X.shape[:3], -1)], axis=-1)
    W = params["W"]
    return X + np.maximum(both @ W["kernel"][0, 0] + W["bias"], 0) + D


@pytest.mark.parametrize("after_context", [False, True])
def test_with_heads_class_boxes_see_the_context_and_nothing_borrowed(
    pyramid, after_context
):
    fields = {"channels": CHANNELS, "after_context": after_context}
    neck = borrowing.BorrowingNeck(heads="class", **fields)
    variables = random_variables(neck, pyramid)
    fused = jax.jit(neck.apply)(variables, pyramid)
    plain = borrowing.BorrowingNeck(enabled=False)
    params = {k: v for k, v in variables["params"].items() if k.startswith("context")}
    unborrowed = jax.jit(plain.apply)({"params": params}, pyramid).classes
    for n in range(4):
        np.testing.assert_allclose(fused.boxes[n], unborrowed[n], rtol=1e-6)
    both = borrowing.BorrowingNeck(heads="both", **fields)
    expected = jax.jit(both.apply)(variables, pyramid).classes
    for n in range(4):
        np.testing.assert_allclose(fused.classes[n], expected[n], rtol=1e-6)
        assert np.allclose(fused.classes[n], fused.boxes[n]) == (n == 3)


@pytest.mark.parametrize("context_from", ["X", "Y"])
def test_neck_borrows_from_deeper_levels_and_adds_the_next_as_context(
    pyramid, context_from
):
    params, Y, matchings = neck_output(pyramid, context_from=context_from)
    np.testing.assert_array_equal(Y[3], pyramid[3])
    assert sorted(matchings) == [0, 1, 2]
    for n in range(3):
        X, deeper = pyramid[n], pyramid[n + 1 :]
        P = match_by_loop(params[f"fmb{n + 1}"], X, deeper, "cosine", True)
        np.testing.assert_allclose(matchings[n].scores, P, rtol=1e-3, atol=1e-5)
        Z = P @ embed_by_loop(params[f"frb{n + 1}"]["g"], deeper)
        below = {"X": pyramid, "Y": Y}[context_from][n + 1]
        D = context_lib.Deconvolution().apply(
            {"params": params[f"context{n + 1}"]}, below, X
        )
        expected = fuse(X, Z.astype(np.float32), D, params[f"ffb{n + 1}"])
        np.testing.assert_allclose(Y[n], expected, rtol=1e-3, atol=1e-3)


def test_deconvolved_source_matches_against_the_deconvolved_map(pyramid):
    for context in (True, False):
        params, Y, matchings = neck_output(
            pyramid, source="deconvolved", levels=(0,), context=context
        )
        X = pyramid[0]
        D = context_lib.Deconvolution().apply(
            {"params": params["context1"]}, pyramid[1], X
        )
        D = np.asarray(D)
        P = match_by_loop(params["fmb1"], X, [D], "cosine", True)
        np.testing.assert_allclose(matchings[0].scores, P, rtol=1e-3, atol=1e-5)
        Z = P @ embed_by_loop(params["frb1"]["g"], [D])
        expected = fuse(X, Z.astype(np.float32), D if context else 0, params["ffb1"])
        np.testing.assert_allclose(Y[0], expected, rtol=1e-3, atol=1e-3)


def test_source_same_is_a_non_local_block(pyramid):
    X = pyramid[0]
    params, Y, matchings = neck_output(
        pyramid, source="same", levels=(0,), context=False, value_channels=7
    )
    P = match_by_loop(params["fmb1"], X, [X], "cosine", True)
    np.testing.assert_allclose(matchings[0].scores, P, rtol=1e-3, atol=1e-5)
    Z = P @ embed_by_loop(params["frb1"]["g"], [X])
    assert Z.shape[-1] == 7
    expected = fuse(X, Z.astype(np.float32), 0, params["ffb1"])
    np.testing.assert_allclose(Y[0], expected, rtol=1e-3, atol=1e-3)


def test_borrowing_after_the_context_borrows_for_their_sum(pyramid):
    params, Y, matchings = neck_output(pyramid, levels=(0,), after_context=True)
    D = context_lib.Deconvolution().apply(
        {"params": params["context1"]}, pyramid[1], pyramid[0]
    )
    X = np.asarray(pyramid[0] + D)
    P = match_by_loop(params["fmb1"], X, pyramid[1:], "cosine", True)
    np.testing.assert_allclose(matchings[0].scores, P, rtol=1e-3, atol=1e-4)
    Z = P @ embed_by_loop(params["frb1"]["g"], pyramid[1:])
    expected = fuse(X, Z.astype(np.float32), 0, params["ffb1"])
    np.testing.assert_allclose(Y[0], expected, rtol=1e-3, atol=1e-3)
    # The other levels: context alone, as without borrowing.
    for n in (1, 2):
        D = context_lib.Deconvolution().apply(
            {"params": params[f"context{n + 1}"]}, pyramid[n + 1], pyramid[n]
        )
        np.testing.assert_allclose(Y[n], pyramid[n] + D, rtol=1e-4, atol=1e-4)


def test_only_the_chosen_deeper_levels_lend(pyramid):
    params, _, matchings = neck_output(pyramid, levels=(0, 1), from_levels=(3, 2))
    for n in (0, 1):
        P = match_by_loop(
            params[f"fmb{n + 1}"], pyramid[n], pyramid[2:], "cosine", True
        )
        np.testing.assert_allclose(matchings[n].scores, P, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("from_levels", [(1,), (0, 3), (2, 4)])
def test_invalid_from_levels_raise_an_error(pyramid, from_levels):
    neck = borrowing.BorrowingNeck(levels=(1,), from_levels=from_levels)
    with pytest.raises(InputError, match=r"borrow\.from_levels is \("):
        jax.eval_shape(neck.init, jax.random.key(0), pyramid)


@pytest.mark.parametrize(
    "fields",
    [
        {"source": "same", "from_levels": (1,)},
        {"after_context": True, "context": False},
    ],
)
def test_fields_without_effect_raise_an_error(pyramid, fields):
    neck = borrowing.BorrowingNeck(**fields)
    with pytest.raises(InputError, match=r"borrow\.(from_levels|after_context)"):
        jax.eval_shape(neck.init, jax.random.key(0), pyramid)


@pytest.mark.parametrize("chosen", [(0,), (1,), (2, 0), ()])
def test_only_the_chosen_levels_borrow(pyramid, chosen):
    params, Y, matchings = neck_output(pyramid, levels=chosen, context=False)
    assert set(matchings) == set(chosen)
    blocks = {f"{block}{n + 1}" for n in chosen for block in ("fmb", "frb", "ffb")}
    assert set(params) == blocks if chosen else params == {}
    for n, (x, y) in enumerate(zip(pyramid, Y, strict=True)):
        assert np.array_equal(x, y) == (n not in chosen)


def test_initial_context_is_zero_unless_it_is_matched_against(pyramid):
    def context_kernels(**fields):
        neck = borrowing.BorrowingNeck(channels=CHANNELS, levels=(0, 1), **fields)
        # The rbg generator compiles fastest.
        key = jax.random.key(0, impl="rbg")
        params = jax.jit(neck.init)(key, pyramid)["params"]
        return [
            bool(np.any(params[f"context{n}"]["deconv"]["kernel"])) for n in (1, 2, 3)
        ]

    assert context_kernels(zero_init_context=True) == [False, False, False]
    assert context_kernels(zero_init_context=False) == [True, True, True]
    assert context_kernels(source="deconvolved") == [True, True, False]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("similarity", "cos"),
        ("source", "shallower"),
        ("context_from", "Z"),
        ("heads", "box"),
    ],
)
def test_unknown_values_raise_an_error_with_their_field(pyramid, field, value):
    neck = borrowing.BorrowingNeck(**{field: value})
    with pytest.raises(InputError, match=rf"borrow\.{field} is '{value}'"):
        jax.eval_shape(neck.init, jax.random.key(0), pyramid)


def test_the_deepest_level_cannot_borrow(pyramid):
    neck = borrowing.BorrowingNeck(levels=(0, 3))
    with pytest.raises(InputError, match=r"borrow\.levels"):
        jax.eval_shape(neck.init, jax.random.key(0), pyramid)


@pytest.fixture(scope="module")
def detectors():
    """(plain SSD, the full model, its random variables, an image), of odd sizes."""
    config = base.get_config()
    config.model.width = 1 / 64
    config.model.l2_scales = (8.0, 5.0, 0.0, 0.0)
    full = detector.build_borrow_net(config, num_classes=2)
    config.borrow.enabled = config.borrow.context = False
    plain = detector.build_borrow_net(config, num_classes=2)
    rng = np.random.default_rng(5)
    image = rng.uniform(0, 255, (2, 72, 90, 3)).astype(np.float32)
    return plain, full, random_variables(full, image)["params"], image


def without_neck(params):
    return {name: block for name, block in params.items() if name != "neck"}


def test_without_neck_there_are_the_parameters_of_trunk_and_heads(detectors):
    plain, _, params, image = detectors
    shapes = jax.eval_shape(plain.init, jax.random.key(0), image)["params"]
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(
        jnp.shape, without_neck(params)
    )
    names = {"trunk", "l2_1", "l2_2", *(f"head{n}" for n in (1, 2, 3, 4))}
    assert set(shapes) == names


def test_with_zero_fusion_and_context_outputs_equal_plain_ssd_exactly(detectors):
    plain, full, params, image = detectors

    def silence(path, leaf):
        last = path[0].key == "neck" and {"W", "deconv"} & {k.key for k in path}
        return np.zeros_like(leaf) if last else leaf

    silenced = jax.tree_util.tree_map_with_path(silence, params)
    expected = jax.jit(plain.apply)({"params": without_neck(params)}, image)
    for variables, equal in ((silenced, True), (params, False)):
        found = jax.jit(full.apply)({"params": variables}, image)
        for name in ("logits", "offsets"):
            same = np.array_equal(getattr(found, name), getattr(expected, name))
            assert same == equal
    assert np.isfinite(expected.logits).all()
