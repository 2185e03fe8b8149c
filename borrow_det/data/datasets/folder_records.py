"""Random access to the images of a prepared copy of a folder's split."""

import dataclasses
import functools

import numpy as np

from borrow_det.data.datasets.folder_copy import Copy
from borrow_det.data.datasets.opened import Record
from borrow_det.evaluation import bad_boxes


@dataclasses.dataclass(frozen=True)
class FolderRecords:
    """Images of one copy, with random access, under a policy for boxes.

    Attributes:
      copy: the copy.
      policy: dataset.bad_boxes.
      labels: int32, class index of each category of the copy.
      indices: indices of the images in the copy.
      numbered: whether image ids of batches are positions, because ids in the files
        are not 64-bit integers.
      id_prefix: text before the ids in the files, which makes them texts; "": as they
        are.
      with_images: whether records have their images.
    """

    copy: Copy
    policy: str
    labels: np.ndarray
    indices: np.ndarray
    numbered: bool
    id_prefix: str = ""
    with_images: bool = True

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> Record:
        """Returns the fields that `records.convert_folder` takes."""
        position = int(self.indices[index])
        arrays, image = self.copy.arrays, self.copy.images[position]
        start, stop = arrays["starts"][position : position + 2]
        keep = np.flatnonzero(self._kept[start:stop]) + start
        chosen = {
            name: values[keep] for name, values in arrays.items() if name != "starts"
        }
        prefixed = {"id": f"{self.id_prefix}{image['id']}"} if self.id_prefix else {}
        return {
            **image,
            **prefixed,
            **chosen,
            "image": self.copy.encoded(position) if self.with_images else b"",
            "labels": self.labels[chosen["category"]],
            "numbered": self.numbered,
        }

    def without_images(self) -> "FolderRecords":
        """Returns the same records with empty images, which read no image file."""
        return dataclasses.replace(self, with_images=False)

    def counts(self) -> dict[str, int]:
        """Returns the numbers of boxes that the policy "clipped" and "dropped"."""
        starts = self.copy.arrays["starts"]
        chosen = np.zeros(len(starts) - 1, np.bool_)
        chosen[self.indices] = True
        objects = np.repeat(chosen, np.diff(starts))
        return bad_boxes.counts(self.copy.arrays["faults"][objects], self.policy)

    @functools.cached_property
    def _kept(self) -> np.ndarray:
        return bad_boxes.kept(self.copy.arrays["faults"], self.policy)
