"""Configs of the benchmarks are held to a run's rules."""

import pytest

from benchmarks import ours
from borrow_det.errors import InputError


def test_passes_that_do_not_divide_a_batch_are_refused():
    with pytest.raises(InputError, match=r"micro_batch is 2.* divide the 3 images"):
        ours.make_config(False, batch=3, micro_batch=2)
    assert ours.make_config(False, batch=4, micro_batch=2).micro_batch == 2
