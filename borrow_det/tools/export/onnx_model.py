"""Conversion of a JAX function to an ONNX model, and inference with it.

The packages of requirements-export.txt are imported when they are used.
"""

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from borrow_det.errors import InputError, absent_package
from borrow_det.ops import depthwise
from borrow_det.tools.export.program import Inputs

_ABSENT = "--format=onnx needs {}: pip install -r requirements-export.txt"


def convert(
    function: Callable[..., dict[str, Array]],
    inputs: Inputs,
    metadata: Mapping[str, Any],
) -> bytes:
    """Converts a function to an ONNX model.

    Args:
      function: returns a dictionary whose keys become the names of the outputs.
      inputs: shapes and types of the arguments by name, in their order; the batch size
        may be symbolic.
      metadata: properties of the model; each value is written as JSON.

    Returns:
      The serialized model.

    Raises:
      InputError: the packages are not installed, or cannot convert the function.
    """
    with absent_package(_ABSENT):
        import jax2onnx
        import onnx

    outputs = sorted(jax.eval_shape(function, *inputs.values()))
    with _quiet(), depthwise.one_form():
        try:
            model = jax2onnx.to_onnx(
                function,
                list(inputs.values()),
                model_name="detect",
                input_names=list(inputs),
                output_names=outputs,
            )
        except Exception as error:  # The converter raises errors of many kinds.
            reason = " ".join(str(error).split())
            raise InputError(f"jax2onnx cannot convert this run: {reason}") from error
    _remove_unused(model.graph)
    properties = {name: json.dumps(value) for name, value in metadata.items()}
    onnx.helper.set_model_props(model, properties)
    return model.SerializeToString()


def _remove_unused(graph: Any) -> set[str]:
    """Removes parts of a graph and its subgraphs about which onnxruntime warns.

    These are unused constants and the converter's shapes of intermediate values. Some
    of the shapes are wrong, and onnxruntime infers all of them.

    Returns:
      The names that the graph uses.
    """
    used = {output.name for output in graph.output}
    for node in graph.node:
        used.update(node.input)
        inner = (a.g for a in node.attribute if a.HasField("g"))
        used.update(*map(_remove_unused, inner))
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
    return used


def run(model: bytes, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Runs an ONNX model on the CPU and returns its outputs by name.

    Args:
      model: serialized model.
      inputs: arrays by name.

    Raises:
      InputError: the packages are not installed, or cannot run the model.
    """
    with absent_package(_ABSENT):
        import onnxruntime

    try:
        session = onnxruntime.InferenceSession(
            model, providers=["CPUExecutionProvider"]
        )
        found = session.run(None, dict(inputs))
    except Exception as error:  # onnxruntime has many kinds of errors.
        raise InputError(f"onnxruntime cannot run this model: {error}") from error
    return dict(zip((o.name for o in session.get_outputs()), found, strict=True))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides warnings of the converter that are meant for its developers."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            yield
    finally:
        logger.setLevel(level)
