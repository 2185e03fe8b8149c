"""A run that starts from published weights by name, and resumes without them."""

import hashlib
import json
import shutil

import flax
import jax
import numpy as np
import pytest
import safetensors.numpy

from borrow_det import train
from borrow_det.tasks import detection
from borrow_det.weights import layouts, named, published

pytestmark = pytest.mark.usefixtures("optax_promotes")


@pytest.fixture
def trunk(tiny_config, tmp_path, monkeypatch):
    """Arrays of tiny_config's trunk, which are the file torchvision/tiny in the cache.

    A download would fail.
    """
    task = detection.DetectionTask(tiny_config, 4)
    shapes = jax.eval_shape(task.init, jax.random.key(0))["params"]["trunk"]
    shapes = flax.traverse_util.flatten_dict({"trunk": shapes}, sep="/")
    rng = np.random.default_rng(0)
    arrays = {n: rng.normal(size=s.shape).astype(np.float32) for n, s in shapes.items()}
    entries = {
        name: layouts.Entry(array.shape, name, np.asarray)
        for name, array in arrays.items()
    }
    monkeypatch.setattr(
        layouts, "LAYOUTS", {"tiny": layouts.Layout("a tiny trunk", entries, {})}
    )
    content = safetensors.numpy.save(arrays)
    name = f"tiny-{hashlib.sha256(content).hexdigest()[:8]}.safetensors"
    file = published.TorchvisionFile(name, published.IMAGENET)
    monkeypatch.setattr(published, "TORCHVISION", {"tiny": {"V1": file}})
    monkeypatch.setattr(named, "_TORCHVISION_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    return arrays


def test_a_run_starts_from_a_name_and_resumes_without_it(
    trunk, tiny_config, tmp_path, capsys
):
    config = tiny_config
    config.init_from, config.init_scope = "torchvision/tiny", "trunk"
    config.model.pixel_mean = (1.0, 1.0, 1.0)
    run = train.prepare_run(config, tmp_path / "W")
    for path, array in trunk.items():
        node = run.state.params
        for part in path.split("/"):
            node = node[part]
        np.testing.assert_array_equal(node, array)
    assert "from torchvision/tiny (file tiny-" in capsys.readouterr().out
    stored = json.loads((tmp_path / "W" / "config.json").read_text())
    assert stored["init_from"] == "torchvision/tiny"
    mean = list(published.IMAGENET.fields()["pixel_mean"])
    assert stored["model"]["pixel_mean"] == mean
    record = json.loads((tmp_path / "W" / "initialization.json").read_text())
    assert record["origin"] == "torchvision/tiny"
    assert record["weights"]["file"].startswith("tiny-")
    assert len(record["weights"]["sha256"]) == 64
    assert record["normalization"]["pixel_mean"] == mean

    run.checkpoints.save(1, vars(run.state), force=True)
    run.close()
    shutil.rmtree(tmp_path / "torch")
    resumed = train.prepare_run(config, tmp_path / "W")
    resumed.close()
    assert resumed.checkpoints.latest_step == 1
    assert list(resumed.config.model.pixel_mean) == mean
