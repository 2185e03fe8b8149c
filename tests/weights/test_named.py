"""Weights of torchvision by name, from a local server in place of PyTorch's."""

import hashlib
import json
import sys

import numpy as np
import pytest

from borrow_det.distributed import processes
from borrow_det.errors import InputError
from borrow_det.tools import import_weights
from borrow_det.weights import named, published
from borrow_det.workdir import init_from
from tests import file_server

IMAGENET = published.IMAGENET.fields()


@pytest.fixture
def file_name(weights):
    return f"two-{hashlib.sha256(weights).hexdigest()[:8]}.safetensors"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of torch.hub; the work directory is empty."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def server(weights, file_name, cache, monkeypatch):
    """A server of the only file of torchvision, `two`."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    file = published.TorchvisionFile(file_name, published.IMAGENET)
    monkeypatch.setattr(published, "TORCHVISION", {"two": {"V1": file}})
    with file_server.serve() as server:
        monkeypatch.setattr(named, "_TORCHVISION_URL", server.address)
        server.files[f"/{file_name}"] = weights
        yield server


def test_a_name_gives_parameters_statistics_and_the_origin(
    server, cache, weights, tensors, file_name
):
    found = named.load("torchvision/two")
    stem = found.variables["params"]["trunk"]["stem"]
    np.testing.assert_array_equal(stem["weight"], tensors["stem.weight"])
    assert found.variables["batch_stats"] == {}
    assert found.pixel_statistics == IMAGENET
    assert found.record == {
        "file": file_name,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "url": f"{server.address}/{file_name}",
    }
    assert (cache / file_name).read_bytes() == weights


def test_a_file_that_torchvision_has_downloaded_is_used(
    server, cache, weights, file_name
):
    cache.mkdir(parents=True)
    (cache / file_name).write_bytes(weights)
    named.load("torchvision/two")
    assert server.requests == []


def test_the_cache_is_the_one_of_torch_hub(monkeypatch):
    monkeypatch.delenv("TORCH_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/a")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert str(named._torch_folder()) == "/home/a/.cache/torch/hub/checkpoints"
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert str(named._torch_folder()) == "/cache/torch/hub/checkpoints"
    monkeypatch.setenv("TORCH_HOME", "~/torch")
    assert str(named._torch_folder()) == "/home/a/torch/hub/checkpoints"


def test_without_network_the_message_names_file_and_place(
    server, cache, file_name, monkeypatch
):
    monkeypatch.setattr(named, "_TORCHVISION_URL", "http://127.0.0.1:1")
    url = f"http://127.0.0.1:1/{file_name}"
    with pytest.raises(InputError) as error:
        named.load("torchvision/two")
    assert str(error.value) == (
        f"{url} cannot be reached: Connection refused; without a network, download "
        f"{url} elsewhere and save it as {cache / file_name}"
    )


def test_torch_is_asked_for_before_a_download(server, monkeypatch):
    file = published.TorchvisionFile("two-12345678.pth", published.IMAGENET)
    monkeypatch.setattr(published, "TORCHVISION", {"two": {"V1": file}})
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"two-12345678\.pth: .* needs torch"):
        named.load("torchvision/two")
    assert server.requests == []


def test_a_folder_of_that_name_is_no_name(cache, tmp_path):
    assert named.is_name("torchvision/two")
    (tmp_path / "here" / "torchvision" / "two").mkdir(parents=True)
    assert not named.is_name("torchvision/two")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *(("timm/resnet50.a1_in1k", True), ("hf://a/b", True), ("hf://a/b@c/d", True)),
        *(("", False), ("runs/a", False), ("gs://torchvision/a", False)),
        *(("timm/a/b", False), ("./timm/a", False), ("/timm/a", False)),
    ],
)
def test_names_and_paths_are_told_apart(cache, text, expected):
    assert named.is_name(text) is expected


@pytest.mark.parametrize("text", ["hf://", "hf://resnet50", "hf://a/b/c", "hf://a/b@"])
def test_a_repository_has_an_owner_and_a_name(text):
    with pytest.raises(InputError, match=f"{text}: write hf://OWNER/NAME or"):
        named.load(text)


# Runs.


def test_a_resumed_run_needs_no_network(server, tiny_config, tmp_path):
    tiny_config.init_from = "torchvision/two"
    assert named.load_for_start(tiny_config, tmp_path / "W").name == "torchvision/two"
    server.requests.clear()
    (tmp_path / "W" / "checkpoints" / "4").mkdir(parents=True)
    assert named.load_for_start(tiny_config, tmp_path / "W") is None
    assert server.requests == []


def test_a_run_from_a_folder_loads_no_name(cache, tiny_config, tmp_path):
    for origin in ("", str(tmp_path)):
        tiny_config.init_from = origin
        assert named.load_for_start(tiny_config, tmp_path / "W") is None


def test_a_run_has_the_statistics_of_its_weights(server, tiny_config, tmp_path):
    tiny_config.init_from = "torchvision/two"
    weights = named.load_for_start(tiny_config, tmp_path / "W")
    tiny_config.model.pixel_mean = (1.0, 1.0, 1.0)
    resolved = init_from.resolve_pixel_statistics(tiny_config, tmp_path / "W", weights)
    assert resolved.init_from == "torchvision/two"
    assert {name: resolved.model[name] for name in IMAGENET} == IMAGENET
    tiny_config.init_normalization = False
    kept = init_from.resolve_pixel_statistics(tiny_config, tmp_path / "W", weights)
    assert kept.model.pixel_mean == (1.0, 1.0, 1.0)


def test_an_error_names_the_field(server, tiny_config, tmp_path):
    tiny_config.init_from = "torchvision/too"
    with pytest.raises(
        InputError, match=r"^init_from: torchvision/too is .*vision/two"
    ):
        named.load_for_start(tiny_config, tmp_path / "W")


def test_processes_with_different_files_are_refused(
    server, tiny_config, tmp_path, monkeypatch
):
    tiny_config.init_from = "torchvision/two"
    monkeypatch.setattr(processes, "all_rows", lambda rows: np.vstack([rows, rows]))
    assert named.load_for_start(tiny_config, tmp_path / "W")
    monkeypatch.setattr(processes, "all_rows", lambda rows: np.vstack([rows, ~rows]))
    with pytest.raises(InputError, match="have different files of torchvision/two "):
        named.load_for_start(tiny_config, tmp_path / "W")


# The tool.


def test_import_weights_takes_a_name(server, file_name, tmp_path, capsys):
    argv = ["import", "--input=torchvision/two", f"--output={tmp_path / 'W'}"]
    assert import_weights.main(argv) == 0
    record = json.loads((tmp_path / "W" / "import.json").read_text())
    assert record["name"] == "torchvision/two"
    assert record["url"] == f"{server.address}/{file_name}"
    assert record["normalization"]["pixel_mean"] == list(IMAGENET["pixel_mean"])


def test_flags_override_the_statistics_of_a_name(server, tmp_path, capsys):
    flags = ("--channel_order=BGR", "--pixel_mean=1,2,3", "--pixel_std=4,5,6")
    argv = ["import", "--input=torchvision/two", f"--output={tmp_path / 'W'}", *flags]
    assert import_weights.main(argv) == 0
    assert init_from.pixel_statistics(tmp_path / "W")["pixel_mean"] == (1, 2, 3)
