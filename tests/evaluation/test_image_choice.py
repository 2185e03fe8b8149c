"""The choice of images to show."""

import numpy as np
import pytest

from borrow_det.evaluation.image_choice import Places, choose
from borrow_det.evaluation.outcomes import DETECTION_KINDS, Outcomes

NAMES = ("cat", "dog")
BACKGROUND = DETECTION_KINDS.index("background")


@pytest.fixture
def split():
    """A split of 16 images.

    Image i has i false positives; image 3 also has two small objects that are not
    found, image 5 a hit, image 7 an error of another kind and class, and image 9 errors
    below the threshold.
    """
    rows = [(0, BACKGROUND, 90, i) for i in range(16) for _ in range(i)]
    rows += [(0, 0, 90, 5), (1, DETECTION_KINDS.index("duplicate"), 60, 7)]
    rows += [(1, BACKGROUND, 10, 9)] * 40
    label, kind, highest, image = np.array(rows).T
    objects = np.array([3, 3, 5])
    found = Outcomes(
        label=label,
        size=np.full(len(rows), 2),
        kind=kind,
        highest=highest,
        object_label=np.zeros(3, int),
        object_size=np.array([0, 0, 2]),
        object_counts=np.ones(3, bool),
        found=np.array([-1, -1, 90]),
        covered=np.full(3, -1),
    )
    return found, Places(image, objects, 16)


def chosen_at(split, threshold, limit):
    return choose(*split, NAMES, threshold, limit)


def reasons(chosen):
    groups = {}
    for image, reason in chosen:
        groups.setdefault(reason, []).append(image)
    return groups


def test_each_group_has_its_images(split):
    groups = reasons(chosen_at(split, 50, limit=8))
    assert groups == {
        "most errors": [15, 14],
        "most small objects not found": [3],
        "fewest errors": [5],
        # Of 7.5 errors, in the middle; image 7 has one more.
        "around the median number of errors": [7],
        "most errors of cat, background": [13],
        "one of the others with the most errors": [12, 11],
    }


def test_each_kind_and_class_has_an_image(split):
    found, places = split
    image = places.detections.copy()
    image[found.kind == DETECTION_KINDS.index("duplicate")] = 2
    moved = places._replace(detections=image)
    groups = reasons(chosen_at((found, moved), 50, limit=8))
    assert groups["most errors of cat, background"] == [13]
    assert groups["most errors of dog, duplicate"] == [2]


def test_few_images_are_the_worst_the_best_and_the_median_one(split):
    groups = reasons(chosen_at(split, 50, limit=4))
    assert groups == {
        "most errors": [15],
        "most small objects not found": [3],
        "fewest errors": [5],
        "around the median number of errors": [7],
    }


def test_images_with_small_objects_are_chosen_if_all_are_found(split):
    found, places = split
    found = found._replace(found=np.full(3, 90))
    groups = reasons(chosen_at((found, places), 50, limit=4))
    assert groups["most small objects"] == [3]
    assert "most small objects not found" not in groups


def test_errors_count_from_the_threshold_on(split):
    groups = reasons(chosen_at(split, 10, limit=4))
    assert groups["most errors"] == [9]
    groups = reasons(chosen_at(split, 11, limit=4))
    assert groups["most errors"] == [15]


def test_all_images_of_a_small_split_are_chosen_once(split):
    chosen = chosen_at(split, 50, limit=48)
    assert sorted(c.image for c in chosen) == list(range(16))
    assert chosen_at(split, 50, limit=48) == chosen
