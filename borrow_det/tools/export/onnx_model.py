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
    _tidy(model.graph)
    properties = {name: json.dumps(value) for name, value in metadata.items()}
    onnx.helper.set_model_props(model, properties)
    return model.SerializeToString()


def _tidy(graph) -> set[str]:
    """Takes out of a graph, and those inside it, what onnxruntime would complain of.

    That is the converter's shapes of intermediate values, some of which are wrong and
    all of which onnxruntime finds itself, and constants that nothing uses.

    Returns:
      The names that the graph uses.
    """
    used = {output.name for output in graph.output}
    for node in graph.node:
        used.update(node.input)
        inner = (a.g for a in node.attribute if a.HasField("g"))
        used.update(*map(_tidy, inner))
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
    return used


def run(model: bytes, *arrays: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs, by name, of an ONNX model on the CPU.

    Raises:
      InputError: the packages are not installed, or cannot run it.
    """
    with _installed():
        import onnxruntime

    try:
        session = onnxruntime.InferenceSession(
            model, providers=["CPUExecutionProvider"]
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
