"""The rows of an evaluation: with every box, however many, and which are small."""

import numpy as np
import pytest

from borrow_det.data import sources
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tasks.detection_evaluation import EvalRow
from borrow_det.tasks.task import EvalSet


@pytest.fixture
def eval_set(tiny_config):
    source = sources.load(tiny_config.dataset, "val")
    return EvalSet(source, sources.ground_truth(source))


@pytest.mark.parametrize(("max_boxes", "rows"), [(12, 12), (4, 12), (3, 12), (50, 50)])
def test_no_box_is_left_out(tiny_config, eval_set, max_boxes, rows):
    tiny_config.dataset.max_boxes = max_boxes
    counts = [len(eval_set.source[i]["boxes"]) for i in range(len(eval_set.source))]
    assert 8 < max(counts) <= 12
    batches = DetectionTask(tiny_config, 4).eval_batches(eval_set)
    found = []
    for batch in batches:
        assert batch["boxes"].shape == (4, rows, 4)
        found += batch["box_mask"].sum(axis=1).tolist()
    assert found == [*counts, 0]  # The last row is padding.
    assert batches.counts == {}


def test_small_is_the_area_of_the_annotation(tiny_config, eval_set):
    record = dict(eval_set.source[0])
    record["area"] = np.full(len(record["boxes"]), 1025.0, np.float32)
    record["area"][[0, 2]] = 0.0, 1024.0
    row = EvalRow.of(eval_set, tiny_config.dataset)(record)
    np.testing.assert_array_equal(np.flatnonzero(row["small"]), [0, 2])
    assert len(row["small"]) == 12
