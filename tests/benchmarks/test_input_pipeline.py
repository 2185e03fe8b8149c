"""The input pipeline and tf.data make the same batches in the benchmark."""

import functools

import numpy as np
import pytest

from borrow_det.data import sources

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def input_pipeline():
    pytest.importorskip("tensorflow", reason="requirements-tf.txt has it")
    from benchmarks import input_pipeline

    return input_pipeline


@pytest.fixture
def both(input_pipeline, tiny_config, tmp_path):
    """Function that returns functions for our and tf.data's batches with a canvas."""

    def both(canvas, count=4):
        tiny_config.dataset.canvas = canvas
        split = sources.load(tiny_config.dataset, "train")
        records = tmp_path / "records.tfrecord"
        input_pipeline.write_records(records, split, tiny_config, count)
        ours = functools.partial(
            input_pipeline.our_batches, split, tiny_config, 2, count
        )
        return ours, input_pipeline.tf_batches(records, tiny_config, 2)

    return both


# The scenes are 64 pixels wide and high.
@pytest.mark.parametrize("canvas", [(64, 64), (80, 100)])
def test_images_that_fit_the_canvas_are_equal(input_pipeline, both, canvas):
    ours, theirs = both(canvas)
    assert input_pipeline.compare(ours, theirs) == 0.0
    batches = list(ours())
    # Four batches of four are more than one epoch of the twelve scenes.
    assert [len(b["image"]) for b in batches] == [4, 4, 4, 4]
    assert len({i for b in batches for i in b["image_id"].tolist()}) == 12
    assert batches[0]["box_mask"].any(axis=1).all()


def test_shrunk_images_differ_only_by_rounding(input_pipeline, both):
    # The scale is not an integer, and the canvas is not square.
    ours, theirs = both((40, 72))
    assert 0 < input_pipeline.compare(ours, theirs) < 0.5
    first = next(ours())
    np.testing.assert_array_equal(first["image_size"], [[40, 40]] * 4)
    assert not first["image"][:, :, 40:].any()


@pytest.mark.parametrize("field", ["image", "boxes", "labels", "box_mask", "ignore"])
def test_different_batches_raise(input_pipeline, both, field):
    ours, theirs = both((64, 64), count=1)
    (batch,) = ours()
    changed = batch[field].copy()
    changed.flat[0] = ~changed.flat[0] if changed.dtype == bool else changed.flat[0] + 2
    with pytest.raises(AssertionError):
        input_pipeline.compare(lambda: iter([batch | {field: changed}]), theirs)


def test_rates_are_images_per_second_and_ratios_are_taken_by_round(input_pipeline):
    calls = {("ours", 1): np.array([2.0, 1.0, 4.0]), ("tf.data", 1): np.full(3, 4.0)}
    found = input_pipeline.summary({"clock": calls}, threads=1, images=80)
    assert found == {"clock": {"ours": 40.0, "tf.data": 20.0, "ratio": [1.5, 2, 3]}}
