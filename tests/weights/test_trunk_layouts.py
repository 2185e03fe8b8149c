"""Layouts of ResNet, ConvNeXt and ViT against the parameters of our networks."""

import jax
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.errors import InputError
from borrow_det.models.trunks import TRUNKS
from borrow_det.tasks import TASKS
from borrow_det.weights import layouts
from borrow_det.weights.files import Tensor
from borrow_det.weights.trunk_layouts import TRUNK_LAYOUTS
from borrow_det.workdir import init_from

OURS = {
    "torchvision_convnext_tiny": "convnext_tiny",
    "torchvision_convnext_small": "convnext_small",
    "timm_convnext_tiny": "convnext_tiny",
    "timm_convnext_small": "convnext_small",
    "torchvision_vit_b_16": "vit_base",
    "timm_vit_small": "vit_small",
    "timm_vit_base": "vit_base",
}


def tensors_of(layout, positions=197):
    """Tensors of the layout's shapes, 1000 classes, without memory."""

    def tensor(name, shape):
        free = positions if "pos_embed" in name else 1000
        shape = tuple(free if size == -1 else size for size in shape)
        return Tensor(shape, "float32", lambda: np.broadcast_to(np.float32(0.5), shape))

    return {name: tensor(name, e.shape) for name, e in layout.tensors.items()}


@pytest.mark.parametrize("name", TRUNK_LAYOUTS)
def test_a_layout_makes_every_parameter_of_our_classifier(name):
    layout, trunk = TRUNK_LAYOUTS[name], OURS.get(name, name)
    tensors = tensors_of(layout)
    assert layouts.recognize(tensors) == name
    layouts.check(tensors, layout)
    made = layouts.convert(tensors, layout)
    config = base.get_config()
    config.task = "classification"
    config.model.trunk, config.model.norm = trunk, TRUNKS[trunk].norm
    task = TASKS["classification"](config, 1000)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    for collection, tree in variables.items():
        expected = {
            "/".join(key.key for key in path): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        found = {path: array.shape for path, array in made[collection].items()}
        assert found == expected


def test_counters_of_batch_norm_are_left_out_whether_present_or_not():
    layout = TRUNK_LAYOUTS["resnet18"]
    tensors = tensors_of(layout)
    counter = Tensor((), "int64", lambda: np.int64(3))
    with_counters = tensors | {name: counter for name in layout.ignored}
    assert "bn1.num_batches_tracked" in layout.ignored
    assert "layer2.0.downsample.1.num_batches_tracked" in layout.ignored
    assert layouts.recognize(with_counters) == "resnet18"
    layouts.check(with_counters, layout)
    made, expected = (layouts.convert(t, layout) for t in (with_counters, tensors))
    assert made["params"].keys() == expected["params"].keys()


def test_a_file_without_classifier_is_recognized():
    for name, layout in TRUNK_LAYOUTS.items():
        tensors = tensors_of(layout)
        for top in layout.optional:
            del tensors[top]
        assert layouts.recognize(tensors) == name
        layouts.check(tensors, layout)


def test_kernels_are_transposed_index_by_index():
    rng = np.random.default_rng(0)
    entries = TRUNK_LAYOUTS["torchvision_convnext_tiny"].tensors
    depthwise = rng.normal(size=(3, 1, 7, 7))
    made = entries["features.1.0.block.0.weight"].convert(depthwise)
    assert made.shape == (7, 7, 3)
    assert made[2, 5, 1] == depthwise[1, 0, 2, 5]
    linear = rng.normal(size=(8, 2))
    assert entries["features.1.0.block.3.weight"].convert(linear)[1, 7] == linear[7, 1]
    positions = rng.normal(size=(1, 5, 2))
    entry = TRUNK_LAYOUTS["timm_vit_small"].tensors["pos_embed"]
    np.testing.assert_array_equal(entry.convert(positions), positions[0])


# A run that starts from an import.


def trunk_of(name, width=1 / 32, task="detection", **model):
    """Variables of a small network; each number is that of its array."""
    config = base.get_config()
    config.task = task
    config.input_size = (64, 64)
    config.model.trunk, config.model.norm = name, TRUNKS[name].norm
    config.model.stages = tuple(1 for _ in TRUNKS[name].stages)
    config.model.width = width
    config.model.update(model)
    shapes = jax.eval_shape(TASKS[task](config, 3).init, jax.random.key(0))
    leaves, tree = jax.tree.flatten(shapes)
    numbers = [np.full(leaf.shape, i, np.float32) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, numbers)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "convnext_tiny", "vit_small"])
def test_a_detector_takes_all_stages_of_a_classifier_and_the_reverse(name):
    detector = trunk_of(name)
    classifier = trunk_of(name, task="classification")
    taken = init_from.take(classifier, detector, "trunk")
    fresh = {path.split("/")[2] for path in taken.fresh if "/trunk/" in path}
    deeper = {
        "convnext_tiny": {"level1_norm", "level2_norm", "level3_norm"},
        "vit_small": {"pyramid1", "pyramid2", "pyramid3"},
    }
    assert fresh == {"conv6_1", "conv6_2"} | deeper.get(name, set())
    back = init_from.take(detector, classifier, "all")
    pooled = {"pooled_norm"} if name == "convnext_tiny" else set()
    assert {p.split("/")[2] for p in back.fresh if "/trunk/" in p} == pooled
    assert any(path.startswith("params/fc") for path in back.fresh)


def test_another_trunk_is_refused_with_its_tensors():
    with pytest.raises(
        InputError,
        match=r"layer1_1/conv1/conv/kernel is 1x1x2x2 there and 3x3",
    ):
        init_from.take(trunk_of("resnet50"), trunk_of("resnet18"), "trunk")
    with pytest.raises(
        InputError, match=r"block1/attention/out/bias is absent there and"
    ):
        init_from.take(trunk_of("resnet50"), trunk_of("vit_small"), "trunk")
    with pytest.raises(
        InputError, match=r"batch_stats/trunk/stem/norm/mean is 2 there and"
    ):
        init_from.take(
            trunk_of("resnet50"), trunk_of("resnet50", norm="group"), "trunk"
        )


def test_a_level_that_would_lose_its_normalization_stays_fresh():
    batch, frozen = trunk_of("resnet50"), trunk_of("resnet50", norm="frozen_batch")
    taken = init_from.take(batch, frozen, "trunk")
    fresh = {path for path in taken.fresh if "/trunk/" in path}
    assert fresh == {
        f"params/trunk/conv6_{n}/conv/{leaf}"
        for n in (1, 2)
        for leaf in ("kernel", "bias")
    }
    assert "batch_stats/trunk/stem/norm/mean" in taken.taken


def test_a_vit_with_windows_starts_from_one_with_a_class_token():
    windows = trunk_of("vit_small", window=2, global_blocks=1)
    taken = init_from.take(trunk_of("vit_small"), windows, "all")
    assert not taken.fresh
    assert "cls_token" not in taken.variables["params"]["trunk"]


def test_position_embeddings_of_another_grid_are_interpolated():
    given, fresh = trunk_of("vit_small"), trunk_of("vit_small")
    rng = np.random.default_rng(0)
    channels = given["params"]["trunk"]["pos_embed"].shape[1]
    # A plane is interpolated exactly, away from the border.
    y, x = np.mgrid[:7, :7]
    plane = (2 * y + 3 * x).reshape(-1, 1) * np.ones(channels)
    token = rng.normal(size=(1, channels))
    embedding = np.concatenate([token, plane]).astype(np.float32)
    given["params"]["trunk"]["pos_embed"] = embedding
    made = init_from.take(given, fresh, "trunk").variables["params"]["trunk"]
    found = made["pos_embed"]
    np.testing.assert_array_equal(found[0], embedding[0])
    centers = (np.arange(14) + 0.5) * 7 / 14 - 0.5
    expected = 2 * centers[:, None] + 3 * centers
    inner = found[1:].reshape(14, 14, channels)[3:-3, 3:-3, 0]
    np.testing.assert_allclose(inner, expected[3:-3, 3:-3], rtol=1e-4)


def test_a_long_list_of_differences_is_counted():
    tensors = tensors_of(TRUNK_LAYOUTS["resnet50"])
    with pytest.raises(InputError) as error:
        layouts.check(tensors, TRUNK_LAYOUTS["resnet101"])
    missing = len(TRUNK_LAYOUTS["resnet101"].tensors) - len(tensors)
    assert f"({missing} in all)" in str(error.value)
    assert len(str(error.value)) < 1000
