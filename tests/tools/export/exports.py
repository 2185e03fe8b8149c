"""Exports of a run, and comparison of their detections."""

import json
import zipfile

import jax
import jax.export
import numpy as np

from borrow_det.data.augmentation.resampling import resize_batch
from borrow_det.models.references import ReferenceImages
from borrow_det.tools.common import cli
from borrow_det.tools.export import __main__ as export
from borrow_det.tools.export import program


def run(workdir, output, *more):
    arguments = [f"--workdir={workdir}", f"--output={output}", *more]
    return cli.call(export.main, ["export", *arguments])


def loaded(path):
    """Returns (program, metadata) of a file."""
    with zipfile.ZipFile(path) as file:
        assert sorted(file.namelist()) == ["metadata.json", "model.stablehlo"]
        program = jax.export.deserialize(bytearray(file.read("model.stablehlo")))
        return program, json.loads(file.read("metadata.json"))


def detected(detector, inputs):
    """Returns the detections of the network, given references of its input size."""
    references = inputs["reference_image"], inputs["reference_size"]
    each = [
        resize_batch(image, size, detector.input_size)
        for image, size in zip(*(np.moveaxis(x, 1, 0) for x in references), strict=True)
    ]
    predictions = detector.task.forward(
        detector.variables,
        inputs["image"],
        inputs["image_size"],
        ReferenceImages(np.stack(each, axis=1), inputs["reference_mask"]),
    )
    found = jax.device_get(detector.task.decode(predictions)._asdict())
    return {name: found[name] for name in program.OUTPUTS}


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
