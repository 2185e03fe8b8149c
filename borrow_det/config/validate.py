"""Checks the ranges of a configuration's fields before a run starts."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import ml_collections

from borrow_det.config import run_length
from borrow_det.errors import InputError, check_choice


def _is_share(value: float) -> bool:
    return 0 <= value <= 1


def _is_size(value: Sequence[int]) -> bool:
    return len(value) == 2 and all(isinstance(v, int) and v >= 1 for v in value)


def _is_positive_range(value: Sequence[float]) -> bool:
    return len(value) == 2 and 0 < value[0] <= value[1]


def _are_positive(count: int) -> Callable[[Sequence[float]], bool]:
    return lambda value: len(value) == count and all(v > 0 for v in value)


# Fields, the rule that their values follow, and the rule in words.
_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    (
        "log_every eval_every checkpoint_every keep_checkpoints "
        "model.group_size model.global_blocks borrow.context_kernel borrow.query_block "
        "nms.max_per_class nms.max_total augment.crop_tries evaluation.max_detections "
        "references.count augment.max_expand augment.paste_count augment.paste_scale "
        "head.channels",
        lambda value: value >= 1,
        "at least 1",
    ),
    (
        "stop_after micro_batch model.frozen model.window borrow.channels "
        "borrow.value_channels loss.negatives_per_positive "
        "loss.min_negatives loss.localization loss.matching optimizer.weight_decay "
        "optimizer.clip_norm report.num_pictures report.contact_sheet "
        "dataset.crop_context dataset.max_boxes dataset.max_pixels anchors.next_size "
        "head.depth loss.focal_gamma",
        lambda value: value >= 0,
        "at least 0",
    ),
    (
        "model.width borrow.temperature loss.matching_scale loss.matching_reach "
        "optimizer.learning_rate optimizer.trunk_rate dataset.min_crop_side",
        lambda value: value > 0,
        "above 0",
    ),
    ("evaluation.lender_scale", lambda value: value > 1, "above 1"),
    ("head.prior", lambda value: 0 < value < 1, "above 0 and below 1"),
    ("head.norm", lambda value: value in ("none", "group"), "none or group"),
    (
        "nms.score nms.iou loss.positive_iou loss.focal_alpha "
        "augment.photometric augment.expand "
        "augment.flip augment.tile_objects augment.tile_whole augment.paste "
        "augment.paste_flip report.min_score",
        _is_share,
        "between 0 and 1",
    ),
    (
        "ema_decay model.dropout loss.label_smoothing dataset.held_out",
        lambda value: 0 <= value < 1,
        "at least 0 and below 1",
    ),
    (
        "augment.min_crop evaluation.crop_share optimizer.layer_decay",
        lambda value: 0 < value <= 1,
        "above 0 and at most 1",
    ),
    (
        "augment.crop_area",
        lambda value: _is_positive_range(value) and value[1] <= 1,
        "a pair (smallest, largest) of numbers above 0 and at most 1",
    ),
    (
        "augment.crop_aspect augment.tile_zoom",
        _is_positive_range,
        "a pair (smallest, largest) of numbers above 0",
    ),
    (
        "augment.paste_sides",
        lambda value: _is_positive_range(value) and value[0] >= 1,
        "a pair (smallest, largest) of numbers of at least 1",
    ),
    ("augment.paste_edge", lambda value: 0 <= value <= 0.5, "between 0 and 0.5"),
    (
        "evaluation.tile_overlap",
        lambda value: 0 <= value <= 0.9,
        "between 0 and 0.9",
    ),
    (
        "references.kind",
        lambda value: value in ("none", "overview", "group"),
        "none, overview or group",
    ),
    (
        "input_size dataset.canvas",
        _is_size,
        "a pair (height, width) of integers above 0",
    ),
    ("model.pixel_mean", lambda value: len(value) == 3, "three numbers"),
    ("model.pixel_std", _are_positive(3), "three numbers above 0"),
    ("model.channel_order", lambda value: value in ("RGB", "BGR"), "RGB or BGR"),
    (
        "evaluation.area_pixels",
        lambda value: value in ("original", "input"),
        "original or input",
    ),
    (
        "loss.matching_lenders",
        lambda value: value in ("all", "most_attended"),
        "all or most_attended",
    ),
    ("dataset.instance", lambda value: value in ("other", "same"), "other or same"),
    ("dataset.folds", lambda value: value == 0 or value >= 2, "0, or at least 2"),
    ("nms.clip", lambda value: value in ("before", "after"), "before or after"),
    ("anchors.variances", _are_positive(2), "two numbers above 0"),
    (
        "anchors.strides anchors.sizes",
        lambda value: len(value) >= 1 and min(value) > 0,
        "one number of pixels above 0 per level",
    ),
    (
        "anchors.aspect_ratios",
        lambda value: all(len(ratios) >= 1 and min(ratios) > 0 for ratios in value),
        "one tuple of aspect ratios above 0 per level, none of them empty",
    ),
    (
        "anchors.second_aspect_ratios",
        lambda value: all(ratio > 0 for ratio in value),
        "aspect ratios above 0",
    ),
    (
        "model.stages",
        lambda value: all(isinstance(v, int) and v >= 1 for v in value),
        "numbers of layers or blocks of at least 1, or ()",
    ),
    ("dtype", lambda value: value in ("float32", "bfloat16"), "float32 or bfloat16"),
    (
        "first_stage",
        lambda value: value in ("auto", "plain", "pairs"),
        "auto, plain or pairs",
    ),
    ("remat", lambda value: value in ("none", "trunk"), "none or trunk"),
    ("dataset.eval_splits", lambda value: len(value) >= 1, "at least one split"),
)


def check(
    config: ml_collections.ConfigDict, tasks: Collection[str], data_parallelism: int
) -> None:
    """Checks every field that no other part checks when it is built.

    Args:
      config: the run's configuration.
      tasks: names of the known tasks.
      data_parallelism: number of devices that share a batch.

    Raises:
      InputError: names the first field that is out of its range, and the range.
    """
    check_choice("task", config.task, tasks)
    check_fields(config)
    for name in ("batch_size", "eval_batch_size"):
        size = config[name]
        if size < 1 or size % data_parallelism:
            raise InputError(
                f"{name} is {size}; it must be a positive multiple of the "
                f"{data_parallelism} devices that share a batch"
            )
    share = config.batch_size // data_parallelism
    if config.micro_batch and share % config.micro_batch:
        raise InputError(
            f"micro_batch is {config.micro_batch}; it must be 0 or divide the {share} "
            "images of a batch that each device gets"
        )


def check_fields(config: ml_collections.ConfigDict) -> None:
    """Checks every field whose range is independent of the devices.

    Raises:
      InputError: names the first field that is out of its range, and the range.
    """
    run_length.check(config)
    _check_ranges(config)
    _check_task(config)
    _check_augmentation(config)
    _check_folds(config.dataset)
    _check_references(config)


def _check_ranges(config: ml_collections.ConfigDict) -> None:
    fields = config.to_dict()
    for names, holds, range_ in _RULES:
        for name in names.split():
            value = _at(fields, name)
            if not _holds(holds, value):
                raise InputError(f"{name} is {value!r}; it must be {range_}")


def _check_task(config: ml_collections.ConfigDict) -> None:
    """Checks that only detection has the fields that are for it."""
    if config.task == "detection":
        return
    detection = ("references.kind", "augment.tile", "augment.paste", "evaluation.tiles")
    for name in detection:
        value = _at(config.to_dict(), name)
        if value not in ("none", False, ""):
            raise InputError(
                f"{name} is {value}, and task is {config.task}: references, tiles and "
                "pasted copies are for task=detection"
            )


def _check_augmentation(config: ml_collections.ConfigDict) -> None:
    """Checks the fields of tiles and pasted copies that depend on others."""
    augment = config.augment
    for name in ("tile", "paste"):
        if augment[name] and not augment.enabled:
            raise InputError(f"augment.{name} needs augment.enabled=True")
    smallest = augment.paste_scale * augment.paste_sides[0]
    if augment.paste and smallest > max(config.input_size):
        raise InputError(
            f"augment.paste_sides begins at {augment.paste_sides[0]:g} pixels, and no "
            f"object of input_size={config.input_size} has augment.paste_scale="
            f"{augment.paste_scale:g} times that side: reduce one of them"
        )


def _check_folds(dataset: ml_collections.ConfigDict) -> None:
    """Checks the fields of cross-validation."""
    if dataset.folds and dataset.name not in ("folder", "coco_folder"):
        raise InputError(
            f"dataset.folds is {dataset.folds}, and dataset.name is {dataset.name}: "
            "folds are for dataset.name=folder, with dataset.path"
        )
    if not 0 <= dataset.fold < max(dataset.folds, 1):
        folds = (
            f"the {dataset.folds} folds are 0 to {dataset.folds - 1}"
            if dataset.folds
            else "dataset.folds is 0: set the number of folds, too"
        )
        raise InputError(f"dataset.fold is {dataset.fold}; {folds}")


def _check_references(config: ml_collections.ConfigDict) -> None:
    """Checks the fields that references need together."""
    kind = config.references.kind
    if kind == "none":
        return
    if not config.borrow.enabled:
        raise InputError(
            f"references.kind is {kind}, and borrow.enabled is False: references "
            "serve borrowing only"
        )
    if not config.borrow.levels:
        raise InputError(
            f"references.kind is {kind}, and borrow.levels is empty: name the levels "
            "that borrow"
        )
    if config.borrow.source != "deeper":
        raise InputError(
            f"references.kind is {kind}, and borrow.source is {config.borrow.source}: "
            "references need borrow.source=deeper"
        )
    if kind == "overview" and not (config.augment.tile or config.evaluation.tiles):
        raise InputError(
            "references.kind is overview, the entire image for a tile of it: set "
            "augment.tile or evaluation.tiles"
        )


def _holds(rule: Callable[[Any], bool], value: Any) -> bool:
    try:
        return rule(value)
    except TypeError:  # A string among numbers, one number in place of several.
        return False


def _at(fields: Mapping[str, Any], name: str) -> Any:
    value: Any = fields
    for part in name.split("."):
        value = value[part]
    return value
