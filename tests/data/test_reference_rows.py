"""Rows with references: other images of the group, in training and in evaluation."""

import contextlib
import itertools

import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.data import pipeline, reference_rows, sources
from borrow_det.data.groups import make_groups
from borrow_det.data.rows import BoxesRow
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tasks.detection_evaluator import DetectionEvaluator
from borrow_det.tools.common import synthetic

# Groups of 7, 4, 2 and 1 images, mixed.
KEYS = "aabacabbaabcad"
IDS = [10 * (i + 1) for i in range(len(KEYS))]


@pytest.fixture
def config(folder, noise_image):
    """A configuration of a run with two references, on a folder of 14 images."""
    for i, key in enumerate(KEYS):
        boxes = [(1, [2 * n, 3, 5, 6 + n]) for n in range(i % 3)]
        image = noise_image(height=20 + i, width=40 - i, seed=i)
        folder.add(f"{key}_{i}.png", image, boxes)["shot"] = key
    folder.write()
    config = base.get_config()
    config.dataset = folder.config()
    config.dataset.canvas = (40, 48)
    config.dataset.max_boxes = 0
    config.input_size = (64, 64)
    config.batch_size = config.eval_batch_size = 4
    config.references.kind = "group"
    config.references.field = "shot"
    return config


def batches_of(config, steps=8, start=0, process=(0, 1), workers=0):
    """Returns training batches as a run makes them."""
    config.dataset.num_workers = workers
    split = sources.load(config.dataset, "train")
    row = DetectionTask(config, 2).train_row(split)
    batches = pipeline.train_batches(split, config, start, *process, make_row=row)
    with contextlib.closing(batches):
        return list(itertools.islice(batches, steps))


def joined(batches):
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


def indices_of(rows):
    """Finds the images of rows and their references, by pixels: -1 for absent ones."""
    split_rows = {row["image"].tobytes(): i for i, row in enumerate(rows["own"])}
    found = [split_rows[image.tobytes()] for image in rows["image"]]
    references = [
        [
            split_rows[image.tobytes()] if there else -1
            for image, there in zip(images, mask, strict=True)
        ]
        for images, mask in zip(
            rows["reference_image"], rows["reference_mask"], strict=True
        )
    ]
    return found, references


@pytest.fixture
def own_rows(config):
    """The rows of all images, by index."""
    split = sources.load(config.dataset, "train")
    row = BoxesRow.of(split, config.dataset)
    return [row(split[i]) for i in range(len(split))]


def assert_rows_hold_their_images(rows, own_rows):
    """Checks every field of the references against the rows of their images."""
    found, references = indices_of({**rows, "own": own_rows})
    assert (np.array(references) == -1).any()
    for i, (index, chosen) in enumerate(zip(found, references, strict=True)):
        for n, other in enumerate(chosen):
            expected = dict(own_rows[index if other < 0 else other])
            if other < 0:  # The pixels of the image itself, and no boxes.
                for name in ("boxes", "labels", "box_mask", "ignore"):
                    expected[name] = np.zeros_like(expected[name])
            for name in ("boxes", "labels", "box_mask", "ignore", "image"):
                value = rows[f"reference_{name}"][i, n]
                np.testing.assert_array_equal(value, expected[name])
                assert value.dtype == expected[name].dtype
            size = rows["reference_size"][i, n]
            np.testing.assert_array_equal(size, expected["image_size"])
    return found, references


def test_training_rows_hold_other_images_of_the_group(config, own_rows):
    rows = joined(batches_of(config, steps=21))  # Six epochs.
    assert rows["reference_image"].shape == (84, 2, 40, 48, 3)
    assert rows["reference_boxes"].shape == (84, 2, 8, 4)
    found, references = assert_rows_hold_their_images(rows, own_rows)
    seen = set()
    for index, chosen in zip(found, references, strict=True):
        there = [other for other in chosen if other >= 0]
        group = [i for i, key in enumerate(KEYS) if key == KEYS[index] and i != index]
        assert len(there) == min(2, len(group))
        assert len({*there}) == len(there)  # Without repetition.
        assert {*there} <= {*group}
        assert chosen[len(there) :] == [-1] * (2 - len(there))
        seen.add((index, *chosen))
    # Each epoch draws anew, in both orders.
    assert len({(index, *sorted(rest)) for index, *rest in seen}) > 40
    assert any((i, b, a) in seen for i, a, b in seen if a != b)


def test_references_do_not_change_the_order_of_the_data(config):
    with_references = joined(batches_of(config))
    config.references.kind = "none"
    without = joined(batches_of(config))
    assert not any(name.startswith("reference") for name in without)
    for name, value in without.items():
        np.testing.assert_array_equal(with_references[name], value)


def assert_equal(found, expected):
    assert sorted(found) == sorted(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_references_depend_on_seed_and_step_alone(config):
    expected = batches_of(config)
    for found, step in zip(batches_of(config, 3, start=5), (5, 6, 7), strict=True):
        assert_equal(found, expected[step])
    shares = [batches_of(config, process=(p, 2)) for p in (0, 1)]
    for step in range(8):
        assert_equal(joined([share[step] for share in shares]), expected[step])
    for found, one in zip(batches_of(config, workers=2), expected, strict=True):
        assert_equal(found, one)
    config.seed = 1
    other = joined(batches_of(config))
    assert not np.array_equal(
        other["reference_image"], joined(expected)["reference_image"]
    )


def test_references_of_the_same_image_differ_from_epoch_to_epoch_with_one_batch(config):
    config.batch_size = 14
    first, second = batches_of(config, 2)
    a, b = np.argsort(first["image_id"]), np.argsort(second["image_id"])
    np.testing.assert_array_equal(first["image"][a], second["image"][b])
    assert not np.array_equal(first["reference_image"][a], second["reference_image"][b])


@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_rows_have_references_that_are_spread_over_the_group(
    config, own_rows, processes
):
    split = sources.load(config.dataset, "train")
    evaluator = DetectionEvaluator(split, config)
    shares = [list(evaluator.batches(p, processes)) for p in range(processes)]
    rows = joined([joined(step) for step in zip(*shares, strict=True)])
    assert len(rows["mask"]) == 16
    padding = {name: value[14:] for name, value in rows.items()}
    rows = {name: value[:14] for name, value in rows.items()}
    np.testing.assert_array_equal(rows["image_id"], IDS)
    found, references = assert_rows_hold_their_images(rows, own_rows)
    assert found == list(range(14))
    members = {
        key: [i for i in range(14) if KEYS[i] == key] for key in dict.fromkeys(KEYS)
    }
    # Two of six others are the second and the fifth.
    assert members["a"] == [0, 1, 3, 5, 8, 9, 12]
    assert references[0] == [3, 9]
    assert references[5] == [1, 9]
    assert references[2] == [6, 10]  # 6, 7, 10 are three others.
    assert references[4] == [11, -1]
    assert references[13] == [-1, -1]
    # Padding has absent references, of a size that can be resized.
    assert not padding["reference_mask"].any()
    assert not padding["reference_image"].any()
    np.testing.assert_array_equal(
        padding["reference_size"], np.full((2, 2, 2), [40, 48])
    )


@pytest.mark.parametrize("total", range(12))
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_spread_indices_are_distinct_and_even(total, count):
    found = reference_rows.spread(np.arange(total), count)
    assert len(found) == min(total, count)
    assert len({*found}) == len(found)
    assert (np.diff(found) > 0).all()
    if total > count:
        # Reference n is in the middle of part n of the group, within one image.
        middle = (np.arange(count) + 0.5) * total / count
        assert (np.abs(found + 0.5 - middle) <= 0.5).all()


def test_a_task_predicts_from_the_fields_of_its_rows(config):
    task = DetectionTask(config, 2)
    evaluator = DetectionEvaluator(sources.load(config.dataset, "train"), config)
    with contextlib.closing(evaluator.batches()) as batches:
        batch = next(batches)
    names = [name for name in batch if name.startswith("reference_")]
    assert len(names) == 7
    assert {*names} < {*task.predict_fields} <= {*batch}
    config.references.kind = "none"
    assert {*DetectionTask(config, 2).predict_fields} == {
        name for name in task.predict_fields if not name.startswith("reference_")
    }


def test_shapes_of_rows_need_no_group(config, own_rows):
    groups = make_groups("aab")
    split = sources.load(config.dataset, "train[:3]")
    row = BoxesRow.of(split, config.dataset)
    made = reference_rows.ReferencesRow(split, row, row, groups, 2)(2)
    shapes = reference_rows.with_absent_references(row(split[2]), 2)
    assert_equal(shapes, made)
    assert {name: v.dtype for name, v in shapes.items()} == {
        name: v.dtype for name, v in made.items()
    }


def test_noise_without_data_has_the_fields_of_rows(config, own_rows):
    noise = synthetic.make_batch(config, classes=2, images=4)
    config.dataset.max_boxes = 128  # Those of noise without data.
    (batch,) = batches_of(config, steps=1)
    assert sorted(noise) == sorted(batch)
    for name, value in batch.items():
        assert (noise[name].dtype, noise[name].shape) == (value.dtype, value.shape)
    # References are other images, with lenders for the small objects.
    assert noise["reference_mask"].all()
    assert noise["reference_box_mask"].sum(axis=2).tolist() == [[8, 8]] * 4
    assert (noise["reference_image"] != noise["image"][:, None]).mean() > 0.9
    # What runs without references get does not change.
    config.references.kind, config.dataset.max_boxes = "none", 0
    without = synthetic.make_batch(config, classes=2, images=4)
    assert_equal({name: noise[name] for name in without}, without)
