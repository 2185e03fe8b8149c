"""Tracks of made detections, by the real package."""

import sys

import numpy as np
import pytest

from borrow_det.errors import InputError
from borrow_det.inference import tracking
from borrow_det.inference.detections import NO_TRACK, Detections
from borrow_det.inference.tracking import Tracker

SIDE = 20


def frame(*objects):
    """Detections at (label, x, y, score), squares of SIDE pixels."""
    labels, x, y, scores = np.array(objects, float).reshape(-1, 4).T
    return Detections(
        boxes=np.stack([x, y, x + SIDE, y + SIDE], axis=1),
        scores=scores.astype(np.float32),
        labels=labels.astype(int),
        class_names=("car", "bus"),
        category_ids=(3, 9),
        image_size=(100, 200),
        image=np.zeros((100, 200, 3), np.uint8),
    )


def ids(tracker, *frames):
    return [tracker.update(frame(*objects)).track_ids.tolist() for objects in frames]


@pytest.mark.extras
def test_two_objects_that_cross_keep_their_ids():
    tracker = Tracker(rate=30.0, score=0.5)
    rng = np.random.default_rng(0)
    tracks = {}
    for i in range(40):
        right, left = (0, 5 + 4 * i, 40, 0.9), (0, 165 - 4 * i, 48, 0.8)
        order = rng.permutation(2)  # Detections have no order of their own.
        found = tracker.update(frame(*np.array([right, left])[order]))
        for place, name in enumerate(order):
            tracks.setdefault(int(name), []).append(int(found.track_ids[place]))
    # Their boxes overlap by up to 43 % (IoU) on the way.
    assert [track[0] for track in tracks.values()] == [NO_TRACK, NO_TRACK]
    assert {len(set(track[1:])) for track in tracks.values()} == {1}
    assert {track[-1] for track in tracks.values()} == {1, 2}


@pytest.mark.extras
def test_objects_of_two_classes_at_one_place_have_tracks_of_their_own():
    pair = [(0, 10, 10, 0.9), (1, 10, 10, 0.8)]
    found = ids(Tracker(30.0, 0.5), pair, pair, pair[::-1], pair)
    assert found == [[NO_TRACK, NO_TRACK], [1, 2], [2, 1], [1, 2]]


@pytest.mark.extras
def test_a_lost_object_keeps_its_id_for_a_second():
    car = [(0, 10, 10, 0.9)]
    nothing = [()]

    def after(lost, rate):
        return ids(Tracker(rate, 0.5), car, car, *nothing * lost, car, car)[-1]

    assert after(29, rate=30.0) == [1]
    assert after(31, rate=30.0) == [2]
    assert after(9, rate=10.0) == [1]
    assert after(11, rate=10.0) == [2]


@pytest.mark.extras
def test_weak_detections_continue_a_track_and_begin_none():
    tracker = Tracker(30.0, 0.5)
    strong, weak, weakest = ([(0, 10, 10, score)] for score in (0.5, 0.1, 0.09))
    assert ids(tracker, weak, weak, weak) == [[NO_TRACK]] * 3
    assert ids(tracker, strong, strong, weak, weakest, weak) == [
        [NO_TRACK],
        [1],
        [1],
        [NO_TRACK],
        [1],
    ]
    assert ids(Tracker(30.0, 0.05), weakest, weakest) == [[NO_TRACK], [1]]


@pytest.mark.extras
def test_the_detections_stay_as_they_are():
    tracker = Tracker(30.0, 0.5)
    given = frame((1, 50, 50, 0.6), (0, 10, 10, 0.9), (1, 90, 10, 0.05))
    tracker.update(given)
    found = tracker.update(given)
    assert sorted(found.track_ids[:2].tolist()) == [1, 2]
    assert found.track_ids[2] == NO_TRACK
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name))
    assert found.to_supervision().tracker_id.tolist() == found.track_ids.tolist()
    empty = tracker.update(frame())
    assert (len(empty), empty.track_ids.shape) == (0, (0,))


def test_the_absent_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    for use in (tracking.check_installed, lambda: Tracker(30.0, 0.5)):
        with pytest.raises(
            InputError, match=r"trackers: pip install -r requirements-t"
        ):
            use()
