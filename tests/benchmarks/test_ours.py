"""Configs of the benchmarks are validated like those of runs."""

import pytest

from benchmarks import ours
from borrow_det.errors import InputError


def test_a_micro_batch_must_divide_the_batch():
    with pytest.raises(InputError, match=r"micro_batch is 2.* divide the 3 images"):
        ours.make_config(False, batch=3, micro_batch=2)
    assert ours.make_config(False, batch=4, micro_batch=2).micro_batch == 2
