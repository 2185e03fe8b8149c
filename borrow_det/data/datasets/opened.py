"""The result of opening a dataset, before splits are sliced."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from borrow_det.errors import InputError
from borrow_det.evaluation.coco_values import Id
from borrow_det.io.problems import Problem

Record = dict[str, Any]  # datasets/records.py lists the fields.


class Records(Protocol):
    """Builder's records with random access by index."""

    def __len__(self) -> int:
        """Returns the number of records."""

    def __getitem__(self, index: int, /) -> Record:
        """Returns one record."""


@dataclasses.dataclass(frozen=True)
class OpenedSet:
    """Complete splits of one dataset.

    Attributes:
      splits: split name to its parts, which follow each other; each is a sequence of
        builder's records with encoded images.
      class_names: names by class index.
      category_ids: ids in COCO-format files, by class index; gaps are allowed.
      convert: function of (builder's record, index in the split, dataset.bad_boxes)
        that returns a record.
      reference_lines: values to compare metrics on this set with, by meaning.
      counts: split name to the numbers of boxes that dataset.bad_boxes "clipped" and
        "dropped" when the set was prepared.
      problems: split name to everything that is wrong with its files, also what the
        policies allow.
      notices: lines about the splits for a run's start.
      whole_images: every record has one box, the entire image.
      counterfactual_of: function from the name of a split to that of the split whose
        scenes it shows with a change; "" without one.
      folds: with dataset.folds, the folds and their images (folds.py); {} without.
    """

    splits: Mapping[str, Sequence[Records]]
    class_names: tuple[str, ...]
    category_ids: tuple[Id, ...]
    convert: Callable[[Record, int, str], Record]
    reference_lines: dict[str, float] = dataclasses.field(default_factory=dict)
    counts: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    problems: Mapping[str, tuple[Problem, ...]] = dataclasses.field(
        default_factory=dict
    )
    notices: tuple[str, ...] = ()
    whole_images: bool = False
    counterfactual_of: Callable[[str], str] = lambda split: ""
    folds: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def check_split_names(
    dataset: str, names: Collection[str], known: Collection[str]
) -> None:
    """Checks that a dataset has the splits of these names.

    Raises:
      InputError: names the first unknown split and the known ones.
    """
    for name in sorted(names):
        if name not in known:
            raise InputError(
                f"{dataset} has no split {name!r}; known are {', '.join(known)}"
            )
