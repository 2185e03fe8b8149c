"""The tables of published weights against those of torchvision and timm."""

import pathlib

import pytest

from borrow_det.weights import named, published

pytestmark = pytest.mark.parity

FILES = [
    (model, weights)
    for model, files in published.TORCHVISION.items()
    for weights in files
]


@pytest.fixture(scope="module")
def timm(reference):
    """The library, which imports torchvision."""
    return pytest.importorskip("timm", reason="requirements-parity.txt has it")


@pytest.mark.parametrize(("model", "weights"), FILES)
def test_files_are_those_of_torchvision(reference, model, weights):
    from torchvision import models

    # torchvision has both files for one model.
    enum = models.get_model_weights(model.removesuffix("_features"))
    theirs, ours = enum[weights], published.TORCHVISION[model][weights]
    assert theirs.url == f"{named._TORCHVISION_URL}/{ours.name}"
    transforms = theirs.transforms()
    assert tuple(transforms.mean) == ours.pixel_statistics.mean
    assert tuple(transforms.std) == pytest.approx(ours.pixel_statistics.std, rel=1e-12)


@pytest.mark.parametrize("model", published.TORCHVISION)
def test_defaults_are_those_of_torchvision(reference, model):
    from torchvision import models

    enum = models.get_model_weights(model.removesuffix("_features"))
    if model != "vgg16_features":
        assert next(iter(published.TORCHVISION[model])) == enum.DEFAULT.name


@pytest.mark.parametrize("model", published.TIMM)
def test_models_are_those_of_timm(timm, model):
    tags = published.TIMM[model]
    assert timm.models.get_pretrained_cfg(model).tag == next(iter(tags))
    for tag, statistics in tags.items():
        theirs = timm.models.get_pretrained_cfg(
            f"{model}.{tag}", allow_unregistered=False
        )
        assert theirs.hf_hub_id == f"timm/{model}.{tag}"
        assert theirs.hf_hub_filename is None  # model.safetensors.
        assert (theirs.mean, theirs.std) == statistics


def test_the_cache_is_the_one_of_torch_hub(reference, monkeypatch, tmp_path):
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    theirs = pathlib.Path(reference.torch.hub.get_dir(), "checkpoints")
    assert named._torch_folder() == theirs
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    theirs = pathlib.Path(reference.torch.hub.get_dir(), "checkpoints")
    assert named._torch_folder() == theirs


def test_a_file_of_pytorch_is_read_by_name(reference, monkeypatch, tmp_path):
    """A .pth file, as torchvision's are, in the place of its download."""
    from borrow_det.io import download
    from borrow_det.weights import layouts
    from borrow_det.weights.entries import from_oihw

    shape = (4, 3, 2, 2)
    entry = layouts.Entry(shape, "trunk/stem/kernel", from_oihw)
    layout = layouts.Layout("one tensor", {"stem.weight": entry}, {})
    monkeypatch.setattr(layouts, "LAYOUTS", {"one": layout})
    kernel = reference.torch.rand(shape)
    reference.torch.save({"stem.weight": kernel}, tmp_path / "file.pth")
    name = f"one-{download.sha256(tmp_path / 'file.pth')[:8]}.pth"
    file = published.TorchvisionFile(name, published.IMAGENET)
    monkeypatch.setattr(published, "TORCHVISION", {"one": {"V1": file}})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (tmp_path / "file.pth").rename(folder / name)
    found = named.load("torchvision/one").variables["params"]["trunk"]["stem"]["kernel"]
    assert (found == kernel.numpy().transpose(2, 3, 1, 0)).all()
