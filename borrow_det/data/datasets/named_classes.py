"""Annotations of formats that name the classes of objects instead of numbering them."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from borrow_det.data.datasets.split_files import SplitFiles
from borrow_det.errors import InputError
from borrow_det.evaluation.annotations import Annotations, Category, Image, Object
from borrow_det.io.problems import Problems


class Collector:
    """Collects the images of a split, and numbers them and their classes.

    Images are sorted by file name and numbered from 1. The id of a class is its name,
    so that splits with different classes can be merged.
    """

    def __init__(self, split: SplitFiles, names: Iterable[str] = ()):
        """Starts without images.

        Args:
          split: the split that is read.
          names: classes that the files list, with objects or without.
        """
        self._split = split
        self._labels: dict[str, int] = {}
        for name in names:
            self.label(name)
        self._images: list[Image] = []

    def label(self, name: str) -> int:
        """Returns a preliminary index of a class, for Object.category."""
        return self._labels.setdefault(" ".join(name.split()), len(self._labels))

    def add(
        self,
        record: str,
        file_name: str,
        size: tuple[int | None, int | None],
        objects: Iterable[Object],
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds an image.

        Args:
          record: its annotation file, for messages.
          file_name: path relative to the folder, or the name in the annotations.
          size: (height, width) in the annotations.
          objects: its objects, with preliminary indices of classes.
          fields: other fields, such as the name of a video.
        """
        height, width = size
        self._images.append(
            Image(record, 0, file_name, height, width, tuple(objects), fields or {})
        )

    def annotations(self, path: pathlib.Path, problems: Problems) -> Annotations:
        """Returns the annotations.

        Args:
          path: file or folder that was read.
          problems: receives the images that were added before; the first is kept.

        Raises:
          InputError: no image was added.
        """
        if not self._images:
            raise InputError(
                f"{path} lists no images of the split {self._split.name} that can be "
                "read: add images, or remove it"
            )
        names = sorted(self._labels)
        new = {old: names.index(name) for name, old in self._labels.items()}
        by_name: dict[str, Image] = {}
        for image in self._images:
            first = by_name.setdefault(image.file_name, image)
            if first is not image:
                reason = f"{image.file_name} is the image of {first.record}, too"
                problems.add("repeated image", path, image.record, reason)
        images = [by_name[name] for name in sorted(by_name)]
        return Annotations(
            path=path,
            images=tuple(
                dataclasses.replace(
                    image,
                    id=number,
                    objects=tuple(
                        dataclasses.replace(item, category=new[item.category])
                        for item in image.objects
                    ),
                )
                for number, image in enumerate(images, 1)
            ),
            categories=tuple(Category(name, name) for name in names),
        )


def box_around(
    xs: list[float], ys: list[float]
) -> tuple[float, float, float, float] | None:
    """Returns the (x, y, width, height) around points; None if there are none."""
    if not xs or len(xs) != len(ys):
        return None
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
