"""Exports of a run, and comparison of their detections."""

import json
import zipfile

import jax.export
import numpy as np

from borrow_det.tools.common import cli
from borrow_det.tools.export import __main__ as export


def run(workdir, output, *more):
    arguments = [f"--workdir={workdir}", f"--output={output}", *more]
    return cli.call(export.main, ["export", *arguments])


def loaded(path):
    """Returns (program, metadata) of a file."""
    with zipfile.ZipFile(path) as file:
        assert sorted(file.namelist()) == ["metadata.json", "model.stablehlo"]
        program = jax.export.deserialize(bytearray(file.read("model.stablehlo")))
        return program, json.loads(file.read("metadata.json"))


def assert_same(found, expected, rounding=1e-5):
    """Asserts that detections are equal up to rounding."""
    assert sorted(found) == sorted(expected) == ["boxes", "labels", "mask", "scores"]
    assert expected["mask"].any()
    for name, values in expected.items():
        tolerance = rounding if name in ("boxes", "scores") else 0
        np.testing.assert_allclose(
            found[name], values, rtol=0, atol=tolerance, err_msg=name
        )
        assert found[name].dtype == values.dtype, name
