"""Turning a JAX function into an ONNX model, and running one; for tools.export.

The packages of requirements-export.txt are asked for when they are used.
"""

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax import Array

from borrow_det.errors import InputError

# In the order of the function's.
_INPUTS = ("image", "image_size")


def convert(
    function: Callable[..., dict[str, Array]],
    inputs: Sequence[jax.ShapeDtypeStruct],
    metadata: dict,
) -> bytes:
    """An ONNX model of a function of `image` and `image_size`.

    Args:
      function: gives a dictionary; its keys become the names of the outputs.
      inputs: its arguments, their batch possibly symbolic.
      metadata: becomes the model's properties, each value as JSON.

    Raises:
      InputError: the packages are not installed, or cannot convert it.
    """
    with _installed():
        import jax2onnx
        import onnx

    outputs = sorted(jax.eval_shape(function, *inputs))
    with _quiet():
        try:
            model = jax2onnx.to_onnx(
                function,
                list(inputs),
                model_name="detect",
                input_names=_INPUTS,
                output_names=outputs,
            )
        except Exception as error:  # Of what it does not know it says anything.
            raise InputError(f"jax2onnx does not convert this run: {error}") from error
    properties = {name: json.dumps(value) for name, value in metadata.items()}
    onnx.helper.set_model_props(model, properties)
    return model.SerializeToString()


def run(model: bytes, *arrays: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs, by name, of an ONNX model on the CPU.

    Raises:
      InputError: the packages are not installed, or cannot run it.
    """
    with _installed():
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # The converter leaves constants that nothing uses.
    try:
        session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        found = session.run(None, dict(zip(_INPUTS, arrays, strict=True)))
    except Exception as error:  # Of its own kinds, one a status.
        raise InputError(f"onnxruntime does not run this model: {error}") from error
    return dict(zip((o.name for o in session.get_outputs()), found, strict=True))


@contextlib.contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise InputError(
            f"--format=onnx needs {error.name}: pip install -r requirements-export.txt"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the converter says to its own developers."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            yield
    finally:
        logger.setLevel(level)
