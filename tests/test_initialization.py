"""What a run takes from another, and what it leaves as it was."""

import jax
import numpy as np
import pytest

from borrow_det import initialization
from borrow_det.errors import InputError
from borrow_det.tasks import detection


def full(config, value, num_classes=2):
    """Variables of a detector whose every entry is `value`."""
    task = detection.DetectionTask(config, num_classes)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    return jax.tree.map(lambda x: np.full(x.shape, value, x.dtype), shapes)


def test_take_leaves_what_does_not_fit_as_it_was(tiny_run, tiny_config):
    tiny_config.borrow.channels = 4
    given = initialization.load(tiny_run.workdir)
    variables, taken, fresh = initialization.take(given, full(tiny_config, 7), "all")
    params = variables["params"]
    jax.tree.map(
        np.testing.assert_array_equal, params["trunk"], given["params"]["trunk"]
    )
    np.testing.assert_array_equal(
        params["head2"]["box"]["kernel"], given["params"]["head2"]["box"]["kernel"]
    )
    assert "params/trunk/conv1_1/conv/kernel" in taken
    for path in ("neck/fmb1/theta/Conv_0/kernel", "head1/class/kernel"):
        assert f"params/{path}" in fresh
    assert np.all(params["head1"]["class"]["kernel"] == 7)
    assert np.all(params["neck"]["ffb1"]["W"]["kernel"] == 7)


def test_load_of_nothing_is_an_error(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoints"):
        initialization.load(tmp_path / "none")
