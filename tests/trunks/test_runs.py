"""A run of each family of trunks: resuming, tiles, exports, explanations."""

import json
import types

import jax
import numpy as np
import PIL.Image
import pytest

from borrow_det import train
from borrow_det.inference.detector import Detector
from borrow_det.models.trunks import TRUNKS
from borrow_det.tools.common import cli
from borrow_det.tools.explain import __main__ as explain
from tests import program
from tests.tools.export import exports

pytestmark = [
    pytest.mark.trunks,
    pytest.mark.usefixtures("optax_promotes", "flax_promotes"),
]

SMALL = {
    "resnet18": {"model.width": 1 / 16, "model.stages": (1, 1, 1, 1)},
    "convnext_tiny": {"model.width": 1 / 24, "model.stages": (1, 1, 1, 1)},
    "vit_small": {"model.width": 1 / 24, "model.stages": (2,)},
}


@pytest.fixture(scope="module")
def flax_promotes():
    """Flax's normalization layers promote ranks."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module", params=SMALL)
def run(request, make_tiny_config, tmp_path_factory, flax_promotes):
    """A finished run of a family: `workdir` and `config`."""
    config = make_tiny_config()
    config.model.trunk = request.param
    config.model.norm = TRUNKS[request.param].norm
    config.update_from_flattened_dict(SMALL[request.param])
    # For eight devices; means over one step, so that every line can be compared.
    config.batch_size = config.eval_batch_size = 8
    config.log_every = 1
    config.evaluation.tiles = "2x2"
    workdir = tmp_path_factory.mktemp(request.param) / "W"
    train.train_and_evaluate(config, workdir)
    return types.SimpleNamespace(workdir=workdir, config=config)


def test_a_resumed_run_equals_an_uninterrupted_one(run, tmp_path, stop_after):
    """The figures and detections of its evaluation by tiles among them."""
    folder = tmp_path / "W"
    stop_after(3)
    with pytest.raises(stop_after.error):
        train.train_and_evaluate(run.config, folder)
    stop_after(2)
    train.train_and_evaluate(run.config, folder)
    program.assert_same_run(folder, run.workdir)


def test_its_exported_program_detects_the_same(run, scenes, tmp_path):
    output = tmp_path / "detector.zip"
    assert exports.run(run.workdir, output) == 0
    images = np.stack([PIL.Image.open(scenes / f"val_{i}.jpg") for i in range(3)])
    sizes = np.full((3, 2), 64, np.int32)
    found = exports.loaded(output)[0].call(images, sizes)
    expected = Detector.load(run.workdir).detect_canvases(images, sizes)
    exports.assert_same(found, expected)


def test_explain_names_its_levels(run, scenes, tmp_path):
    output = tmp_path / "explained"
    arguments = [f"--workdir={run.workdir}", f"--output={output}", "--score=0.0001"]
    image = str(scenes / "val_0.jpg")
    assert cli.call(explain.main, ["explain", *arguments, image]) == 0
    text = json.dumps([json.loads(path.read_text()) for path in output.rglob("*.json")])
    assert TRUNKS[run.config.model.trunk].level_names[0] in text
