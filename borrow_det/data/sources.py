"""From the name of a data set to its splits, random access, decoded elsewhere."""

import bisect
import collections
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np

from borrow_det.data.datasets import (
    bad_boxes,
    coco_classes,
    coco_folder,
    prepare,
    records,
    scale_pairs,
)
from borrow_det.errors import InputError

_BOUND = r"\s*(-?\d+%?)?\s*"
_SPLIT = re.compile(rf"\s*([\w.-]+)\s*(?:\[{_BOUND}:{_BOUND}\])?\s*")


@dataclasses.dataclass(frozen=True)
class Split:
    """One split of one data set, with random access by index.

    Attributes:
      dataset: the data set's name, as in dataset.name.
      name: the split's name as asked for, slices included.
      class_names: by class index.
      category_ids: by class index: the id that COCO-format files carry; gaps allowed.
      records: the builders' own records, image bytes not decoded.
      convert: from (builder's record, index) to the record of data/datasets/records.py.
      reference_lines: figures to show beside a result on this set, by name.
      counts: boxes of the splits, slices uncut, that dataset.bad_boxes "clipped" and
        "dropped" when the set was prepared; {} for sets where that happens on reading
        (then `pipeline.check_training_data` counts).
      whole_images: every record has one box, the whole image: a set of classes of
        images, without objects' places.
      counterfactual_of: the split, sliced alike, whose images these are with something
        changed in them, the ids the same; "" where there is none.
    """

    dataset: str
    name: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    records: Sequence[dict]
    convert: Callable[[dict, int], dict]
    reference_lines: dict[str, float] = dataclasses.field(default_factory=dict)
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    whole_images: bool = False
    counterfactual_of: str = ""

    def __len__(self) -> int:
        """The number of images."""
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        """The record of one image: data/datasets/records.py lists its fields."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.dataset} {self.name} has no image {index}")
        return self.convert(self.records[index], index)


def load(dataset_config, name: str) -> Split:
    """Opens one split of a data set; see `load_splits`."""
    return load_splits(dataset_config, [name])[0]


def load_splits(dataset_config, names: Sequence[str]) -> list[Split]:
    """Opens a data set once, and prepares it where that is to be done.

    Args:
      dataset_config: config.dataset; name, path, data_dir, image_size and bad_boxes
        are read.
      names: each a split's name, or slices in TFDS's syntax: `train[:16]`,
        `train[80%:]`, `train+validation`.

    Returns:
      A split for each of `names`.

    Raises:
      InputError: for an unknown set or split (the message lists the known ones), bad
        or missing annotations or images of coco_folder, or where preparing needs
        TensorFlow and that is absent.
    """
    bad_boxes.check_policy(dataset_config.bad_boxes)
    dataset = dataset_config.name
    if dataset not in _OPENERS:
        raise InputError(
            f"dataset.name {dataset!r} is unknown; known are {', '.join(_OPENERS)}"
        )
    slices = [[_parse_slice(part) for part in name.split("+")] for name in names]
    wanted = {split_name for parts in slices for split_name, *_ in parts}
    opened = _OPENERS[dataset](dataset_config, wanted)
    convert = functools.partial(opened.convert, policy=dataset_config.bad_boxes)
    return [
        Split(
            dataset=dataset,
            name=name,
            class_names=opened.class_names,
            category_ids=opened.category_ids,
            records=_cut(opened, parts),
            convert=convert,
            reference_lines=opened.reference_lines,
            counts=_sum_counts(opened, {split_name for split_name, *_ in parts}),
            whole_images=opened.whole_images,
            counterfactual_of=opened.counterfactual_of(name),
        )
        for name, parts in zip(names, slices, strict=True)
    ]


def ground_truth(split: Split) -> dict:
    """The annotations of a split in COCO's format, read without decoding pixels.

    Returns:
      {"images": [{id, file_name, width, height}], "annotations": [{id, image_id,
      category_id, bbox, area, iscrowd, difficult}], "categories": [{id, name}]}, where
      bbox is [x, y, width, height] in pixels of the original image, area is in its
      pixels², and iscrowd and difficult are 0 or 1.

    Raises:
      InputError: two images of the split have the same id.
    """
    images, annotations, seen = [], [], {}
    for index in range(len(split)):
        record = split[index]
        image_id, file_name = record["image_id"], record["file_name"]
        if image_id in seen:
            raise InputError(
                f"{file_name} and {seen[image_id]} of {split.dataset} {split.name} "
                f"have the same image id {image_id}: evaluate such splits one by one"
            )
        seen[image_id] = file_name
        images.append(
            {
                "id": image_id,
                "file_name": file_name,
                "width": record["width"],
                "height": record["height"],
            }
        )
        for annotation in _annotations(record, split.category_ids):
            annotations.append({"id": len(annotations) + 1, **annotation})
    categories = [
        {"id": category_id, "name": name}
        for category_id, name in zip(split.category_ids, split.class_names, strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def _annotations(record: dict, category_ids: tuple[int, ...]):
    scale = np.tile([record["height"], record["width"]], 2)
    for i, box in enumerate(record["boxes"].astype(np.float64) * scale):
        y_min, x_min, y_max, x_max = box.tolist()
        yield {
            "image_id": record["image_id"],
            "category_id": category_ids[record["labels"][i]],
            "bbox": [x_min, y_min, x_max - x_min, y_max - y_min],
            "area": float(record["area"][i]),
            "iscrowd": int(record["is_crowd"][i]),
            "difficult": int(record["is_difficult"][i]),
        }


@dataclasses.dataclass(frozen=True)
class _Pieces:
    """Ranges of data sources, one after the other, as one sequence.

    Attributes:
      ranges: (data source, start, stop) each.
    """

    ranges: tuple[tuple[Sequence[dict], int, int], ...]

    @classmethod
    def of_whole(cls, data_sources: Sequence[Sequence[dict]]) -> "_Pieces":
        return cls(tuple((whole, 0, len(whole)) for whole in data_sources))

    @functools.cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(b - a for _, a, b in self.ranges))

    def __len__(self) -> int:
        return self._ends[-1] if self.ranges else 0

    def __getitem__(self, index: int) -> dict:
        piece = bisect.bisect_right(self._ends, index)
        data_source, _, stop = self.ranges[piece]
        return data_source[stop - (self._ends[piece] - index)]

    def cut(self, start: int, stop: int) -> list[tuple[Sequence[dict], int, int]]:
        """The ranges that hold images start to stop of the sequence."""
        cut, first = [], 0
        for data_source, a, b in self.ranges:
            low, high = max(start - first, 0), min(stop - first, b - a)
            if low < high:
                cut.append((data_source, a + low, a + high))
            first += b - a
        return cut


def _cut(opened: "_Opened", parts) -> _Pieces:
    """The images of (split, start, stop) each, one after the other."""
    pieces = []
    for split_name, start, stop in parts:
        whole = _Pieces.of_whole(opened.splits[split_name])
        pieces += whole.cut(_bound(start, len(whole), 0), _bound(stop, len(whole)))
    return _Pieces(tuple(pieces))


def _sum_counts(opened: "_Opened", split_names: set[str]) -> dict[str, int]:
    total = collections.Counter()
    for split_name in split_names:
        total.update(opened.counts.get(split_name, {}))
    return dict(total)


def _parse_slice(part: str) -> tuple[str, str | None, str | None]:
    """train[:16] -> ("train", None, "16")."""
    match = _SPLIT.fullmatch(part)
    if match is None:
        raise InputError(
            f"{part!r} is no split: write a name, or a slice of it such as train[:16] "
            "or train[80%:]"
        )
    return match.groups()


def _bound(bound: str | None, length: int, default: int | None = None) -> int:
    """A slice's bound as an index; percentages round to the nearest, as in TFDS."""
    if bound is None:
        return length if default is None else default
    number = int(bound.rstrip("%"))
    index = round(number * length / 100) if bound.endswith("%") else number
    return min(max(index + length if index < 0 else index, 0), length)


@dataclasses.dataclass(frozen=True)
class _Opened:
    """The splits of one data set that were asked for; see Split."""

    splits: dict[str, list[Sequence[dict]]]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    convert: Callable[..., dict]
    reference_lines: dict[str, float] = dataclasses.field(default_factory=dict)
    counts: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    whole_images: bool = False
    counterfactual_of: Callable[[str], str] = lambda split: ""


def _check_splits(name: str, wanted: set[str], known) -> None:
    for split in sorted(wanted):
        if split not in known:
            raise InputError(
                f"{name} has no split {split!r}; known are {', '.join(known)}"
            )


def _open_scale_pairs(dataset_config, wanted: set[str]) -> _Opened:
    _check_splits("scale_pairs", wanted, scale_pairs.SPLITS)
    config = scale_pairs.builder_config(dataset_config.image_size)
    builder = prepare.prepared(scale_pairs.ScalePairs, config, dataset_config.data_dir)
    return _Opened(
        splits={split: [prepare.data_source(builder, split)] for split in wanted},
        class_names=scale_pairs.SPECIES,
        category_ids=tuple(range(1, len(scale_pairs.SPECIES) + 1)),
        convert=records.scale_pairs,
        reference_lines=dict(scale_pairs.REFERENCE_LINES),
        counterfactual_of=scale_pairs.counterfactual_of,
    )


def _open_coco_folder(dataset_config, wanted: set[str]) -> _Opened:
    folder, builder = coco_folder.open_folder(
        dataset_config.path, dataset_config.bad_boxes, dataset_config.data_dir
    )
    _check_splits(str(folder.path), wanted, folder.splits)
    return _Opened(
        splits={split: [prepare.data_source(builder, split)] for split in wanted},
        class_names=folder.class_names,
        category_ids=folder.category_ids,
        convert=records.coco_folder,
        counts=folder.counts,
    )


@dataclasses.dataclass(frozen=True)
class _TfdsSet:
    """One of TFDS's own sets.

    Attributes:
      splits: by our name: the (TFDS name, TFDS split) pairs that make it up.
      label: path to the ClassLabel among the features; () where there is one class.
      convert: from its records to ours.
      class_names: where the features name none.
      category_ids: where they are not 1, 2, ...
      whole_images: see Split.
      manual_files: what a person has to download before it can be prepared.
    """

    splits: dict[str, tuple[tuple[str, str], ...]]
    convert: Callable[..., dict]
    label: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    whole_images: bool = False
    manual_files: tuple[str, ...] = ()


def _splits(tfds_name: str, *names: str) -> dict[str, tuple[tuple[str, str], ...]]:
    return {name: ((tfds_name, name),) for name in names}


# TFDS's test splits of coco and wider_face carry no annotations and are left out.
_TFDS_SETS = {
    "voc": _TfdsSet(
        splits={
            "train": tuple(
                (f"voc/{year}", split)
                for year in (2007, 2012)
                for split in ("train", "validation")
            ),
            "test": (("voc/2007", "test"),),
        },
        convert=records.voc,
        label=("objects", "label"),
    ),
    "coco/2017": _TfdsSet(
        splits=_splits("coco/2017", "train", "validation"),
        convert=records.coco,
        label=("objects", "label"),
        category_ids=tuple(coco_classes.NAMES),
    ),
    "wider_face": _TfdsSet(
        splits=_splits("wider_face", "train", "validation"),
        convert=records.wider_face,
        class_names=("face",),
    ),
    "kitti": _TfdsSet(
        splits=_splits("kitti", "train", "validation", "test"),
        convert=records.kitti,
        label=("objects", "type"),
    ),
    # Its test split has no labels.
    "imagenet2012": _TfdsSet(
        splits=_splits("imagenet2012", "train", "validation"),
        convert=records.imagenet2012,
        label=("label",),
        whole_images=True,
        manual_files=("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"),
    ),
}


def _open_tfds(name: str, dataset_config, wanted: set[str]) -> _Opened:
    tfds_set = _TFDS_SETS[name]
    _check_splits(name, wanted, tfds_set.splits)
    splits, class_names = {}, tfds_set.class_names
    for split in wanted:
        splits[split] = []
        for tfds_name, tfds_split in tfds_set.splits[split]:
            builder = prepare.prepared_by_name(
                tfds_name, dataset_config.data_dir, tfds_set.manual_files
            )
            splits[split].append(prepare.data_source(builder, tfds_split))
            if tfds_set.label:
                feature = functools.reduce(
                    lambda feature, key: feature[key],
                    tfds_set.label,
                    builder.info.features,
                )
                class_names = tuple(feature.names)
    return _Opened(
        splits=splits,
        class_names=class_names,
        category_ids=tfds_set.category_ids or tuple(range(1, len(class_names) + 1)),
        convert=tfds_set.convert,
        whole_images=tfds_set.whole_images,
    )


_OPENERS = {
    "scale_pairs": _open_scale_pairs,
    "coco_folder": _open_coco_folder,
    **{name: functools.partial(_open_tfds, name) for name in _TFDS_SETS},
}
