"""The classifier: its published size, its layers, and dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.errors import InputError
from borrow_det.models import classifier
from borrow_det.models import detector as detector_lib
from borrow_det.workdir import trunk_conversion


def shapes(num_classes, side=224, **model):
    config = base.get_config()
    config.model.update(model)
    network = classifier.build_classifier(config, num_classes)
    image = jnp.zeros((1, side, side, 3), jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), image)["params"]


def test_it_has_the_published_number_of_parameters():
    params = shapes(1000)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 138_357_544
    assert params["fc6"]["kernel"].shape == (7, 7, 512, 4096)
    assert params["fc7"]["kernel"].shape == (1, 1, 4096, 4096)
    assert params["fc8"]["kernel"].shape == (1, 1, 4096, 1000)


@pytest.mark.parametrize("width", [1.0, 0.125, 1 / 64, 0.3, 0.001])
def test_its_layers_fit_a_detector_of_any_width(width):
    config = base.get_config()
    config.model.width = width
    image = jnp.zeros((1, 64, 64, 3), jnp.float32)
    detector = detector_lib.build_borrow_net(config, 2)
    trunk = jax.eval_shape(detector.init, jax.random.key(0), image)["params"]["trunk"]
    given = shapes(10, width=width)
    layers = {name: given[name] for name in ("fc6", "fc7")}
    decimated = jax.eval_shape(trunk_conversion.decimate, layers)
    for name, layer in decimated.items():
        assert layer["conv"]["kernel"].shape == trunk[name]["conv"]["kernel"].shape
    for name, layer in given["trunk"].items():
        assert layer["conv"]["kernel"].shape == trunk[name]["conv"]["kernel"].shape


def test_inputs_smaller_than_the_minimum_raise_an_error():
    shapes(3, side=classifier.MIN_INPUT)
    with pytest.raises(InputError, match="input_size"):
        shapes(3, side=classifier.MIN_INPUT - 1)


@pytest.fixture(scope="module")
def tiny():
    """(network, variables, images) of 193 x 225 pixels: two positions of fc6."""
    config = base.get_config()
    config.model.width = 1 / 64
    config.model.stages = (1, 1, 1, 1, 1)
    config.model.dropout = 0.5
    network = classifier.build_classifier(config, 6)
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (3, 193, 225, 3)).astype(np.float32)
    variables = jax.jit(network.init)(jax.random.key(1), images)
    return network, variables, images


def test_logits_are_the_mean_over_positions(tiny):
    network, variables, images = tiny
    apply = jax.jit(network.apply)
    found = apply(variables, images)
    assert found.shape == (3, 6)
    assert found.dtype == jnp.float32
    # By hand from pool5 on: fc6 as a product with each 7x7 part of its map.
    params = variables["params"]
    stages = network.trunk
    normalized = network.pixel_statistics(jnp.asarray(images))
    pool5 = stages.apply({"params": params["trunk"]}, normalized, False)
    assert pool5.shape == (3, 7, 8, 8)
    logits = []
    for left in (0, 1):
        x = np.asarray(pool5[:, :, left : left + 7]).reshape(3, -1)
        for name in ("fc6", "fc7", "fc8"):
            kernel = np.asarray(params[name]["kernel"])
            x = x @ kernel.reshape(-1, kernel.shape[-1])
            x = x + np.asarray(params[name]["bias"])
            x = x if name == "fc8" else np.maximum(x, 0)
        logits.append(x)
    np.testing.assert_allclose(found, np.mean(logits, axis=0), rtol=1e-4, atol=1e-6)


def test_dropout_depends_on_the_key_of_the_example_only(tiny):
    network, variables, images = tiny
    keys = jax.random.split(jax.random.key(7), 3)

    @jax.jit
    def dropped(images, keys):
        return network.apply(variables, images, train=True, dropout_keys=keys)

    together = dropped(images, keys)
    apart = [dropped(images[i : i + 1], keys[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-7)
    turned = dropped(images, keys[::-1])
    assert np.abs(turned - together)[0].max() > 1e-4
    np.testing.assert_allclose(turned[1], together[1], rtol=1e-5, atol=1e-7)


def test_dropout_keeps_the_rate_and_the_mean():
    x = jnp.ones((2, 7, 8, 500), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 2)
    for rate in (0.0, 0.25, 0.5):
        found = np.asarray(classifier._drop(x, keys, 0, rate))
        assert set(np.unique(found)) <= {0, np.float32(1 / (1 - rate))}
        assert found.mean() == pytest.approx(1, abs=0.02)
    # The two layers do not drop alike.
    first, second = (np.asarray(classifier._drop(x, keys, i, 0.5)) for i in (0, 1))
    assert np.mean(first == second) == pytest.approx(0.5, abs=0.02)
