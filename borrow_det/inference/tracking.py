"""Tracking: detections of a video's frames, linked by ByteTrack.

Zhang et al., ByteTrack: Multi-Object Tracking by Associating Every Detection Box, ECCV
2022, in the implementation of the package `trackers`: a Kalman filter predicts the box
of each track; detections above a score are assigned to the tracks by IoU, then those
below it to the tracks that are left.
"""

import collections
import dataclasses
import itertools
from typing import Any

import numpy as np

from borrow_det.errors import absent_package
from borrow_det.inference.detections import NO_TRACK, Detections

_ABSENT = (
    "tracking needs the package {}: pip install -r requirements-tracks.txt (the extra "
    "'tracks')"
)
LOWEST_SCORE = 0.1  # ByteTrack's, of a detection that continues a track.


class Tracker:
    """Links the detections of one video's frames, each class by itself.

    A detection of at least `score` begins a track, which gets its id if the next frame
    continues it: its first detection has none. Weaker detections, from `LOWEST_SCORE`
    on, only continue a track. A track that is lost for more than a second ends. Ids
    count from 1, over all classes.
    """

    def __init__(self, rate: float, score: float):
        """Begins a video.

        Args:
          rate: frames per second.
          score: minimum score of the detections that begin a track.

        Raises:
          InputError: the package trackers is not installed.
        """
        self._rate, self._score = rate, score
        with absent_package(_ABSENT):
            import trackers
        self._new = trackers.ByteTrackTracker
        self._trackers: dict[int, Any] = {}  # By label.
        fresh = itertools.count(1)
        # By (label, id of the label's tracker).
        self._ids = collections.defaultdict[tuple[int, int], int](lambda: next(fresh))

    def update(self, found: Detections) -> Detections:
        """Returns the detections of the next frame, with `track_ids`."""
        ids = np.full(len(found), NO_TRACK)
        candidates = found.scores >= min(LOWEST_SCORE, self._score)
        for label in {*self._trackers, *found.labels[candidates].tolist()}:
            if label not in self._trackers:
                self._trackers[label] = self._new(
                    frame_rate=self._rate,
                    track_activation_threshold=self._score,
                    high_conf_det_threshold=self._score,
                )
            places = np.flatnonzero(candidates & (found.labels == label))
            given = found[places].to_supervision()
            given.data["place"] = places
            linked = self._trackers[label].update(given)
            for place, track in zip(
                linked.data.get("place", ()), linked.tracker_id, strict=True
            ):
                if track >= 0:
                    ids[place] = self._ids[label, int(track)]
        return dataclasses.replace(found, track_ids=ids)


def check_installed() -> None:
    """Raises InputError if the package for tracking is not installed."""
    with absent_package(_ABSENT):
        import trackers  # noqa: F401
