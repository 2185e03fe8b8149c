"""Labels that look wrong, in splits with one mistake of each kind."""

import numpy as np

from borrow_det.tools.inspect import suspicious
from borrow_det.tools.inspect.duplicates import Fingerprint
from borrow_det.tools.inspect.objects import Image, Objects


def split_of(*images):
    """Objects and images of 100 x 200 pixels with (label, x, y, width, height)."""
    rows = [
        (image, number, *box)
        for image, boxes in enumerate(images)
        for number, box in enumerate(boxes)
    ]
    table = np.array(rows, float).reshape(-1, 7)
    x, y, width, height = table[:, 3:].T
    corners = np.stack([y, x, y + height, x + width], axis=1)
    objects = Objects(
        boxes=(corners / [100, 200, 100, 200]).clip(0, 1).astype(np.float32),
        labels=table[:, 2].astype(np.int32),
        images=table[:, 0].astype(np.int32),
        has_lender=np.zeros(len(table), bool),
        lender_distance=np.full(len(table), np.nan),
        annotated=corners,
        numbers=table[:, 1].astype(np.int64),
        num_images=len(images),
        ignored=0,
        without_area=0,
        most_boxes=0,
    )
    described = [
        Image(f"{i}.png", (100, 200), {}, Fingerprint(b"", None))
        for i in range(len(images))
    ]
    return objects, described


NAMES = ("cat", "dog")


def test_each_kind_of_mistake_is_found_with_its_place():
    objects, images = split_of(
        [(0, 10, 10, 20, 20), (0, 50, 50, 20, 20), (0, 50.5, 50, 20, 20)],
        [(1, 190, 10, 20, 20), (0, 199, 10, 1.5, 20)],
        [(1, 20, 20, 40, 40), (0, 20, 20, 40, 41)],
    )
    found = suspicious.find("train", objects, images, NAMES)
    (outside,) = found["off_image"]
    # Half a pixel beyond the border is rounding; ten pixels are not.
    assert outside[:7] == (
        *("off_image", "train", 1, "1.png", 0, "dog"),
        [190.0, 10.0, 20.0, 20.0],
    )
    assert outside.note == "10 pixels outside"
    (twice,) = found["duplicate"]
    assert (twice.file_name, twice.number, twice.class_name) == ("0.png", 2, "cat")
    assert twice.note == "IoU 0.95"
    (conflict,) = found["conflict"]
    assert (conflict.file_name, conflict.class_name) == ("2.png", "dog and cat")
    assert suspicious.counts({"train": found}) == dict.fromkeys(
        ("off_image", "duplicate", "conflict"), 1
    )


def test_extremes_are_one_of_each_image_and_sorted_over_splits():
    train, train_images = split_of(
        [(0, 0, 0, 100, 100), (0, 0, 0, 90, 100), (0, 5, 5, 2, 3)],
        [(0, 0, 0, 10, 10)],
    )
    val, val_images = split_of([(0, 0, 0, 60, 100), (1, 0, 50, 80, 4)])
    found = {
        "train": suspicious.find("train", train, train_images, NAMES),
        "val": suspicious.find("val", val, val_images, NAMES),
    }
    shown = suspicious.chosen(found)
    assert [(one.split, one.file_name, one.note) for one in shown["largest"]] == [
        ("train", "0.png", "50.0% of the image"),
        ("val", "0.png", "30.0% of the image"),
        ("train", "1.png", "0.5% of the image"),
    ]
    assert [one.note for one in shown["smallest"]] == [
        *("2.0 x 3.0 pixels", "10.0 x 10.0 pixels", "80.0 x 4.0 pixels"),
    ]
    assert shown["elongated"][0].note == "width / height 20"
    assert shown["elongated"][0].split == "val"


def test_a_split_without_objects_has_nothing_to_show():
    objects, images = split_of([], [])
    found = suspicious.find("train", objects, images, NAMES)
    assert found == {kind: [] for kind in suspicious.KINDS}
    assert suspicious.chosen({"train": found}) == found
