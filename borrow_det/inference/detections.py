"""Detections of one image, in pixels, as the public API returns them."""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, overload

import numpy as np
import PIL.Image

from borrow_det.errors import InputError
from borrow_det.io import paths
from borrow_det.tasks import detection_evaluator
from borrow_det.visualization import annotate

NO_TRACK = -1  # Track id of a detection that is in no track.
DRAWN_SCORE = 0.4  # Minimum score of the detections that are drawn by default.
_LISTED = 4  # Detections that the text form of Detections lists.


class Detection(NamedTuple):
    """One detected object.

    Attributes:
      box: float [4], `[x_min, y_min, x_max, y_max]` in pixels of the upright image.
      score: in [0, 1].
      label: index of the class, from 0.
      class_name: name of the class.
      category_id: id of the class in the COCO files of the run.
    """

    box: np.ndarray
    score: float
    label: int
    class_name: str
    category_id: int | str


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The n detections of one image, best first.

    `len`, iteration (over `Detection`), and indexing by an integer, a slice, a mask or
    an array of indices work as for a sequence.

    Attributes:
      boxes: float64 [n, 4], `[x_min, y_min, x_max, y_max]` in pixels of the upright
        image.
      scores: float32 [n], in [0, 1].
      labels: int [n], index of each class, from 0.
      class_names: name of each label.
      category_ids: id of each label in the COCO files of the run.
      image_size: (height, width) of the image in pixels.
      image: uint8 RGB [H, W, 3], the upright image. The image of a file that was read
        by strips is shrunk by an integer factor to at most 2**24 pixels.
      track_ids: int [n] of a frame of a video, ids of `tracking.Tracker` from 1 on, or
        NO_TRACK; None without tracking.
      seconds: time of the network for the image, its share of each batch, without the
        compilation of the program.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    image_size: tuple[int, int]
    image: np.ndarray
    seconds: float = 0.0
    track_ids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Detection: ...
    @overload
    def __getitem__(self, index: slice | np.ndarray | list) -> "Detections": ...
    def __getitem__(
        self, index: int | slice | np.ndarray | list
    ) -> "Detection | Detections":
        if isinstance(index, (int, np.integer)):
            label = int(self.labels[index])
            return Detection(
                self.boxes[index],
                float(self.scores[index]),
                label,
                self.class_names[label],
                self.category_ids[label],
            )
        if not isinstance(index, slice):
            # A list of no index is one of floats to NumPy.
            index = np.asarray(index) if len(index) else np.zeros(0, int)
        return dataclasses.replace(
            self,
            boxes=self.boxes[index],
            scores=self.scores[index],
            labels=self.labels[index],
            track_ids=None if self.track_ids is None else self.track_ids[index],
        )

    def __repr__(self) -> str:
        height, width = self.image_size
        listed = [f"{d.class_name} {d.score:.2f}" for d in self[:_LISTED]]
        if len(self) > _LISTED:
            listed.append(f"and {len(self) - _LISTED} more")
        found = ", ".join(listed) or "nothing found"
        return f"Detections({len(self)} in {width} x {height} pixels: {found})"

    def filter(
        self, score: float | None = None, classes: str | Iterable[str] | None = None
    ) -> "Detections":
        """Returns the detections of some scores and classes.

        Args:
          score: minimum score; None for all scores.
          classes: one or several class names; None for all classes.

        Raises:
          InputError: the run has no such class.
        """
        keep = np.ones(len(self), bool)
        if score is not None:
            keep &= self.scores >= score
        if classes is not None:
            names = (classes,) if isinstance(classes, str) else tuple(classes)
            for name in names:
                if name not in self.class_names:
                    raise InputError(
                        f"there is no class {name!r}; the run has "
                        f"{', '.join(self.class_names)}"
                    )
            keep &= np.isin(self.labels, [self.class_names.index(n) for n in names])
        return self[keep]

    def counts(self) -> dict[str, int]:
        """Returns the number of detections of each class, the most frequent first."""
        labels, numbers = np.unique(self.labels, return_counts=True)
        order = np.argsort(-numbers, kind="stable")
        return {self.class_names[labels[i]]: int(numbers[i]) for i in order}

    def to_coco(self, image_id: Any = 1) -> list[dict[str, Any]]:
        """Returns records in COCO's results format, as `predict` writes them.

        Each has image_id, category_id, bbox `[x, y, width, height]` in pixels (rounded
        to thousandths) and score; detections of a track have its track_id, too.

        Args:
          image_id: id of the image in the COCO file.
        """
        size = np.array(self.image_size)
        records = detection_evaluator.coco_results(
            image_id,
            size,
            self._relative_boxes(),
            self.scores,
            self.labels,
            self.category_ids,
        )
        if self.track_ids is not None:
            for record, track in zip(records, self.track_ids.tolist(), strict=True):
                if track != NO_TRACK:
                    record["track_id"] = track
        return records

    def to_supervision(self) -> Any:
        """Returns these detections as `supervision.Detections`.

        `data["class_name"]` holds the class names, `tracker_id` the track ids.

        Raises:
          ImportError: the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ImportError(
                "to_supervision needs the package supervision: pip install supervision"
            ) from error
        names = np.array(self.class_names, dtype=str)
        return supervision.Detections(
            xyxy=self.boxes.astype(np.float32),
            confidence=self.scores.astype(np.float32),
            class_id=self.labels.astype(int),
            tracker_id=self.track_ids,
            data={"class_name": names[self.labels]},
        )

    def plot(self, score: float = DRAWN_SCORE) -> PIL.Image.Image:
        """Draws the detections on the image.

        Small images are enlarged by an integer factor of at most 4, so that names and
        outlines are readable.

        Args:
          score: minimum score of the detections to draw.
        """
        drawn = self.filter(score)
        picture = annotate.draw_boxes(
            drawn.image,
            drawn._relative_boxes(),
            drawn.labels,
            drawn.class_names,
            drawn.scores,
            category_ids=drawn.category_ids,
            notes=drawn._track_notes(),
        )
        return PIL.Image.fromarray(picture)

    def save(
        self, path: str | os.PathLike, *, score: float = DRAWN_SCORE, image_id: Any = 1
    ) -> None:
        """Writes an annotated picture (.jpg, .png) or COCO results (.json).

        Args:
          path: file to write; its suffix names the format. The folder is made if it
            is missing.
          score: minimum score of the detections to draw. A .json file holds all.
          image_id: id of the image in a .json file.

        Raises:
          InputError: the suffix is another one, or the file cannot be written.
        """
        file = paths.as_path(path)
        suffix = file.suffix.lower()
        if suffix not in (".jpg", ".jpeg", ".png", ".json"):
            raise InputError(
                f"{file}: detections are saved as .jpg, .png or .json; end the name in "
                "one of them"
            )
        try:
            if suffix == ".json":
                paths.make_folder(file.parent)
                text = json.dumps(self.to_coco(image_id), indent=2)
                paths.write_whole(file, text + "\n")
            else:
                annotate.write_image(file, np.asarray(self.plot(score)))
        except OSError as error:
            raise InputError(f"{file}: {paths.reason(error)}") from error

    def _track_notes(self) -> list[str]:
        ids = [] if self.track_ids is None else self.track_ids.tolist()
        return [f"#{track}" if track != NO_TRACK else "" for track in ids]

    def _relative_boxes(self) -> np.ndarray:
        """Boxes `[y_min, x_min, y_max, x_max]` normalized to the image, [n, 4]."""
        height, width = self.image_size
        return self.boxes[:, [1, 0, 3, 2]] / np.array([height, width, height, width])
