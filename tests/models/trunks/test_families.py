"""Properties of every trunk: sizes, stages, freezing, rematerialization."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.errors import InputError
from borrow_det.models import detector
from borrow_det.models.trunks import TRUNKS
from borrow_det.tasks import TASKS
from tests.models.trunks.level_loss import level_loss

# One small network of each family, and how many stages it has.
SMALL = {
    "resnet18": (dict(width=1 / 16, stages=(1, 1, 1, 1), group_size=2), 6),
    "resnet50": (dict(width=1 / 32, stages=(1, 1, 1, 1), group_size=2), 6),
    "convnext_tiny": (dict(width=1 / 24, stages=(1, 1, 1, 1)), 6),
    "vit_small": (dict(width=1 / 24, stages=(2,)), 4),
}
# Parameters with a classifier of 1000 classes: torchvision's documentation, and timm's
# for ViT-S.
PUBLISHED = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "convnext_tiny": 28_589_128,
    "convnext_small": 50_223_688,
    "vit_small": 22_050_664,
    "vit_base": 86_567_656,
}

pytestmark = pytest.mark.usefixtures("flax_promotes")


@pytest.fixture
def flax_promotes():
    """Flax's normalization layers promote ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


def config_of(name, task="detection"):
    config = base.get_config()
    config.task = task
    config.model.trunk, config.model.norm = name, TRUNKS[name].norm
    return config


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_classifier_has_the_published_number_of_parameters(name):
    task = TASKS["classification"](config_of(name, "classification"), 1000)
    task.input_size = (32, 32)
    params = jax.eval_shape(task.init, jax.random.key(0))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("size", [(64, 128), (97, 61), (16, 7)])
def test_levels_have_the_input_size_over_their_strides_rounded_up(name, size):
    shapes = detector.map_shapes(name, size)
    assert shapes == tuple(
        (-(-size[0] // stride), -(-size[1] // stride)) for stride in (8, 16, 32, 64)
    )
    assert TRUNKS[name].strides == (8, 16, 32, 64)


@pytest.mark.parametrize("task", ["detection", "classification"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_stages_have_every_parameter_of_the_trunk_once(task, name):
    config = config_of(name, task)
    config.model.width = 1 / 32
    config.input_size = (64, 64)
    made = TASKS[task](config, 3)
    params = jax.eval_shape(made.init, jax.random.key(0))["params"]
    listed = [module for stage in made.stages for module in stage]
    assert sorted(listed) == sorted(f"trunk/{module}" for module in params["trunk"])


@pytest.mark.parametrize("name", SMALL)
def test_more_frozen_stages_than_there_are_are_refused(name):
    fields, count = SMALL[name]
    config = config_of(name)
    config.model.stages, config.model.frozen = fields["stages"], count + 1
    with pytest.raises(InputError, match=rf"{count} stages, .* choose 0 to {count}"):
        TASKS["detection"](config, 3)


def gradient_of(name, norm=None, **fields):
    """The trunk, the gradient of its parameters, and statistics before and after."""
    trunk = TRUNKS[name](**SMALL[name][0], norm=norm or TRUNKS[name].norm, **fields)
    image = np.random.default_rng(0).normal(size=(2, 20, 33, 3)).astype(np.float32)
    variables = jax.jit(trunk.init)(jax.random.key(0), image)
    # Other than the statistics of any batch, and than scales near zero.
    stats = jax.tree.map(lambda x: x + 0.5, variables.get("batch_stats", {}))
    params = jax.tree.map(lambda x: x + 0.01, variables["params"])
    loss = level_loss(trunk, image, stats)
    gradient, updates = jax.jit(jax.grad(loss, has_aux=True))(params)
    return trunk, gradient, stats, updates.get("batch_stats", {})


def assert_close(found, expected):
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for leaf, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(leaf, other, atol=2e-5 * scale, rtol=1e-4)


@pytest.mark.trunks
@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("resnet18", "group"),
        ("resnet50", "batch"),
        ("convnext_tiny", None),
        ("vit_small", None),
    ],
)
def test_frozen_stages_have_no_gradient_and_the_others_keep_theirs(name, norm):
    """With rematerialization as well as without it."""
    _, every, _, _ = gradient_of(name, "group" if norm else None)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(every))
    for frozen, remat in ((2, False), (3, True)):
        trunk, gradient, before, after = gradient_of(
            name, norm, frozen=frozen, remat=remat
        )
        layers = {layer for stage in trunk.stage_layers()[:frozen] for layer in stage}
        for layer, leaves in gradient.items():
            if layer in layers:
                assert not any(np.any(leaf) for leaf in jax.tree.leaves(leaves)), layer
            elif norm != "batch":  # Statistics of the batch depend on frozen layers.
                assert_close(leaves, every[layer])
        for layer in before:
            for leaf, kept in zip(
                jax.tree.leaves(after[layer]),
                jax.tree.leaves(before[layer]),
                strict=True,
            ):
                assert np.array_equal(leaf, kept) == (layer in layers), layer


def test_frozen_batch_norm_has_the_same_levels_in_training_and_keeps_statistics():
    _, gradient, before, after = gradient_of("resnet50", "frozen_batch")
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert np.any(gradient["stem"]["norm"]["scale"])
    assert "norm" not in gradient["conv6_1"]  # Published weights do not have it.


@pytest.mark.parametrize(
    ("name", "norm"), [("resnet50", "none"), ("convnext_tiny", "batch")]
)
def test_a_norm_that_a_trunk_does_not_have_is_refused(name, norm):
    config = config_of(name)
    config.model.norm = norm
    with pytest.raises(InputError, match=rf"model\.norm of {name} is '?{norm}"):
        TASKS["detection"](config, 3)


def test_stages_of_another_trunk_are_refused():
    config = config_of("vit_small")
    config.model.stages = (3, 4, 6, 3)
    with pytest.raises(InputError, match=r"has 4 entries; vit_small takes 1, .*12"):
        TASKS["detection"](config, 3)


def test_the_empty_stages_are_those_of_the_trunk():
    config = config_of("resnet18")
    assert TASKS["detection"](config, 3).model.trunk.stages == (2, 2, 2, 2)
    config.model.stages = (1, 1, 1, 1)
    assert TASKS["detection"](config, 3).model.trunk.stages == (1, 1, 1, 1)


def test_receptive_fields_are_counted_from_the_layers():
    # Araujo et al. (Computing Receptive Fields of CNNs, 2019) have 483 for ResNet-50's
    # and 1027 for ResNet-101's last map, with strides in the 1x1 convolutions. Strides
    # in the 3x3 ones (version 1.5) take off 56; the head adds 2 x 32.
    resnet50, resnet101 = TRUNKS["resnet50"], TRUNKS["resnet101"]
    assert resnet50.receptive_fields(())[2] == 427 + 64
    assert resnet101.receptive_fields(())[2] == 971 + 64
    assert TRUNKS["convnext_tiny"].receptive_fields((1, 1, 1, 1))[0] == (
        4 + 6 * 4 + 4 + 6 * 8 + 2 * 8
    )
    assert TRUNKS["vit_base"].receptive_fields(()) is None


def test_a_classifier_has_no_layers_of_deeper_levels():
    config = config_of("resnet18", "classification")
    task = TASKS["classification"](config, 3)
    params = jax.eval_shape(task.init, jax.random.key(0))["params"]
    assert set(params) == {"trunk", "fc"}
    assert not any(name.startswith("conv6") for name in params["trunk"])
    logits = jax.eval_shape(
        task.model.apply,
        jax.eval_shape(task.init, jax.random.key(0)),
        jnp.zeros((2, 50, 70, 3)),
    )
    assert logits.shape == (2, 3)
