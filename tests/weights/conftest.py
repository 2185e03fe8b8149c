"""A layout of two tensors, and files of it."""

import json

import numpy as np
import pytest
import safetensors.numpy

from borrow_det.weights import layouts

SHAPES = {"stem.weight": (4, 3, 2, 2), "stem.bias": (4,)}


@pytest.fixture
def two_tensors(monkeypatch):
    """Makes a layout of SHAPES the only one; its pixel statistics are 1, 2, 3 and 4."""

    def same(array):
        return array

    entries = {
        name: layouts.Entry(shape, f"trunk/{name.replace('.', '/')}", same)
        for name, shape in SHAPES.items()
    }
    statistics = {
        "channel_order": "RGB",
        "pixel_mean": (1.0, 2.0, 3.0),
        "pixel_std": (4.0, 4.0, 4.0),
    }
    layout = layouts.Layout("a file of two tensors", entries, statistics)
    monkeypatch.setattr(layouts, "LAYOUTS", {"two": layout})


@pytest.fixture
def tensors():
    """The arrays of `weights`, by name."""
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=s).astype(np.float32) for name, s in SHAPES.items()}


@pytest.fixture
def weights(two_tensors, tensors) -> bytes:
    """A safetensors file of the layout `two_tensors`."""
    return safetensors.numpy.save(tensors)


@pytest.fixture
def timm_config() -> bytes:
    """A config.json of timm with other pixel statistics than ImageNet's."""
    fields = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.4]}
    return json.dumps({"architecture": "two", "pretrained_cfg": fields}).encode()
