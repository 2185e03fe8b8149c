"""ViT: attention by hand, windows, and blocks of queries."""

import jax
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.errors import InputError
from borrow_det.models.trunks import vit
from borrow_det.tasks import TASKS

GRID, CHANNELS = (5, 7), 8


@pytest.fixture(autouse=True)
def flax_promotes():
    """Flax's normalization layers promote ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def tokens():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, GRID[0] * GRID[1], CHANNELS)).astype(np.float32)


def drawn(module, *inputs):
    """Variables with values that are not those of initialization."""
    variables = module.init(jax.random.key(0), *inputs)
    leaves, tree = jax.tree.flatten(variables)
    rng = np.random.default_rng(1)
    leaves = [rng.normal(0, 0.5, leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.unflatten(tree, leaves)


def by_hand(params, x, heads):
    """Multi-head self-attention of tokens [T, C], head by head."""
    qkv = x @ params["qkv"]["kernel"] + params["qkv"]["bias"]
    q, k, v = np.split(qkv, 3, axis=-1)
    made = []
    for head in np.split(np.arange(x.shape[-1]), heads):
        scores = q[:, head] @ k[:, head].T / np.sqrt(len(head))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        made.append(weights @ v[:, head])
    return np.concatenate(made, -1) @ params["out"]["kernel"] + params["out"]["bias"]


def test_attention_is_that_of_each_head(tokens):
    module = vit.Attention(heads=2)
    variables = drawn(module, tokens)
    expected = [by_hand(variables["params"], x, 2) for x in tokens]
    np.testing.assert_allclose(module.apply(variables, tokens), expected, atol=1e-4)
    in_blocks = vit.Attention(heads=2, query_block=8)
    np.testing.assert_allclose(in_blocks.apply(variables, tokens), expected, atol=1e-4)


def test_windows_are_apart_and_filled_up_with_zeros(tokens):
    """Attention of every window by hand; 5 x 7 patches in windows of 3."""
    block = vit.Block(heads=2, window=3)
    variables = drawn(block, tokens, GRID)
    found = block.apply(variables, tokens, GRID)
    params = variables["params"]

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * params[name]["scale"] + params[name]["bias"]

    for example, result in zip(tokens, found, strict=True):
        y = np.zeros((6, 9, CHANNELS), np.float32)
        y[:5, :7] = norm(example, "norm1").reshape(5, 7, -1)
        for top in (0, 3):
            for left in (0, 3, 6):
                window = y[top : top + 3, left : left + 3].reshape(9, -1)
                made = by_hand(params["attention"], window, 2)
                y[top : top + 3, left : left + 3] = made.reshape(3, 3, -1)
        x = example + y[:5, :7].reshape(35, -1)
        hidden = norm(x, "norm2") @ params["expand"]["kernel"]
        hidden = np.asarray(
            jax.nn.gelu(hidden + params["expand"]["bias"], approximate=False)
        )
        x = x + hidden @ params["reduce"]["kernel"] + params["reduce"]["bias"]
        np.testing.assert_allclose(result, x, atol=2e-4)


def test_a_window_of_the_entire_grid_is_global_attention():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 16, CHANNELS)).astype(np.float32)
    windowed, global_ = vit.Block(2, window=4), vit.Block(2)
    variables = drawn(global_, x, (4, 4))
    np.testing.assert_allclose(
        windowed.apply(variables, x, (4, 4)),
        global_.apply(variables, x, (4, 4)),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("blocks", "global_blocks", "expected"),
    [
        (12, 4, [3, 6, 9, 12]),
        (12, 12, list(range(1, 13))),
        (6, 2, [3, 6]),
        (10, 4, [3, 5, 8, 10]),
    ],
)
def test_global_blocks_are_in_equal_distances_and_the_last_is_one(
    monkeypatch, blocks, global_blocks, expected
):
    windows = []
    call = vit.Block.__call__

    def recorded(self, x, grid):
        windows.append(self.window)
        return call(self, x, grid)

    monkeypatch.setattr(vit.Block, "__call__", recorded)
    trunk = vit.ViTSmall(
        width=1 / 24, stages=(blocks,), window=2, global_blocks=global_blocks
    )
    image = np.zeros((1, 64, 64, 3), np.float32)
    params = jax.eval_shape(trunk.init, jax.random.key(0), image)["params"]
    assert [i for i, window in enumerate(windows, start=1) if not window] == expected
    assert set(windows) <= {0, 2}
    assert "cls_token" not in params


def test_patches_keep_their_places_in_the_pyramid():
    """Without attention, one patch changes its own place and its neighbors' only."""
    trunk = vit.ViTSmall(width=1 / 24, stages=(1,))
    image = np.random.default_rng(0).normal(size=(1, 64, 96, 3)).astype(np.float32)
    params = dict(jax.jit(trunk.init)(jax.random.key(0), image)["params"])
    params["block1"] = jax.tree.map(np.zeros_like, params["block1"])
    changed = image.copy()
    changed[:, 16:32, 48:64] += 3.0  # The patch in row 1, column 3.
    apply = jax.jit(trunk.apply)
    before, after = (apply({"params": params}, x) for x in (image, changed))
    places = [
        np.any(np.asarray(one) != other, axis=(0, 3))
        for one, other in zip(before, after, strict=True)
    ]
    # The second convolution of a level reaches one position further.
    expected = np.zeros((4, 6), bool)
    expected[0:3, 2:5] = True
    np.testing.assert_array_equal(places[1], expected)
    expected = np.zeros((8, 12), bool)
    expected[1:5, 5:9] = True
    np.testing.assert_array_equal(places[0], expected)


def test_windows_are_refused_for_a_classifier_that_reads_the_class_token():
    config = base.get_config()
    config.task = "classification"
    config.model.trunk, config.model.norm = "vit_small", "layer"
    config.model.window = 14
    with pytest.raises(InputError, match=r"set model\.window=0"):
        TASKS["classification"](config, 3)


def test_more_global_blocks_than_blocks_are_refused():
    config = base.get_config()
    config.model.trunk, config.model.norm = "vit_small", "layer"
    config.model.window, config.model.global_blocks = 14, 13
    with pytest.raises(InputError, match="is 13; vit_small has 12 blocks"):
        TASKS["detection"](config, 3)


def test_the_form_of_attention_is_that_of_the_config():
    config = base.get_config()
    config.model.trunk, config.model.norm = "vit_small", "layer"
    config.borrow.attention, config.borrow.query_block = "plain", 64
    trunk = TASKS["detection"](config, 3).model.trunk
    assert (trunk.form, trunk.query_block) == ("plain", 64)
