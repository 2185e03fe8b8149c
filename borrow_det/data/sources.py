"""Splits of datasets by name, with random access to records."""

import bisect
import collections
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

from borrow_det.data import classes
from borrow_det.data.datasets import folder, object_pairs, scale_pairs, tfds_sets
from borrow_det.data.datasets.opened import OpenedSet, Record, Records
from borrow_det.data.datasets.scale_pairs_clips import ScalePairsClips
from borrow_det.data.datasets.scale_pairs_wide import ScalePairsWide
from borrow_det.errors import InputError
from borrow_det.evaluation import bad_boxes
from borrow_det.evaluation.coco_values import Id
from borrow_det.io.problems import Problem

_BOUND = r"\s*(-?\d+%?)?\s*"
_SPLIT = re.compile(rf"\s*([\w.-]+)\s*(?:\[{_BOUND}:{_BOUND}\])?\s*")

# (name of a complete split, first bound, second bound); None for an absent bound.
_Slice = tuple[str, str | None, str | None]


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of a dataset, with random access by index.

    Attributes:
      dataset: name of the dataset, as in dataset.name.
      name: name of the split as asked for, with its slices.
      class_names: names by class index.
      category_ids: ids in COCO-format files, by class index; gaps are allowed.
      records: builder's records, images not decoded.
      convert: function of (builder's record, index) that returns a record of
        datasets/records.py.
      reference_lines: values to compare metrics on this set with, by meaning.
      counts: numbers of boxes that dataset.bad_boxes "clipped" and "dropped", and of
        "skipped_images" if images were skipped, in the complete splits without slices.
        {} for sets whose boxes are checked while reading;
        `pipeline.check_training_data` counts these.
      problems: everything that is wrong with the files of the complete splits.
      notices: lines about this set for a run's start.
      whole_images: every record has one box, the entire image: the set has classes of
        images, but no positions of objects.
      counterfactual_of: name of the split, sliced alike, whose scenes this split shows
        with a change and with the same ids; "" without one.
      folds: with dataset.folds, the folds and their images, for folds.json.
    """

    dataset: str
    name: str
    class_names: tuple[str, ...]
    category_ids: tuple[Id, ...]
    records: Records
    convert: Callable[[Record, int], Record]
    reference_lines: dict[str, float] = dataclasses.field(default_factory=dict)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    notices: tuple[str, ...] = ()
    whole_images: bool = False
    counterfactual_of: str = ""
    folds: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        """Returns the record of one image; datasets/records.py lists its fields."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.dataset} {self.name} has no image {index}")
        return self.convert(self.records[index], index)

    def without_images(self) -> "Split":
        """Returns the split for reading annotations only.

        Its records may lack their images, where these are stored apart.
        """
        without = getattr(self.records, "without_images", None)
        return dataclasses.replace(self, records=without()) if without else self

    @functools.cached_property
    def box_counts(self) -> np.ndarray:
        """Numbers of boxes of the images, int [n]; reads all annotations once."""
        split = self.without_images()
        return np.array([len(split[i]["boxes"]) for i in range(len(split))], int)

    @functools.cached_property
    def descriptions(self) -> list[dict[str, Any]]:
        """Name, size and other fields of the images; reads all annotations once."""
        names = ("file_name", "height", "width", "fields")
        split = self.without_images()
        records = (split[i] for i in range(len(split)))
        return [{name: record[name] for name in names} for record in records]

    def with_classes(
        self, names: tuple[str, ...], category_ids: tuple[Id, ...]
    ) -> "Split":
        """Returns the split with the labels of a trained run.

        Args:
          names: names of the run's classes, by label.
          category_ids: ids of the run's classes.

        Raises:
          InputError: the split has a class that the run lacks.
        """
        own = self.class_names, self.category_ids
        indices = classes.indices_among(*own, names, category_ids)
        if indices is None:
            raise InputError(
                f"the run was trained on the classes {', '.join(names)}, "
                f"{self.dataset} {self.name} has {', '.join(self.class_names)}: name a "
                "dataset with the same classes"
            )
        labels = np.array(indices, np.int32)
        return dataclasses.replace(
            self,
            class_names=names,
            category_ids=classes.ids_of(indices, self.category_ids, category_ids),
            convert=functools.partial(_relabeled, self.convert, labels),
        )


def _relabeled(
    convert: Callable[[dict, int], dict], labels: np.ndarray, record: dict, index: int
) -> dict:
    converted = convert(record, index)
    return {**converted, "labels": labels[converted["labels"]]}


def load(dataset_config: ml_collections.ConfigDict, name: str) -> Split:
    """Opens one split of a dataset; see `load_splits`."""
    return load_splits(dataset_config, [name])[0]


def load_splits(
    dataset_config: ml_collections.ConfigDict,
    names: Sequence[str],
    refuse: bool = True,
) -> list[Split]:
    """Opens splits of a dataset, after preparing the set if that was not done.

    Args:
      dataset_config: config.dataset.
      names: names of splits, or slices in TFDS's syntax: `train[:16]`,
        `train[80%:]`, `train+validation`.
      refuse: whether problems of a folder that the policies do not allow are an error.
        Otherwise they are in `Split.problems` only; wrong records and bad images are
        left out, and bad boxes are clipped.

    Returns:
      A split for each of `names`.

    Raises:
      InputError: the set or a split is unknown (the message lists the known ones), an
        annotation or image of a folder is missing or invalid, or TensorFlow is
        needed to prepare the set and not installed.
    """
    bad_boxes.check_policy(dataset_config.bad_boxes)
    dataset = dataset_config.name
    if dataset not in _OPENERS:
        raise InputError(
            f"dataset.name {dataset!r} is unknown; known are {', '.join(_OPENERS)}"
        )
    slices = [[_parse_slice(part) for part in name.split("+")] for name in names]
    complete = dict.fromkeys(name for parts in slices for name, *_ in parts)
    open_set = _OPENERS[dataset]
    if not refuse and open_set is folder.open_set:
        open_set = functools.partial(folder.open_set, refuse=False)
    opened = open_set(dataset_config, complete)
    policy = dataset_config.bad_boxes

    convert = functools.partial(_convert, opened.convert, policy)
    return [
        Split(
            dataset=dataset,
            name=name,
            class_names=opened.class_names,
            category_ids=opened.category_ids,
            records=_sliced(opened, parts),
            convert=convert,
            reference_lines=opened.reference_lines,
            counts=_sum_counts(opened, {split_name for split_name, *_ in parts}),
            problems=tuple(
                dict.fromkeys(
                    problem
                    for split_name, *_ in parts
                    for problem in opened.problems.get(split_name, ())
                )
            ),
            notices=opened.notices,
            whole_images=opened.whole_images,
            counterfactual_of=opened.counterfactual_of(name),
            folds=opened.folds,
        )
        for name, parts in zip(names, slices, strict=True)
    ]


def joined(splits: Sequence[Split]) -> Split:
    """Returns splits of one dataset, with the same classes, as one split."""
    records = _Ranges.of_all([split.records for split in splits])
    return dataclasses.replace(splits[0], records=records)


# Every dataset that has a name; each opener gets config.dataset and split names.
_OPENERS: dict[
    str, Callable[[ml_collections.ConfigDict, Collection[str]], OpenedSet]
] = {
    **{
        builder.name: functools.partial(scale_pairs.open_set, builder)
        for builder in (scale_pairs.ScalePairs, ScalePairsWide, ScalePairsClips)
    },
    object_pairs.ObjectPairs.name: object_pairs.open_set,
    "folder": folder.open_set,
    "coco_folder": folder.open_set,  # Its former name.
    **{name: functools.partial(tfds_sets.open_set, name) for name in tfds_sets.SETS},
}


def ground_truth(split: Split) -> dict[str, Any]:
    """Reads the annotations of a split in COCO's format, without decoding images.

    Returns:
      {"images": [{id, file_name, width, height}], "annotations": [{id, image_id,
      category_id, bbox, area, iscrowd, difficult}], "categories": [{id, name}]}. bbox
      is [x, y, width, height] in pixels of the original image, area is in square pixels
      of it, iscrowd and difficult are 0 or 1. An image whose id is not its image_id in
      batches has that as batch_id. For a folder's split, the values equal those of
      evaluation/coco_truth.py for its annotation file.

    Raises:
      InputError: two images of the split have the same id.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    seen: dict[Id, str] = {}
    annotated = split.without_images()
    for index in range(len(split)):
        record = annotated[index]
        image_id, file_name = record["file_id"], record["file_name"]
        if image_id in seen:
            raise InputError(
                f"{file_name} and {seen[image_id]} of {split.dataset} {split.name} "
                f"have the same image id {image_id}: evaluate these splits separately"
            )
        seen[image_id] = file_name
        image = {
            "id": image_id,
            "file_name": file_name,
            "width": record["width"],
            "height": record["height"],
        }
        if record["image_id"] != image_id:
            image["batch_id"] = record["image_id"]
        images.append(image)
        for annotation in _annotations(record, split.category_ids):
            annotations.append({"id": len(annotations) + 1, **annotation})
    categories = [
        {"id": category_id, "name": name}
        for category_id, name in zip(split.category_ids, split.class_names, strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def _annotations(
    record: Record, category_ids: tuple[Id, ...]
) -> Iterator[dict[str, Any]]:
    for i, bbox in enumerate(record["bbox"].tolist()):
        yield {
            "image_id": record["file_id"],
            "category_id": category_ids[record["labels"][i]],
            "bbox": bbox,
            "area": float(record["area"][i]),
            "iscrowd": int(record["is_crowd"][i]),
            "difficult": int(record["is_difficult"][i]),
        }


def _convert(
    convert: Callable[[Record, int, str], Record],
    policy: str,
    record: Record,
    index: int,
) -> Record:
    return convert(record, index, policy)


@dataclasses.dataclass(frozen=True)
class _Ranges:
    """Ranges of sequences, one after the other, as one sequence.

    Attributes:
      ranges: (records, start, stop) each.
    """

    ranges: tuple[tuple[Records, int, int], ...]

    @classmethod
    def of_all(cls, parts: Sequence[Records]) -> "_Ranges":
        """Makes the ranges of complete sequences."""
        return cls(tuple((part, 0, len(part)) for part in parts))

    @functools.cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(b - a for _, a, b in self.ranges))

    def __len__(self) -> int:
        return self._ends[-1] if self.ranges else 0

    def __getitem__(self, index: int, /) -> Record:
        i = bisect.bisect_right(self._ends, index)
        records, _, stop = self.ranges[i]
        return records[stop - (self._ends[i] - index)]

    def without_images(self) -> "_Ranges":
        """Returns the records without images, where these are stored apart."""
        return _Ranges(
            tuple(
                (
                    part.without_images() if hasattr(part, "without_images") else part,
                    start,
                    stop,
                )
                for part, start, stop in self.ranges
            )
        )

    def cut(self, start: int, stop: int) -> list[tuple[Records, int, int]]:
        """Returns the ranges that hold records start to stop of the sequence."""
        cut, first = [], 0
        for records, a, b in self.ranges:
            low, high = max(start - first, 0), min(stop - first, b - a)
            if low < high:
                cut.append((records, a + low, a + high))
            first += b - a
        return cut


def _sliced(opened: OpenedSet, slices: Sequence[_Slice]) -> _Ranges:
    """Returns the records of the slices, one after the other."""
    ranges: list[tuple[Records, int, int]] = []
    for split_name, start, stop in slices:
        split = _Ranges.of_all(opened.splits[split_name])
        length = len(split)
        ranges += split.cut(_bound(start, length, 0), _bound(stop, length, length))
    return _Ranges(tuple(ranges))


def _sum_counts(opened: OpenedSet, split_names: Collection[str]) -> dict[str, int]:
    total: collections.Counter[str] = collections.Counter()
    for split_name in split_names:
        total.update(opened.counts.get(split_name, {}))
    return dict(total)


def _parse_slice(part: str) -> _Slice:
    """Parses a slice: train[:16] -> ("train", None, "16")."""
    match = _SPLIT.fullmatch(part)
    if match is None:
        raise InputError(
            f"{part!r} is not a split: write a name, or a slice such as train[:16] or "
            "train[80%:]"
        )
    name, start, stop = match.groups()
    return name, start, stop


def _bound(bound: str | None, length: int, default: int) -> int:
    """Returns a bound as an index; percentages are rounded as in TFDS."""
    if bound is None:
        return default
    number = int(bound.rstrip("%"))
    index = round(number * length / 100) if bound.endswith("%") else number
    return min(max(index + length if index < 0 else index, 0), length)
