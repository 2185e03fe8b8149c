"""Trunks of torchvision and timm with random weights, imported, against ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.models import classifier
from borrow_det.models.trunks import TRUNKS
from borrow_det.tools import import_weights
from borrow_det.tools.common import cli
from borrow_det.workdir import checkpoints, init_from

pytestmark = pytest.mark.parity

TOLERANCE = 5e-5  # Of the largest value.
# Height and width. Patches and strides divide them.
SIDES = (224, 192)


def close(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    bound = TOLERANCE * np.abs(expected).max()
    assert bound > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def draw_weights(torch, model):
    """Other values than a new model's for everything that has one value there."""
    torch.manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith(("layer_scale", "gamma")):
            value.uniform_(0.1, 0.3)
        elif value.ndim == 1 and value.dtype.is_floating_point:
            value.add_(0.1 * torch.randn(value.shape))
        elif name.endswith(("class_token", "cls_token", "pos_embedding", "pos_embed")):
            value.normal_(0, 0.3)
        elif name.endswith(("head.weight", "fc.weight", "classifier.2.weight")):
            value.normal_(0, 0.1)
    return model.eval()


def build(reference, library, name, **options):
    if library == "torchvision":
        import torchvision

        return getattr(torchvision.models, name)(weights=None, **options)
    timm = pytest.importorskip("timm", reason="requirements-parity.txt has it")
    return timm.create_model(name, pretrained=False, **options)


def import_model(model, folder):
    """Imports a model's weights; returns their variables and pixel statistics."""
    import safetensors.torch

    file, output = folder / "model.safetensors", folder / "import"
    safetensors.torch.save_file(model.state_dict(), file)
    flags = [f"--input={file}", f"--output={output}"]
    assert cli.call(import_weights.main, ["import_weights", *flags]) == 0
    return checkpoints.restore_variables(output), init_from.pixel_statistics(output)


@pytest.fixture(scope="module")
def image():
    """float32 [1, *SIDES, 3], pixel statistics applied."""
    return np.random.default_rng(0).normal(size=(1, *SIDES, 3)).astype(np.float32)


def start(fresh, variables):
    """The variables of our network, all of `variables` that it has among them."""
    taken = init_from.take(variables, jax.device_get(fresh), "all")
    given = {f"{part}/{path}" for part in variables for path in paths(variables[part])}
    return taken.variables, given - set(taken.taken)


def paths(tree, above=()):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from paths(value, (*above, name))
        else:
            yield "/".join((*above, name))


def our_levels(name, variables, image, **fields):
    trunk = TRUNKS[name](**fields)
    fresh = {"batch_stats": {}} | dict(jax.jit(trunk.init)(jax.random.key(0), image))
    fresh = {part: {"trunk": tree} if tree else {} for part, tree in fresh.items()}
    started, left = start(fresh, variables)
    with jax.numpy_rank_promotion("allow"):
        apply = jax.jit(lambda variables: trunk.apply(variables, image))
        return apply({part: tree.get("trunk", {}) for part, tree in started.items()}), {
            path for path in left if "/trunk/" in path
        }


def our_logits(name, variables, statistics, image):
    config = base.get_config()
    config.model.trunk = name
    config.model.norm = TRUNKS[name].norm
    config.model.update(statistics)
    network = classifier.build_classifier(config, 1000)
    pixels = image * np.asarray(statistics["pixel_std"], np.float32)
    pixels += np.asarray(statistics["pixel_mean"], np.float32)
    fresh = {"batch_stats": {}} | dict(jax.jit(network.init)(jax.random.key(0), pixels))
    started, left = start(fresh, variables)
    assert not left
    with jax.numpy_rank_promotion("allow"):
        return jax.jit(network.apply)(started, pixels)


def channels_first(reference, image):
    return reference.torch.from_numpy(image.transpose(0, 3, 1, 2).copy())


def channels_last(features):
    return features.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    ("library", "theirs", "ours"),
    [
        ("torchvision", "resnet18", "resnet18"),
        ("torchvision", "resnet50", "resnet50"),
        ("timm", "resnet50", "resnet50"),
        ("torchvision", "convnext_tiny", "convnext_tiny"),
        ("timm", "convnext_tiny", "convnext_tiny"),
    ],
)
def test_levels_and_logits_of_a_convolutional_trunk_are_those_of_its_library(
    reference, tmp_path, image, library, theirs, ours
):
    torch = reference.torch
    model = draw_weights(torch, build(reference, library, theirs))
    variables, statistics = import_model(model, tmp_path)
    found, left = our_levels(ours, variables, image)
    with torch.no_grad():
        batch = channels_first(reference, image)
        expected = levels(torch, model, library, theirs, batch)
        logits = model(batch).numpy()
    for level, features in zip(found, expected, strict=False):
        close(level, channels_last(features))
    assert all("pooled_norm" in path for path in left)
    close(our_logits(ours, variables, statistics, image), logits)


def levels(torch, model, library, name, batch):
    """The maps of strides 8, 16 and 32; normalized, for ConvNeXt."""
    if name.startswith("resnet"):
        pool = model.maxpool
        act = model.relu if library == "torchvision" else model.act1
        x = pool(act(model.bn1(model.conv1(batch))))
        maps = []
        for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
            x = layer(x)
            maps.append(x)
        return maps[1:]
    if library == "torchvision":
        maps, x = [], batch
        for index, stage in enumerate(model.features):
            x = stage(x)
            if index in (3, 5, 7):
                maps.append(x)
    else:
        maps, x = [], model.stem(batch)
        for stage in model.stages:
            x = stage(x)
            maps.append(x)
        maps = maps[1:]
    return [normalized(torch, x) for x in maps]


def normalized(torch, x):
    """LayerNorm over channels without parameters, as a new level has it."""
    x = x.permute(0, 2, 3, 1)
    x = torch.nn.functional.layer_norm(x, x.shape[-1:], eps=1e-6)
    return x.permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("library", "theirs", "ours"),
    [
        ("torchvision", "vit_b_16", "vit_base"),
        ("timm", "vit_small_patch16_224", "vit_small"),
    ],
)
def test_the_map_and_the_logits_of_a_vit_are_those_of_its_library(
    reference, tmp_path, library, theirs, ours
):
    torch = reference.torch
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 224, 224, 3)).astype(np.float32)
    model = draw_weights(torch, build(reference, library, theirs))
    variables, statistics = import_model(model, tmp_path)
    with torch.no_grad():
        batch = channels_first(reference, image)
        if library == "timm":
            features = model.forward_features(batch)
        else:
            x = model._process_input(batch)
            x = torch.cat([model.class_token.expand(1, -1, -1), x], dim=1)
            features = model.encoder(x)
        logits = model(batch).numpy()
    close(our_tokens(ours, variables, image), features.numpy())
    close(our_logits(ours, variables, statistics, image), logits)


def our_tokens(name, variables, image):
    """The class token and those of the patches, after the final LayerNorm."""
    trunk = TRUNKS[name]()
    fresh = jax.jit(trunk.init)(jax.random.key(0), image)
    fresh = {"params": {"trunk": fresh["params"]}, "batch_stats": {}}
    started, left = start(fresh, variables)
    assert {path for path in left if "/trunk/" in path} == set()
    with jax.numpy_rank_promotion("allow"):
        _, state = trunk.apply(
            {"params": started["params"]["trunk"]},
            image,
            capture_intermediates=lambda module, _: module.name == "final_norm",
            mutable=["intermediates"],
        )
    return state["intermediates"]["final_norm"]["__call__"][0]


def test_position_embeddings_of_another_input_size_are_those_of_timm(
    reference, tmp_path
):
    """Rows and columns grow by different factors, and shrink."""
    torch = reference.torch
    model = draw_weights(torch, build(reference, "timm", "vit_small_patch16_224"))
    variables, _ = import_model(model, tmp_path)
    for size in ((320, 256), (128, 96)):
        other = build(
            reference,
            "timm",
            "vit_small_patch16_224",
            img_size=size,
        ).eval()
        # timm interpolates position embeddings as it loads them.
        from timm.models.vision_transformer import checkpoint_filter_fn

        other.load_state_dict(checkpoint_filter_fn(model.state_dict(), other))
        rng = np.random.default_rng(0)
        image = rng.normal(size=(1, *size, 3)).astype(np.float32)
        with torch.no_grad():
            features = other.forward_features(channels_first(reference, image))
        close(our_tokens("vit_small", variables, image), features.numpy())


@pytest.mark.parametrize("name", sorted(set(TRUNKS) - {"vgg16", "ssd300", "ssd512"}))
def test_parameter_counts_are_those_of_the_library(reference, name):
    theirs = {
        "vit_small": ("timm", "vit_small_patch16_224"),
        "vit_base": ("torchvision", "vit_b_16"),
    }
    library, model = theirs.get(name, ("torchvision", name))
    with reference.torch.device("meta"):
        expected = sum(p.numel() for p in build(reference, library, model).parameters())
    config = base.get_config()
    config.model.trunk, config.model.norm = name, TRUNKS[name].norm
    network = classifier.build_classifier(config, 1000)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    sizes = [leaf.size for leaf in jax.tree.leaves(shapes["params"])]
    assert sum(sizes) == expected
