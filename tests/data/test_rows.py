import dataclasses

import numpy as np
import pytest

from borrow_det.data import pipeline, rows, sources
from borrow_det.errors import InputError
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.common import synthetic


def test_room_is_rounded_up_to_few_numbers():
    counts = [0, 1, 8, 9, 12, 13, 16, 17, 24, 25, 33, 64, 65, 97, 128, 129, 1000]
    assert [rows.room_for(n) for n in counts] == [
        *(8, 8, 8, 12, 12, 16, 16, 24, 24, 32, 48, 64, 96, 128, 128, 192, 1024)
    ]


def crowded(drawn_config, *counts):
    """Returns a split whose images have these numbers of boxes."""
    split = sources.load(drawn_config.dataset, f"train[:{len(counts)}]")

    def convert(record, index):
        found = sources.Split.__getitem__(split, index)
        boxes = np.linspace(0.1, 0.9, counts[index])[:, None] * np.float32([0, 0, 1, 1])
        return {
            **found,
            "file_name": f"{index}.png",
            "boxes": boxes.astype(np.float32),
            "labels": np.zeros(counts[index], np.int32),
            "is_crowd": np.zeros(counts[index], bool),
            "is_difficult": np.zeros(counts[index], bool),
        }

    return dataclasses.replace(split, convert=convert)


def test_without_a_limit_rows_have_room_for_every_image(drawn_config):
    split = crowded(drawn_config, 3, 21, 7)
    np.testing.assert_array_equal(split.box_counts, [3, 21, 7])
    drawn_config.dataset.max_boxes = 0
    drawn_config.batch_size = 3
    batch = next(pipeline.train_batches(split, drawn_config))
    assert batch["boxes"].shape == (3, 24, 4)
    assert sorted(batch["box_mask"].sum(axis=1)) == [3, 7, 21]
    assert pipeline.check_training_data(split, drawn_config)["cut_boxes"] == 0


def test_rows_have_room_for_the_copies_that_a_run_pastes(drawn_config):
    split = crowded(drawn_config, 3, 21, 7)
    drawn_config.augment.paste_count = 4

    def room():
        return DetectionTask(drawn_config, 3).train_row(split).max_boxes

    drawn_config.dataset.max_boxes = 0
    assert room() == 24
    drawn_config.augment.paste = 0.1
    assert room() == 32
    drawn_config.augment.enabled = False
    assert room() == 24
    # A given number is kept.
    drawn_config.augment.enabled, drawn_config.dataset.max_boxes = True, 22
    assert room() == 22


def test_the_message_names_the_image_with_the_most_boxes(drawn_config):
    drawn_config.dataset.max_boxes = 6
    split = crowded(drawn_config, 3, 7, 21, 9)
    message = (
        r"2\.png of scale_pairs has 21 boxes, more than dataset\.max_boxes = 6 \(2 "
        r"other images have too many, too\): increase that"
    )
    with pytest.raises(InputError, match=message):
        pipeline.check_training_data(split, drawn_config)
    drawn_config.dataset.overflow = "keep_first"
    assert pipeline.check_training_data(split, drawn_config)["cut_boxes"] == 19


def test_noise_without_data_has_room_for_many_boxes(drawn_config):
    drawn_config.dataset.max_boxes = 0
    batch = synthetic.make_batch(drawn_config, classes=2, images=1)
    assert batch["boxes"].shape == (1, 128, 4)
    assert batch["box_mask"].sum() == 8
