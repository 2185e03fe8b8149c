"""Weights of the Hugging Face hub, by its real library, from a local server."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from borrow_det.errors import InputError
from borrow_det.weights import hub, named, published
from tests import file_server
from tests.conftest import ROOT

pytestmark = pytest.mark.extras

COMMIT, OTHER = "1" * 40, "2" * 40
LAYOUT_MEAN = (1.0, 2.0, 3.0)  # Of the layout `two_tensors`.


@pytest.fixture
def library(tmp_path, monkeypatch):
    """The library with an empty cache."""
    library = pytest.importorskip("huggingface_hub", reason="requirements-hub.txt")
    from huggingface_hub import constants

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return library


@pytest.fixture
def server(library, weights, timm_config, monkeypatch):
    """A hub with the repository ann/two: weights, and timm's config.json."""
    with file_server.serve() as server:
        point_to(library, server.address, monkeypatch)
        files = {"model__safetensors": weights, "config__json": timm_config}
        server.add_repository("ann/two", COMMIT, **files)
        yield server


def point_to(library, address, monkeypatch):
    """Sets what the library takes from HF_ENDPOINT when it is imported."""
    monkeypatch.setattr(library.constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(library.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def requested(server):
    return [(method, path) for method, path, _ in server.requests]


def test_a_repository_gives_parameters_statistics_and_the_commit(
    server, weights, tensors
):
    found = named.load("hf://ann/two")
    stem = found.variables["params"]["trunk"]["stem"]
    np.testing.assert_array_equal(stem["weight"], tensors["stem.weight"])
    assert found.pixel_statistics == {
        "channel_order": "RGB",
        "pixel_mean": (25.5, 51.0, 76.5),
        "pixel_std": (127.5, 127.5, 102.0),
    }
    assert found.record == {
        "file": "model.safetensors",
        "sha256": hashlib.sha256(weights).hexdigest(),
        "repository": "ann/two",
        "revision": COMMIT,
    }


def test_a_revision_is_a_branch_or_a_commit(server, weights, timm_config):
    files = {"model__safetensors": weights + b"", "config__json": timm_config}
    server.add_repository("ann/two", OTHER, revision="v2", **files)
    assert named.load("hf://ann/two@v2").record["revision"] == OTHER
    assert named.load(f"hf://ann/two@{COMMIT}").record["revision"] == COMMIT


def test_timm_has_a_default_tag_and_the_statistics_of_its_table(
    server, weights, timm_config
):
    # The table decides, so that config.json is not requested.
    server.add_repository("timm/resnet50.a1_in1k", COMMIT, model__safetensors=weights)
    found = named.load("timm/resnet50")
    assert found.record["repository"] == "timm/resnet50.a1_in1k"
    assert found.pixel_statistics == published.IMAGENET.fields()
    assert not [path for _, path in requested(server) if path.endswith(".json")]
    files = {"model__safetensors": weights, "config__json": timm_config}
    server.add_repository("timm/other.tag", COMMIT, **files)
    assert named.load("timm/other.tag").pixel_statistics["pixel_mean"][0] == 25.5


@pytest.mark.parametrize(
    ("fields", "order", "mean", "std"),
    [
        ({}, "RGB", (127.5, 0, 255), (63.75,) * 3),
        ({"rescale_factor": 0.5}, "RGB", (1.0, 0, 2.0), (0.5,) * 3),
        ({"do_rescale": False}, "RGB", (0.5, 0, 1.0), (0.25,) * 3),
        ({"do_normalize": False}, "RGB", (0, 0, 0), (255.0,) * 3),
        ({"do_flip_channel_order": True}, "BGR", (127.5, 0, 255), (63.75,) * 3),
    ],
)
def test_statistics_of_transformers(server, weights, fields, order, mean, std):
    fields = {"image_mean": [0.5, 0, 1], "image_std": [0.25] * 3, **fields}
    files = {
        "model__safetensors": weights,
        "config__json": json.dumps({"model_type": "vit"}).encode(),
        "preprocessor_config__json": json.dumps(fields).encode(),
    }
    server.add_repository("ann/vit", COMMIT, **files)
    found = named.load("hf://ann/vit").pixel_statistics
    assert found == {"channel_order": order, "pixel_mean": mean, "pixel_std": std}


def test_without_stated_statistics_those_of_the_layout_hold(server, weights):
    server.add_repository("ann/plain", COMMIT, model__safetensors=weights)
    assert named.load("hf://ann/plain").pixel_statistics["pixel_mean"] == LAYOUT_MEAN


@pytest.mark.parametrize("mean", [0.5, ["a", "b", "c"], [0.5], None])
def test_senseless_statistics_are_refused(server, weights, mean):
    config = {"pretrained_cfg": {"mean": mean, "std": [1, 1, 1]}}
    files = {"model__safetensors": weights, "config__json": json.dumps(config).encode()}
    server.add_repository("ann/odd", COMMIT, **files)
    with pytest.raises(InputError, match=r"ann/odd/config\.json.* pixel statistics"):
        named.load("hf://ann/odd")


# Caches and networks.


def test_the_cache_serves_without_a_server(server, library, monkeypatch):
    first = named.load("hf://ann/two").record
    server.requests.clear()
    monkeypatch.setattr(library.constants, "HF_HUB_OFFLINE", True)
    assert named.load("hf://ann/two").record == first
    assert server.requests == []


def test_the_cache_records_that_a_file_is_absent(server, library, weights, monkeypatch):
    server.add_repository("ann/plain", COMMIT, model__safetensors=weights)
    named.load("hf://ann/plain")
    monkeypatch.setattr(library.constants, "HF_HUB_OFFLINE", True)
    assert named.load("hf://ann/plain").pixel_statistics["pixel_mean"] == LAYOUT_MEAN


def test_an_offline_cache_without_the_statistics_is_refused(
    server, library, monkeypatch
):
    library.hf_hub_download("ann/two", "model.safetensors")
    monkeypatch.setattr(library.constants, "HF_HUB_OFFLINE", True)
    command = f"run `hf download ann/two --revision={COMMIT} config.json`"
    with pytest.raises(InputError, match=f"without config.json, .*; {command}"):
        named.load("hf://ann/two")


def test_a_broken_connection_is_resumed(server, library, monkeypatch):
    monkeypatch.setattr(library.constants, "DOWNLOAD_CHUNK_SIZE", 50)
    path = "/ann/two/resolve/main/model.safetensors"
    server.cuts[path] = [100]
    assert named.load("hf://ann/two").record["revision"] == COMMIT
    assert server.asked("GET", path) == [None, "bytes=100-"]


def test_without_network_the_message_names_the_file_and_the_command(
    server, library, tmp_path, monkeypatch
):
    monkeypatch.setattr(library.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as error:
        named.load("hf://ann/two@v2")
    message = str(error.value)
    start = "hf://ann/two@v2: model.safetensors is not in the cache "
    assert message.startswith(
        f"{start}{tmp_path / 'cache'}, and cannot be downloaded "
        "(HF_HUB_OFFLINE is set); "
    )
    command = "`hf download ann/two --revision=v2 model.safetensors config.json`"
    assert command in message
    assert message.endswith("with the pixel statistics of config.json")


def test_an_absent_server_is_named(library, two_tensors, monkeypatch):
    point_to(library, "http://127.0.0.1:1", monkeypatch)
    # The library waits before it tries again.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(InputError, match=r"cannot be downloaded \(.*refused"):
        named.load("timm/resnet50")


VARIABLES = """
import sys
from borrow_det.weights import layouts, named
same = lambda array: array
shapes = {"stem.weight": (4, 3, 2, 2), "stem.bias": (4,)}
entries = {n: layouts.Entry(s, f"trunk/{n}", same) for n, s in shapes.items()}
layouts.LAYOUTS = {"two": layouts.Layout("two", entries, {})}
print(named.load(sys.argv[1]).record["revision"])
"""


def test_the_usual_variables_apply(server, library, tmp_path):
    def run(**variables):
        env = {**os.environ, "HF_HOME": str(tmp_path / "home"), **variables}
        command = [sys.executable, "-c", VARIABLES, "hf://ann/two"]
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert run(HF_ENDPOINT=server.address) == COMMIT
    assert (tmp_path / "home" / "hub" / "models--ann--two").is_dir()
    server.requests.clear()
    assert run(HF_ENDPOINT=server.address, HF_HUB_OFFLINE="1") == COMMIT
    assert server.requests == []


# Refusals.


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "RepoNotFound", "has no repository ann/none, or only its members see it"),
        (404, "RevisionNotFound", "ann/none has no branch, tag or commit v3"),
        (403, "GatedRepo", r"is for registered users: .*/ann/none, and run `hf auth l"),
    ],
)
def test_a_repository_that_cannot_be_read_is_named(server, status, code, message):
    server.errors["/ann/none/resolve/"] = (status, {"X-Error-Code": code})
    with pytest.raises(InputError, match=message):
        named.load("hf://ann/none@v3")


def test_a_wrong_tag_lists_the_nearest(server):
    message = "repository timm/resnet50.a1_in1kk, .*the nearest are timm/resnet50.a1_in"
    with pytest.raises(InputError, match=message):
        named.load("timm/resnet50.a1_in1kk")


def test_an_impossible_name_is_refused(server):
    with pytest.raises(InputError, match="hf://a--b/c is no name of a repository"):
        named.load("hf://a--b/c")


def test_weights_in_several_files_are_refused_with_a_list(server):
    files = {"model-00001-of-00002__safetensors": b"a"}
    index = {"model__safetensors__index__json": b"{}"}
    server.add_repository("ann/large", COMMIT, **files, **index)
    server.add_repository("ann/pickle", COMMIT, pytorch_model__bin=b"a")
    with pytest.raises(InputError) as error:
        named.load("hf://ann/large")
    assert str(error.value).startswith(
        "hf://ann/large has its weights in several files; its files are "
        "model-00001-of-00002.safetensors, model.safetensors.index.json: save the "
    )
    message = (
        "hf://ann/pickle has no model.safetensors; its files are pytorch_model.bin"
    )
    with pytest.raises(InputError, match=message):
        named.load("hf://ann/pickle")


def test_a_file_of_another_layout_names_its_tensors(server):
    import safetensors.numpy

    other = safetensors.numpy.save({"classifier.weight": np.zeros(3, np.float32)})
    server.add_repository("ann/other", COMMIT, model__safetensors=other)
    with pytest.raises(InputError, match=r"its tensors \(classifier\.weight\) do not"):
        named.load("hf://ann/other")


def test_the_absent_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"hub: pip install -r requirements-hub\.txt"):
        hub.fetch("ann/two", None)
