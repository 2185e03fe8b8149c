"""Frozen stages: which layers they have, no gradient, and stored statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.errors import InputError
from borrow_det.models.trunks import TRUNKS, vgg
from borrow_det.tasks import TASKS
from tests.models.trunks.level_loss import level_loss

FIELDS = dict(width=1 / 32, stages=(1, 2, 1, 1, 1), group_size=2)


@pytest.mark.parametrize(
    ("trunk", "later"),
    [
        ("vgg16", ["conv_fc6 conv_fc7", "conv6_1 conv6_2"]),
        (
            "ssd300",
            ["conv_fc6 conv_fc7", *(f"conv{n}_1 conv{n}_2" for n in (6, 7, 8, 9))],
        ),
        (
            "ssd512",
            ["conv_fc6 conv_fc7", *(f"conv{n}_1 conv{n}_2" for n in (6, 7, 8, 9, 10))],
        ),
    ],
)
def test_stages_are_those_of_vgg_then_fc6_and_fc7_then_each_deeper_level(trunk, later):
    stages = TRUNKS[trunk](stages=(2, 2, 3, 1, 1)).stage_layers()
    expected = ["conv1_1 conv1_2", "conv2_1 conv2_2", "conv3_1 conv3_2 conv3_3"]
    expected += ["conv4_1", "conv5_1", *later]
    assert [" ".join(stage) for stage in stages] == expected


@pytest.mark.parametrize(
    ("task", "trunk", "heads"),
    [
        ("detection", "vgg16", {"neck", *(f"head{n}" for n in (1, 2, 3, 4))}),
        ("classification", "vgg16", {"fc8"}),
    ],
)
def test_the_stages_of_a_task_have_every_parameter_but_neck_and_heads(
    task, trunk, heads
):
    config = base.get_config()
    config.model.width, config.model.trunk = 1 / 32, trunk
    config.input_size = (193, 193)
    made = TASKS[task](config, 3)
    params = jax.eval_shape(made.init, jax.random.key(0))["params"]
    modules = {name for name in params if name != "trunk"}
    modules |= {f"trunk/{name}" for name in params["trunk"]}
    listed = [name for stage in made.stages for name in stage]
    assert len(listed) == len(set(listed))
    assert modules - set(listed) == heads
    assert set(listed) <= modules


@pytest.mark.parametrize(
    ("task", "trunk", "frozen", "message"),
    [
        ("detection", "vgg16", 8, "7 stages, the last with conv6_1 and conv6_2: .* 7"),
        ("detection", "ssd300", 11, "10 stages, the last with conv9_1 and conv9_2"),
        ("classification", "vgg16", 7, "6 stages, the last with fc6 and fc7: .* 6"),
    ],
)
def test_more_frozen_stages_than_there_are_are_refused(task, trunk, frozen, message):
    config = base.get_config()
    config.model.trunk, config.model.frozen = trunk, frozen
    if trunk == "ssd300":
        config.input_size = (300, 300)
        config.model.l2_scales = (0.0,) * 6
        config.anchors.strides = (8, 16, 32, 64, 100, 300)
        config.anchors.sizes = (30.0,) * 6
        config.anchors.aspect_ratios = ((1.0,),) * 6
    with pytest.raises(InputError, match=f"^model.frozen is {frozen}; .* {message}"):
        TASKS[task](config, 3)
    config.model.frozen -= 1
    TASKS[task](config, 3)


def gradient_of(frozen, norm="group", **fields):
    """(layers frozen, gradient of all parameters, statistics before and after)."""
    trunk = vgg.VGG16(**FIELDS, norm=norm, frozen=frozen, **fields)
    image = np.random.default_rng(0).normal(size=(2, 40, 48, 3)).astype(np.float32)
    variables = jax.jit(trunk.init)(jax.random.key(0), image)
    # Other than the statistics of any batch.
    stats = jax.tree.map(lambda x: x + 0.5, variables.get("batch_stats", {}))

    loss = level_loss(trunk, image, stats)
    gradient, updates = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    layers = {name for stage in trunk.stage_layers()[:frozen] for name in stage}
    return layers, gradient, stats, updates.get("batch_stats", {})


@pytest.fixture(scope="module")
def gradient_of_all():
    return gradient_of(0)[1]


@pytest.mark.parametrize(
    ("frozen", "fields"),
    [(1, {}), (3, {"remat": True}), (5, {}), (6, {}), (7, {})],
)
def test_a_frozen_stage_has_no_gradient_and_the_others_keep_theirs(
    frozen, fields, gradient_of_all
):
    layers, gradient, _, _ = gradient_of(frozen, **fields)
    assert len(layers) == (0, 1, 3, 4, 5, 6, 8, 10)[frozen]
    for name, layer in gradient.items():
        for leaf, expected in zip(
            jax.tree.leaves(layer), jax.tree.leaves(gradient_of_all[name]), strict=True
        ):
            assert np.any(expected)
            if name in layers:
                assert not np.any(leaf), name
            else:
                scale = np.abs(expected).max()
                np.testing.assert_allclose(leaf, expected, atol=1e-5 * scale)


@pytest.mark.parametrize("pairs", [False, True])
def test_frozen_batch_norm_uses_and_keeps_the_stored_statistics(pairs):
    # Inside of flax, ranks are promoted.
    with jax.numpy_rank_promotion("allow"):
        layers, _, before, after = gradient_of(3, "batch", pairs=pairs)
        for name in before:
            for leaf, kept in zip(
                jax.tree.leaves(after[name]), jax.tree.leaves(before[name]), strict=True
            ):
                assert np.array_equal(leaf, kept) == (name in layers), name

        # Frozen as a whole, it computes in training what it does in inference.
        image = np.random.default_rng(1).normal(size=(2, 40, 48, 3)).astype(np.float32)
        trunk = vgg.VGG16(**FIELDS, norm="batch", frozen=7, pairs=pairs)
        variables = jax.jit(trunk.init)(jax.random.key(0), image)
        variables["batch_stats"] = before

        def levels(train):
            return trunk.apply(variables, image, train, mutable=["batch_stats"])[0]

        jax.tree.map(np.testing.assert_array_equal, levels(True), levels(False))


def test_a_frozen_stage_is_not_computed_again_for_a_gradient():
    """With remat, the maps of the other stages are."""

    def convolutions(frozen, remat):
        trunk = vgg.VGG16(**FIELDS, frozen=frozen, remat=remat)
        image = np.zeros((1, 40, 48, 3), np.float32)
        params = jax.eval_shape(trunk.init, jax.random.key(0), image)["params"]

        def loss(params):
            return sum(jnp.sum(x) for x in trunk.apply({"params": params}, image, True))

        lowered = jax.jit(jax.grad(loss)).lower(params)
        return lowered.as_text().count("stablehlo.convolution")

    # The five stages have one, two, one, one and one.
    assert convolutions(0, True) - convolutions(0, False) == 6
    assert convolutions(3, True) - convolutions(3, False) == 2
