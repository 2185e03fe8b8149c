"""Every task and evaluator has the methods of its protocol, with their parameters."""

import inspect

import pytest

from borrow_det.tasks import EVALUATORS, TASKS
from borrow_det.tasks.task import Evaluator, Figures, Task


def assert_satisfies(kind, protocol):
    for name, function in inspect.getmembers(protocol, inspect.isfunction):
        if name.startswith("_"):
            continue
        expected = list(inspect.signature(function).parameters)
        assert list(inspect.signature(getattr(kind, name)).parameters) == expected


@pytest.mark.parametrize("name", list(TASKS))
def test_task_satisfies_the_protocol(name):
    assert_satisfies(TASKS[name], Task)
    assert set(Task.__annotations__) == {"config", "predict_fields", "stages", "frozen"}
    assert {"image", "image_size"} <= set(TASKS[name].predict_fields)


@pytest.mark.parametrize("name", list(TASKS))
def test_evaluator_satisfies_the_protocol(name):
    assert_satisfies(EVALUATORS[name], Evaluator)
    assert set(Evaluator.__annotations__) == {"split", "figures", "results_name"}
    assert isinstance(EVALUATORS[name].figures, Figures)
