"""Every task has what the loop asks of one, under the same arguments."""

import inspect

import pytest

from borrow_det import train
from borrow_det.tasks.task import Figures, Task


@pytest.mark.parametrize("name", list(train.TASKS))
def test_a_task_answers_all_that_the_loop_asks(name):
    task = train.TASKS[name]
    for asked, function in inspect.getmembers(Task, inspect.isfunction):
        if asked.startswith("_"):
            continue
        expected = list(inspect.signature(function).parameters)
        assert list(inspect.signature(getattr(task, asked)).parameters) == expected
    assert isinstance(task.figures, Figures)
    assert set(Task.__annotations__) == {"figures", "results", "predict_fields"}
    assert {"image", "image_size"} <= set(task.predict_fields)
