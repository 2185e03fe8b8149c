"""The inspection of a dataset: its report, and everything that pictures need."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from borrow_det.config import validate
from borrow_det.data import native_scale, sources
from borrow_det.data.datasets import folder_splits
from borrow_det.data.groups import group_keys
from borrow_det.errors import check_choice
from borrow_det.tools.inspect import (
    dataset,
    duplicates,
    expectation,
    figures,
    lenders,
    reading,
    suggestion,
    suspicious,
)
from borrow_det.tools.inspect.duplicates import Place
from borrow_det.tools.inspect.objects import Image, Objects
from borrow_det.tools.inspect.suspicious import Label
from borrow_det.visualization import sheets

_SAMPLE = 9  # Images on a sheet.


class Inspection(NamedTuple):
    """An inspected dataset.

    Attributes:
      report: content of inspection.json; see `inspect`.
      config: the configuration.
      splits: the splits by name.
      train: name of the split that the answer and the sheets are about.
      sample: indices of its images on the sheets.
      labels: labels that look wrong, by split and kind.
      groups: groups of duplicates, `exact` and `near`.
    """

    report: dict[str, Any]
    config: ml_collections.ConfigDict
    splits: dict[str, sources.Split]
    train: str
    sample: list[int]
    labels: dict[str, dict[str, list[Label]]]
    groups: dict[str, list[list[Place]]]


def inspect(config: ml_collections.ConfigDict, names: Sequence[str]) -> Inspection:
    """Inspects some splits of a config's dataset.

    Args:
      config: a detection config.
      names: names of splits, or slices of them (`train[:16]`).

    Returns:
      The inspection, whose report has plain JSON values: `dataset`, `path`, `notices`,
      `input_size`, `lender_scale`, `positive_iou`; for each split under `splits` the
      figures of `figures.measure` and, under `lenders`, those of `lenders.measure`;
      `problems` (`Problems.to_json`), `duplicates` (`duplicates.figures`); `labels`:
      `counts` and `found`, the labels that look wrong; `answer`: `answer`, `split`,
      `sentences`, `expected` (`expectation.Expectation` or None of `expect_at`),
      `suggestions` and `fragment`; `sample`: `split`, `seed`, `images` and
      `augmented` of the sheets.

    Raises:
      InputError: a field is out of its range, or no split can be opened.
    """
    check_choice("task", config.task, ("detection",))
    validate.check_fields(config)
    splits, problems = dataset.open_splits(config.dataset, names)
    read = {name: reading.read(split, config) for name, split in splits.items()}
    measured = {
        name: _measure(splits[name], objects, images, config)
        for name, (objects, images) in read.items()
    }
    images = {name: images for name, (_, images) in read.items()}
    groups = duplicates.find(
        {name: [i.fingerprint for i in of_split] for name, of_split in images.items()}
    )
    labels = {
        name: suspicious.find(name, objects, images[name], splits[name].class_names)
        for name, (objects, _) in read.items()
    }
    train = _training_split(config, measured)
    sample = sheets.choose(len(splits[train]), _SAMPLE, config.seed)
    scales = {
        "input_size": list(config.input_size),
        "lender_scale": config.evaluation.lender_scale,
        "positive_iou": config.loss.positive_iou,
    }
    report = {
        "dataset": config.dataset.name,
        "path": config.dataset.path,
        "notices": [*_notices(splits), *native_scale.notices_of_measurement(config)],
        **scales,
        "splits": measured,
        "problems": problems.to_json(),
        "duplicates": _duplicates(groups, images, config),
        "labels": _labels(labels),
        "answer": _answer(
            train, measured[train], scales, *read[train], problems.counts(), config
        ),
        "sample": {
            "split": train,
            "seed": config.seed,
            "images": [images[train][index].file_name for index in sample],
            "augmented": bool(config.augment.enabled),
        },
    }
    return Inspection(report, config, splits, train, sample, labels, groups)


def _notices(splits: Mapping[str, sources.Split]) -> list[str]:
    """Returns the lines of a run's start: format, held-out images, repairs.

    Lines about the policies are left out, since a run may have others.
    """
    lines = dict.fromkeys(line for split in splits.values() for line in split.notices)
    return [line for line in lines if ": dataset.bad_" not in line]


def _measure(
    split: sources.Split,
    objects: Objects,
    images: Sequence[Image],
    config: ml_collections.ConfigDict,
) -> dict[str, Any]:
    """Returns the figures of a split."""
    groups, field = _groups(split, images, config)
    small = figures.is_small(objects, config.input_size)
    return {
        **figures.measure(objects, split.class_names, config),
        "lenders": lenders.measure(objects, small, groups, field, config),
    }


def _groups(
    split: sources.Split, images: Sequence[Image], config: ml_collections.ConfigDict
) -> tuple[list[Hashable | None], str | None]:
    """Returns the group of each image, and the field that names it, if there is one."""
    if references_field := config.references.field:
        return list(group_keys(split, references_field)), references_field
    described = [{"file_name": i.file_name, "fields": i.fields} for i in images]
    group = config.dataset.group
    # All images may be of one video, which cannot be divided for validation.
    field = folder_splits.group_field(described, group) or folder_splits.group_field(
        described, group, least_groups=1
    )
    if not field:
        return [None] * len(images), None
    return list(folder_splits.group_keys(described, field)), field


def _training_split(
    config: ml_collections.ConfigDict, measured: Mapping[str, Mapping[str, Any]]
) -> str:
    """Returns the split that a run would train on, or else the largest one."""
    for name in (config.dataset.train_split, "train"):
        if name in measured:
            return name
    return max(measured, key=lambda name: measured[name]["images"])


def _duplicates(
    groups: Mapping[str, Sequence[Sequence[Place]]],
    images: Mapping[str, Sequence[Image]],
    config: ml_collections.ConfigDict,
) -> dict[str, Any]:
    """Returns the figures of duplicates."""
    file_names = {name: [i.file_name for i in found] for name, found in images.items()}
    trained = {name.partition("[")[0] for name in ("train", config.dataset.train_split)}
    training = [name for name in images if name.partition("[")[0] in trained]
    return duplicates.figures(groups, file_names, training)


def _labels(labels: Mapping[str, Mapping[str, Sequence[Label]]]) -> dict[str, Any]:
    """Returns the labels that look wrong as JSON values."""
    found = {
        split: {
            kind: [one._asdict() for one in of_kind] for kind, of_kind in of.items()
        }
        for split, of in labels.items()
    }
    return {"counts": suspicious.counts(labels), "found": found}


def _answer(
    train: str,
    split: Mapping[str, Any],
    scales: Mapping[str, Any],
    objects: Objects,
    images: Sequence[Image],
    problems: Mapping[str, int],
    config: ml_collections.ConfigDict,
) -> dict[str, Any]:
    """Returns the answer and the suggestions."""
    answer, sentences = suggestion.verdict(train, split, scales)
    # None without small objects.
    share = split["lenders"]["in_image"]["share"]
    expected = None
    if share and _is_measured_kind(config):
        expected = expectation.expect_at(share, expectation.MEASURED)
        sentences.append(expectation.describe(expected, expectation.MEASURED))
    found = suggestion.suggest(answer, split, objects, images, problems, config)
    return {
        "answer": answer,
        "split": train,
        "sentences": sentences,
        "expected": expected and expected._asdict(),
        "suggestions": [
            {"reason": one.reason, "flags": one.lines(), "hint": one.hint}
            for one in found
        ],
        "fragment": suggestion.fragment(found),
    }


def _is_measured_kind(config: ml_collections.ConfigDict) -> bool:
    """Returns whether these are photographs whose objects borrow within the image."""
    drawn = config.dataset.name.startswith(("scale_pairs", "object_pairs"))
    return not drawn and config.references.kind == "none"
