"""Real files of PyTorch and Keras, imported, against the networks that wrote them.

Both sides compute in float32 and sum in other orders. A sum of n products of similar
size differs by about sqrt(n) 6e-8 of its value; the longest here has 25088 (fc6) and 16
layers follow one another, so that outputs agree to some 1e-5 of the largest one.
"""

import os
import types

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import base, ssd300_coco
from borrow_det.models import classifier
from borrow_det.models import detector as ssd_models
from borrow_det.models.layers import PixelStatistics
from borrow_det.models.trunks import vgg
from borrow_det.tools import import_weights
from borrow_det.tools.common import cli
from borrow_det.workdir import checkpoints, trunk_conversion
from borrow_det.workdir import init_from as init_from_lib

pytestmark = pytest.mark.parity

TOLERANCE = 5e-5  # Of the largest value.
SIDE = 224  # Even at every pooling, which all implementations then do alike.


def import_file(path):
    """Imports a file and deletes it: some take half a gigabyte. Its folder."""
    output = path.with_name(f"{path.name}.import")
    flags = [f"--input={path}", f"--output={output}"]
    assert cli.call(import_weights.main, ["import_weights", *flags]) == 0
    path.unlink()
    return output


def load(output):
    """Params, and config.model as a run from this import has it."""
    config = base.get_config()
    config.init_from = str(output)
    config = init_from_lib.resolve_pixel_statistics(config, output.parent / "none")
    return checkpoints.restore_variables(output)["params"], config.model


def flatten(params):
    return flax.traverse_util.flatten_dict(params, sep="/")


def close(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    bound = TOLERANCE * np.abs(expected).max()
    assert bound > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def our_levels(params, model, image):
    """conv4_3 and conv5_3 of the detector's trunk on a uint8 RGB image [1, H, W, 3]."""
    trunk = vgg.VGG16()
    shapes = jax.eval_shape(trunk.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes["params"])
    fresh = {"params": {"trunk": zeros}, "batch_stats": {}}
    given = {"params": params, "batch_stats": {}}
    taken = init_from_lib.take(given, fresh, "trunk").variables["params"]["trunk"]
    normalized = PixelStatistics.of(model)(jnp.asarray(image, jnp.float32))
    return jax.jit(trunk.apply)({"params": taken}, normalized)[:2]


def our_logits(params, model, image):
    """Class logits of our classifier on a uint8 RGB image [1, H, W, 3]."""
    config = base.get_config()
    config.model.update(model)
    config.model.norm = "none"
    network = classifier.build_classifier(config, 1000)
    return jax.jit(network.apply)({"params": params}, jnp.asarray(image, jnp.float32))


@pytest.fixture(scope="module")
def image():
    """uint8 RGB [1, SIDE, SIDE, 3], redder than blue."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    waves = [np.sin(9 * x + 4 * y), np.cos(7 * y * x), np.sin(5 * x) * np.cos(11 * y)]
    smooth = np.stack(waves, axis=-1) * 60 + [180, 128, 70]
    noise = np.random.default_rng(0).normal(0, 15, smooth.shape)
    return (smooth + noise).clip(0, 255).astype(np.uint8)[None]


# PyTorch.


@pytest.fixture(scope="module")
def torch_vgg(reference):
    """torchvision's vgg16, weights and biases random: `torch`, `model`, `state`."""
    import torchvision

    torch = reference.torch
    torch.manual_seed(0)
    model = torchvision.models.vgg16(weights=None).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0, 0.1)
        elif name.startswith("classifier"):
            torch.nn.init.kaiming_normal_(parameter)
    return types.SimpleNamespace(torch=torch, model=model, state=model.state_dict())


@pytest.fixture(scope="module")
def torch_import(torch_vgg, tmp_path_factory):
    path = tmp_path_factory.mktemp("torch") / "vgg16.pth"
    torch_vgg.torch.save(torch_vgg.state, path)
    return import_file(path)


def torch_input(torch_vgg, image, mean, std):
    scaled = image.astype(np.float32) / 255
    normalized = (scaled - np.float32(mean)) / np.float32(std)
    return torch_vgg.torch.from_numpy(normalized.transpose(0, 3, 1, 2).copy())


def test_torchvisions_features_and_logits(torch_vgg, torch_import, image):
    import torchvision

    transform = torchvision.models.VGG16_Weights.IMAGENET1K_V1.transforms()
    pixels = torch_input(torch_vgg, image, transform.mean, transform.std)
    with torch_vgg.torch.no_grad():
        features = torch_vgg.model.features
        conv4_3 = features[:23](pixels)
        conv5_3 = features[23:30](conv4_3)
        logits = torch_vgg.model(pixels)
    params, model = load(torch_import)
    for found, expected in zip(
        our_levels(params, model, image), (conv4_3, conv5_3), strict=True
    ):
        close(found, expected.numpy().transpose(0, 2, 3, 1))
    # Through fc6: the order in which pool5 is flattened is right, too.
    close(our_logits(params, model, image), logits)


def test_decimation_of_torchvisions_fc_layers_index_by_index(torch_vgg, torch_import):
    params, _ = load(torch_import)
    made = trunk_conversion.decimate({name: params[name] for name in ("fc6", "fc7")})
    fc6 = torch_vgg.state["classifier.0.weight"].numpy().reshape(4096, 512, 7, 7)
    fc7 = torch_vgg.state["classifier.3.weight"].numpy()
    kernel = np.asarray(made["conv_fc6"]["conv"]["kernel"])
    assert kernel.shape == (3, 3, 512, 1024)
    for i, j in np.ndindex(3, 3):
        np.testing.assert_array_equal(kernel[i, j], fc6[::4, :, 3 * i, 3 * j].T)
    np.testing.assert_array_equal(
        made["conv_fc7"]["conv"]["kernel"][0, 0], fc7[::4, ::4].T
    )
    for name, place in (("conv_fc6", 0), ("conv_fc7", 3)):
        np.testing.assert_array_equal(
            made[name]["conv"]["bias"], torch_vgg.state[f"classifier.{place}.bias"][::4]
        )


@pytest.mark.parametrize("kind", ["old.pth", "vgg16.pt", "vgg16.safetensors"])
def test_other_forms_of_the_file_give_the_same(torch_vgg, torch_import, tmp_path, kind):
    path = tmp_path / kind
    if kind == "vgg16.safetensors":
        from safetensors import torch as safetensors_torch

        safetensors_torch.save_file(torch_vgg.state, path)
    else:  # The published file is of the older form.
        old = kind == "old.pth"
        torch_vgg.torch.save(
            torch_vgg.state, path, _use_new_zipfile_serialization=not old
        )
    expected, found = (flatten(load(o)[0]) for o in (torch_import, import_file(path)))
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("classifier_is", ["nan", "absent"])
def test_vgg16_features(torch_vgg, tmp_path, image, classifier_is):
    import torchvision

    torch, path = torch_vgg.torch, tmp_path / "vgg16_features.pth"
    state = {}
    for name, tensor in torch_vgg.state.items():
        if name.startswith("features"):
            state[name] = tensor
        elif classifier_is == "nan":
            state[name] = torch.full_like(tensor, torch.nan)
    torch.save(state, path)
    params, model = load(import_file(path))
    assert set(params) == {"trunk"}
    transform = torchvision.models.VGG16_Weights.IMAGENET1K_FEATURES.transforms()
    pixels = torch_input(torch_vgg, image, transform.mean, transform.std)
    with torch.no_grad():
        conv5_3 = torch_vgg.model.features[:30](pixels)
    _, found = our_levels(params, model, image)
    close(found, conv5_3.numpy().transpose(0, 2, 3, 1))


def test_half_precision_is_taken_as_float32(torch_vgg, torch_import, tmp_path):
    features = {n: t for n, t in torch_vgg.state.items() if n.startswith("features")}
    expected = flatten(load(torch_import)[0])
    for dtype in ("float16", "bfloat16"):
        kind = getattr(torch_vgg.torch, dtype)
        path = tmp_path / f"{dtype}.pth"
        torch_vgg.torch.save({n: t.to(kind) for n, t in features.items()}, path)
        for name, array in flatten(load(import_file(path))[0]).items():
            assert array.dtype == np.float32
            rounded = jnp.asarray(expected[name]).astype(dtype).astype(jnp.float32)
            np.testing.assert_array_equal(array, rounded)


def reduced_vgg(torch):
    """The layers of vgg16_reducedfc.pth, in the places of its names."""
    nn, layers, inputs = torch.nn, [], 3
    for channels in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, *(512, 512, 512, 0) * 2):
        if not channels:
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
            continue
        layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
        inputs = channels
    layers[-1] = nn.MaxPool2d(3, 1, padding=1)
    fc6 = nn.Conv2d(512, 1024, 3, padding=6, dilation=6)
    fc7 = nn.Conv2d(1024, 1024, 1)
    return nn.Sequential(*layers, fc6, nn.ReLU(), fc7, nn.ReLU())


def test_vgg16_reducedfc_through_ssd300s_trunk(torch_vgg, tmp_path, image):
    torch = torch_vgg.torch
    torch.manual_seed(1)
    network = reduced_vgg(torch)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    path = tmp_path / "vgg16_reducedfc.pth"
    torch.save(network.state_dict(), path)
    params, model = load(import_file(path))
    assert model.channel_order == "RGB"
    pixels = image.astype(np.float32) - np.float32([123, 117, 104])
    with torch.no_grad():
        expected = network(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))

    config = ssd300_coco.get_config()
    for name in init_from_lib.PIXEL_STATISTICS:
        config.model[name] = model[name]
    detector = ssd_models.build_borrow_net(config, 2)
    shapes = jax.eval_shape(
        detector.init, jax.random.key(0), jnp.zeros((1, 300, 300, 3))
    )
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes["params"])
    fresh = {"params": zeros, "batch_stats": {}}
    given = {"params": params, "batch_stats": {}}
    variables, taken, _ = init_from_lib.take(given, fresh, "trunk")
    assert len(taken) == 30
    trunk = detector.trunk
    normalized = PixelStatistics.of(config.model)(jnp.asarray(image, jnp.float32))
    levels = jax.jit(trunk.apply)({"params": variables["params"]["trunk"]}, normalized)
    close(levels[1], expected.numpy().transpose(0, 2, 3, 1))


# Keras.


@pytest.fixture(scope="module")
def keras():
    # Another implementation than ours is to compute the reference.
    os.environ["KERAS_BACKEND"] = "torch"
    return pytest.importorskip("keras", reason="requirements-parity.txt has it")


@pytest.fixture(scope="module")
def keras_vgg(keras):
    """Keras' VGG16 with random weights, biases too, and logits for probabilities."""
    keras.utils.set_random_seed(0)
    model = keras.applications.VGG16(weights=None, classifier_activation=None)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if layer.weights:
            kernel, bias = layer.get_weights()
            deviation = np.sqrt(2 / np.prod(kernel.shape[:-1]))
            kernel = rng.standard_normal(kernel.shape, np.float32) * deviation
            bias = rng.normal(0, 0.1, bias.shape)
            layer.set_weights([kernel.astype(np.float32), bias])
    return model


@pytest.fixture(scope="module")
def keras_outputs(keras, keras_vgg, image):
    """conv4_3, conv5_3 and logits on `image`."""
    layers = ("block4_conv3", "block5_conv3", "predictions")
    outputs = [keras_vgg.get_layer(name).output for name in layers]
    model = keras.Model(keras_vgg.input, outputs)
    pixels = keras.applications.vgg16.preprocess_input(image.astype(np.float32))
    return [np.asarray(x) for x in model.predict(pixels, verbose=0)]


@pytest.mark.parametrize("kind", ["a.h5", "b.h5", "a.weights.h5", "a.keras"])
def test_keras_vgg16(keras_vgg, keras_outputs, tmp_path, image, kind):
    path = tmp_path / kind
    if kind == "b.h5":
        write_published_form(keras_vgg, path)
    elif kind.endswith(".weights.h5"):
        keras_vgg.save_weights(path)
    else:
        keras_vgg.save(path)
    params, model = load(import_file(path))
    assert model.channel_order == "BGR"
    conv4_3, conv5_3, logits = keras_outputs
    found = our_levels(params, model, image)
    for level, expected in zip(found, (conv4_3, conv5_3), strict=True):
        close(level, expected)
    close(our_logits(params, model, image), logits)


def write_published_form(model, path):
    """The names of the published files, which Keras 1 wrote."""
    import h5py

    with h5py.File(path, "w") as file:
        for layer in model.layers:
            group = file.create_group(layer.name)
            if layer.weights:
                kernel, bias = layer.get_weights()
                group[f"{layer.name}_W_1:0"] = kernel
                group[f"{layer.name}_b_1:0"] = bias


@pytest.mark.parametrize("kind", ["a.h5", "a.weights.h5", "a.keras"])
def test_keras_vgg16_without_its_top(keras, tmp_path, kind):
    model = keras.applications.VGG16(weights=None, include_top=False)
    path = tmp_path / kind
    (model.save_weights if kind.endswith(".weights.h5") else model.save)(path)
    params, _ = load(import_file(path))
    assert set(params) == {"trunk"}
    for name, layer in (("conv1_1", "block1_conv1"), ("conv5_3", "block5_conv3")):
        kernel, _ = model.get_layer(layer).get_weights()
        np.testing.assert_array_equal(params["trunk"][name]["conv"]["kernel"], kernel)
