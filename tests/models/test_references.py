"""Borrowing from reference images, against loops that leave absent ones out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import quickstart
from borrow_det.errors import InputError
from borrow_det.models import borrowing
from borrow_det.models.detector import build_borrow_net
from borrow_det.models.references import ReferenceImages, ReferenceMaps, deeper_maps
from borrow_det.tasks.task import init_variables
from tests.models.loops import (
    CHANNELS,
    embed_by_loop,
    random_variables,
    scores_by_loop,
)

SHAPES = ((3, 4, 6), (2, 2, 7), (1, 2, 3))  # Level maps, shallow to deep.
FORMS = ("plain", "blocks")
# References 0 and 2 of the first image, and none of the second.
MASK = np.array([[True, False, True], [False, False, False]])


@pytest.fixture(scope="module")
def levels():
    rng = np.random.default_rng(0)
    return [rng.normal(1, 1, (2, *shape)).astype(np.float32) for shape in SHAPES]


@pytest.fixture(scope="module")
def references():
    rng = np.random.default_rng(1)
    maps = [rng.normal(1, 1, (2, 3, *shape)).astype(np.float32) for shape in SHAPES[1:]]
    return ReferenceMaps(tuple(maps), MASK)


def descriptors_by_loop(params, deeper, references, b):
    """Embeds own descriptors and those of present references of image b: [1, T', C]."""
    images = [[level[b][None] for level in deeper]]
    for n in np.flatnonzero(references.mask[b]):
        images.append([level[b, n][None] for level in references.levels])
    return np.concatenate([embed_by_loop(params, maps) for maps in images], axis=1)


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("similarity", borrowing.SIMILARITIES)
def test_sources_of_present_references_follow_the_own_ones(
    levels, references, similarity, center
):
    shallow, deeper = levels[0], levels[1:]
    block = borrowing.FeatureMatchingBlock(CHANNELS, similarity, center)
    variables = random_variables(block, shallow, deeper)
    found = jax.jit(block.apply)(variables, shallow, deeper, references)
    own = sum(level.shape[1] * level.shape[2] for level in deeper)
    positions = np.repeat(np.concatenate([[[True]] * 2, MASK], axis=1), own, axis=1)
    assert found.own == own
    np.testing.assert_array_equal(found.present, positions)

    values = random_variables(
        borrowing.FeatureRepresentingBlock(CHANNELS), found, deeper, references
    )
    scores = np.asarray(found.scores)
    assert not scores[~np.broadcast_to(positions[:, None], scores.shape)].any()
    for b in range(2):
        K = descriptors_by_loop(variables["params"]["phi"], deeper, references, b)
        P = scores_by_loop(
            variables["params"], shallow[b][None], K, similarity, center
        )[0]
        kept = scores[b][:, positions[b]]
        np.testing.assert_allclose(kept, P, rtol=1e-4, atol=1e-5)
        V = descriptors_by_loop(values["params"]["g"], deeper, references, b)[0]
        for form in FORMS:
            block = borrowing.FeatureRepresentingBlock(CHANNELS, form, block=8)
            Z = jax.jit(block.apply)(values, found, deeper, references)
            np.testing.assert_allclose(Z[b], P @ V, rtol=1e-4, atol=1e-4)
        rows = np.array([[0, 5], [0, 5]], np.int32)
        if similarity != "dot_product":  # The matching loss uses a softmax, too.
            logits = jax.nn.softmax(found.similarities(rows), axis=-1)
            np.testing.assert_allclose(logits[b], scores[b, [0, 5]], atol=1e-6)


def neck(similarity="cosine", form="plain", center=True, normalize=False):
    return borrowing.BorrowingNeck(
        similarity=similarity,
        attention=form,
        center=center,
        normalize=normalize,
        channels=8,
        query_block=5,
        levels=(0, 1),
    )


@pytest.mark.parametrize(("form", "center"), [("plain", True), ("blocks", False)])
@pytest.mark.parametrize("similarity", borrowing.SIMILARITIES)
def test_outputs_with_absent_references_are_those_without_to_the_bit(
    levels, references, similarity, form, center
):
    module = neck(similarity, form, center)
    variables = random_variables(module, levels)
    Y = jax.jit(module.apply)(variables, levels).classes
    absent = references._replace(mask=np.zeros_like(MASK))
    with_absent = jax.jit(module.apply)(variables, levels, absent).classes
    for y, same in zip(Y, with_absent, strict=True):
        np.testing.assert_array_equal(y, same)


@pytest.mark.parametrize("similarity", borrowing.SIMILARITIES)
def test_a_reference_equal_to_the_image_doubles_every_source(levels, similarity):
    module = neck(similarity)
    variables = random_variables(module, levels)
    X = [jnp.asarray(x) for x in levels]
    own = tuple(x[:, None] for x in X[1:])
    doubled = ReferenceMaps(own, np.ones((2, 1), bool))
    Y, _, matchings = module.apply(variables, X, doubled)
    alone, _, of_own = module.apply(variables, X)
    for y, same in zip(Y, alone, strict=True):
        np.testing.assert_allclose(y, same, rtol=1e-4, atol=1e-4)
    for n, matching in matchings.items():
        half = np.asarray(of_own[n].scores) / 2
        twice = np.concatenate([half, half], axis=-1)
        np.testing.assert_allclose(matching.scores, twice, rtol=1e-4, atol=1e-6)


def test_an_absent_reference_has_no_influence_and_no_gradient(levels, references):
    module = neck()
    variables = random_variables(module, levels)

    @jax.jit
    def total(maps):
        fused = module.apply(variables, levels, references._replace(levels=maps))
        return sum(jnp.sum(y**2) for y in fused.classes)

    gradient = jax.grad(total)(references.levels)
    for g in gradient:
        assert np.any(g[0, 0])
        assert not np.any(g[0, 1])
        assert not np.any(g[1])
    other = tuple(level.copy() for level in references.levels)
    for level in other:
        level[0, 1] = 7.0
    assert total(other) == total(references.levels)


@pytest.mark.parametrize("source", ["same", "deconvolved"])
def test_other_source_variants_refuse_references(levels, references, source):
    module = neck().clone(source=source)
    with pytest.raises(InputError, match="references need borrow"):
        module.init(jax.random.key(0), levels, references)


@pytest.fixture(scope="module")
def network():
    config = quickstart.get_config()
    config.input_size = (64, 64)
    model = build_borrow_net(config, 4)
    variables = jax.jit(lambda key: init_variables(model, key, (64, 64)))(
        jax.random.key(0, impl="rbg")
    )
    return model, variables


def pictures(*shape):
    return np.random.default_rng(2).uniform(0, 255, shape).astype(np.float32)


def test_a_network_takes_images_or_ready_made_maps(network):
    model, variables = network
    images, others = pictures(2, 64, 64, 3), pictures(2, 3, 64, 64, 3)[:, ::-1]
    direct = jax.jit(model.apply)(
        variables, images, references=ReferenceImages(others, MASK)
    )
    flat = others.reshape(-1, 64, 64, 3)
    X, Y = (model.apply(variables, x, method="maps") for x in (images, flat))
    maps = deeper_maps(Y, MASK)
    assert [level.shape[:2] for level in maps.levels] == [(2, 3)] * 3
    split = model.apply(variables, X, maps, method="predict_maps")
    np.testing.assert_allclose(direct.logits, split.logits, atol=1e-4)
    np.testing.assert_allclose(direct.offsets, split.offsets, atol=1e-4)
    alone = jax.jit(model.apply)(variables, images)
    np.testing.assert_allclose(direct.logits[1], alone.logits[1], atol=1e-5)
    assert np.abs(direct.logits[0] - alone.logits[0]).max() > 1e-3
    none = ReferenceImages(others, np.zeros_like(MASK))
    absent = jax.jit(model.apply)(variables, images, references=none)
    np.testing.assert_array_equal(absent.logits, alone.logits)


def test_batch_statistics_of_training_are_those_of_images_and_references(network):
    model, variables = network
    images, others = pictures(2, 64, 64, 3), pictures(2, 3, 64, 64, 3)
    every = np.concatenate([images, others.reshape(-1, 64, 64, 3)])

    def statistics(*arguments, **options):
        _, updates = model.apply(
            variables, *arguments, train=True, mutable=["batch_stats"], **options
        )
        return jax.tree.leaves(updates["batch_stats"]["trunk"])

    together = statistics(images, references=ReferenceImages(others, MASK))
    for one, other in zip(together, statistics(every), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
