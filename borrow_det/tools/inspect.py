"""Reports on a dataset before training: objects, lenders, anchors.

  python -m borrow_det.tools.inspect --path=DIR [--output=DIR]
  python -m borrow_det.tools.inspect --config=CONFIG [--config.field=value ...]

--path opens a folder with COCO annotation files, all splits of it, at the input size of
the packaged config coco_folder. --config opens the training and evaluation splits of
any detection config. --split=NAME, which may be repeated, chooses other splits.

For each split the report has
  the images, classes and objects; objects per image, and their aspect ratios;
  the sizes of objects at the network's input size (config.input_size), to which images
  are resized: COCO's small (below 32 pixels), medium and large (from 96 pixels on);
  the small objects that have a lender: an object of the same class in the same image
  with at least config.evaluation.lender_scale times the side. These can borrow;
  the objects that the config's anchors reach: the IoU with an anchor is at least
  config.loss.positive_iou.
Boxes that training does not learn (crowds and difficult objects, by
config.loss.ignored) and boxes without an area are counted and left out.

--output=DIR also writes the report to DIR/inspection.json.
"""

import functools
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags

from borrow_det.config import command_line, packaged, validate
from borrow_det.configs import coco_folder
from borrow_det.data import sources
from borrow_det.data.datasets import folder_layout
from borrow_det.errors import InputError, check_choice
from borrow_det.evaluation.average_precision import AREA_RANGES
from borrow_det.io import paths
from borrow_det.ops import anchor_design, assignment, borrow_targets
from borrow_det.ops import anchors as anchor_ops
from borrow_det.tools.common import cli
from borrow_det.visualization.tables import markdown_table

_QUANTILES = (0.05, 0.5, 0.95)
# Images are padded to powers of two, at least this: few shapes are compiled.
_LEAST_PADDED = 8


class Objects(NamedTuple):
    """The objects of a split that training learns, N of them in all its images.

    Attributes:
      boxes: float32 [N, 4], normalized corners.
      labels: int32 [N].
      images: int32 [N], index of the image that shows the object.
      has_lender: bool [N].
      num_images: images of the split, including those without objects.
      ignored: boxes that training does not learn.
      without_area: boxes without an area.
    """

    boxes: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    has_lender: np.ndarray
    num_images: int
    ignored: int
    without_area: int


def main(argv: Sequence[str]) -> int:
    """Runs the tool; returns the exit status."""
    options = _flags(argv)
    cli.refuse_arguments(cli.parse(options, argv, __doc__))
    config, splits = _config_and_splits(options)
    report = inspect(config, options.split or splits)
    print(text(report))
    if options.output:
        path = cli.output_folder(options.output) / "inspection.json"
        try:
            paths.make_folder(path.parent)
            paths.write_whole(path, json.dumps(report, indent=1) + "\n")
        except OSError as error:
            raise InputError(
                f"--output={options.output} cannot be written: {paths.reason(error)}"
            ) from error
        print(f"\nThese figures: {path}")
    return 0


def inspect(config: ml_collections.ConfigDict, splits: Sequence[str]) -> dict[str, Any]:
    """Measures the objects of some splits of a config's dataset.

    Args:
      config: a detection config.
      splits: names of splits, or slices of them (`train[:16]`).

    Returns:
      The report, as plain JSON values: `dataset`, `path`, `input_size`,
      `lender_scale`, `positive_iou`, and for each split under `splits` what
      `measure` returns.

    Raises:
      InputError: a field is out of its range, or the dataset cannot be opened.
    """
    check_choice("task", config.task, ("detection",))
    validate.check_fields(config)
    opened = sources.load_splits(config.dataset, splits)
    return {
        "dataset": config.dataset.name,
        "path": config.dataset.path,
        "input_size": list(config.input_size),
        "lender_scale": config.evaluation.lender_scale,
        "positive_iou": config.loss.positive_iou,
        "splits": {
            name: measure(read_objects(split, config), split.class_names, config)
            for name, split in zip(splits, opened, strict=True)
        },
    }


def read_objects(split: sources.Split, config: ml_collections.ConfigDict) -> Objects:
    """Reads the objects of a split; pixels are not decoded."""
    scale = config.evaluation.lender_scale
    boxes, labels, lenders = [], [], []
    ignored = without_area = 0
    for index in range(len(split)):
        record = split[index]
        ignore = record["is_crowd"] | record["is_difficult"]
        valid = np.ones_like(ignore)
        learned = np.asarray(assignment.objects(valid, ignore, config.loss.ignored))
        has_area = (record["boxes"][:, 2:] > record["boxes"][:, :2]).all(axis=1)
        kept = learned & has_area
        ignored += int((~learned).sum())
        without_area += int((learned & ~has_area).sum())
        boxes.append(record["boxes"][kept])
        labels.append(record["labels"][kept])
        lenders.append(_has_lender(boxes[-1], labels[-1], scale))
    counts = [len(of_image) for of_image in labels]
    return Objects(
        boxes=np.concatenate([np.zeros((0, 4), np.float32), *boxes]),
        labels=np.concatenate([np.zeros(0, np.int32), *labels]),
        images=np.repeat(np.arange(len(counts)), counts),
        has_lender=np.concatenate([np.zeros(0, bool), *lenders]),
        num_images=len(split),
        ignored=ignored,
        without_area=without_area,
    )


def measure(
    objects: Objects, class_names: Sequence[str], config: ml_collections.ConfigDict
) -> dict[str, Any]:
    """Computes the figures of a split.

    Returns:
      `images`, `images_without_objects`, `objects`, `ignored`, `without_area`;
      `objects_per_image` (mean, median, largest); `sizes` and `aspect_ratios` (width /
      height), at 5, 50 and 95 % of the objects; `by_size`: for small, medium and large
      the number of objects, the share of all, those with a lender and those that an
      anchor reaches; `small_with_lender` and `reached_by_anchors` (number and share);
      `classes`: the objects, images and share of each. Shares are in [0, 1], or None
      without objects.
    """
    sides = (objects.boxes[:, 2:] - objects.boxes[:, :2]) * np.array(config.input_size)
    sizes = np.sqrt(sides.prod(axis=1))
    anchors = anchor_ops.make_anchors(config.anchors, config.input_size)
    iou = anchor_design.best_iou(objects.boxes, anchors)
    reached = iou >= config.loss.positive_iou
    per_image = np.bincount(objects.images, minlength=objects.num_images)
    total = len(sizes)
    by_size = {}
    for name, (low, high) in AREA_RANGES.items():
        inside = (sizes**2 >= low) & (sizes**2 < high)
        by_size[name] = {
            **_part(inside.sum(), total),
            "with_lender": int((inside & objects.has_lender).sum()),
            "reached_by_anchors": int((inside & reached).sum()),
        }
    small = by_size["small"]
    return {
        "images": objects.num_images,
        "images_without_objects": int((per_image == 0).sum()),
        "objects": total,
        "ignored": objects.ignored,
        "without_area": objects.without_area,
        "objects_per_image": _per_image(per_image),
        "sizes": _quantiles(sizes),
        "aspect_ratios": _quantiles(sides[:, 1] / sides[:, 0]),
        "by_size": by_size,
        "small_with_lender": _part(small["with_lender"], small["objects"]),
        "reached_by_anchors": _part(reached.sum(), total),
        "classes": {
            name: _part((objects.labels == label).sum(), total)
            | {"images": len(np.unique(objects.images[objects.labels == label]))}
            for label, name in enumerate(class_names)
        },
    }


def text(report: Mapping[str, Any]) -> str:
    """Returns the report as Markdown for the console."""
    height, width = report["input_size"]
    splits = report["splits"]
    return "\n\n".join(
        [
            f"{report['path'] or report['dataset']}, at the network's input of "
            f"{width} x {height} pixels",
            _overview(splits),
            _class_table(splits),
            _size_table(splits),
            "Is borrowing for this dataset? Small objects that have a lender, a\n"
            "larger object of their class in their image, with at least "
            f"{report['lender_scale']:g} times the side:",
            _lender_table(splits),
            "Objects that an anchor of the config reaches with an IoU of at least "
            f"{report['positive_iou']:g}:",
            _anchor_table(splits),
        ]
    )


def _overview(splits: Mapping[str, Any]) -> str:
    columns = ["images", "without objects", "objects", "per image (mean, largest)"]
    columns += ["ignored boxes", "without area"]
    rows = []
    for name, split in splits.items():
        counts = split["objects_per_image"]
        per_image = f"{_number(counts['mean'])}, {_number(counts['largest'])}"
        cells = [split["images"], split["images_without_objects"], split["objects"]]
        cells += [per_image, split["ignored"], split["without_area"]]
        rows.append((name, [str(cell) for cell in cells]))
    return markdown_table("split", columns, rows)


def _class_table(splits: Mapping[str, Any]) -> str:
    columns = [text for split in splits for text in (f"{split}: objects", "share")]
    rows = []
    for name in next(iter(splits.values()))["classes"]:
        cells = []
        for split in splits.values():
            found = split["classes"][name]
            cells += [str(found["objects"]), _percent(found["share"])]
        rows.append((name, cells))
    return markdown_table("class", columns, rows)


def _size_table(splits: Mapping[str, Any]) -> str:
    percents = ", ".join(f"{quantile:.0%}" for quantile in _QUANTILES)
    columns = [
        *AREA_RANGES,
        f"sides in pixels ({percents})",
        f"width / height ({percents})",
    ]
    rows = []
    for name, split in splits.items():
        cells = [str(split["by_size"][size]["objects"]) for size in AREA_RANGES]
        for field in ("sizes", "aspect_ratios"):
            cells.append(", ".join(_number(value) for value in split[field]))
        rows.append((name, cells))
    return markdown_table("split", columns, rows)


def _lender_table(splits: Mapping[str, Any]) -> str:
    rows = []
    for name, split in splits.items():
        found = split["small_with_lender"]
        counts = split["by_size"]["small"]["objects"], found["objects"]
        rows.append((name, [*map(str, counts), _percent(found["share"])]))
    return markdown_table("split", ["small objects", "with a lender", "share"], rows)


def _anchor_table(splits: Mapping[str, Any]) -> str:
    columns = [
        "objects",
        "reached",
        "share",
        *(f"{size}: share" for size in AREA_RANGES),
    ]
    rows = []
    for name, split in splits.items():
        found = split["reached_by_anchors"]
        cells = [str(split["objects"]), str(found["objects"]), _percent(found["share"])]
        for part in split["by_size"].values():
            reached, count = part["reached_by_anchors"], part["objects"]
            cells.append(_percent(reached / count if count else None))
        rows.append((name, cells))
    return markdown_table("split", columns, rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _has_lender(boxes: np.ndarray, labels: np.ndarray, scale: float) -> np.ndarray:
    """Returns which objects of an image have a lender in it, bool [n]."""
    count = len(labels)
    padded = max(_LEAST_PADDED, 1 << max(count - 1, 0).bit_length())
    pad = padded - count
    found = _any_lender(
        np.pad(boxes.astype(np.float32), ((0, pad), (0, 0))),
        np.pad(labels.astype(np.int32), (0, pad)),
        np.arange(padded) < count,
        scale,
    )
    return np.asarray(found)[:count]


@functools.partial(jax.jit, static_argnames="scale")
def _any_lender(
    boxes: jax.Array, labels: jax.Array, valid: jax.Array, scale: float
) -> jax.Array:
    return jnp.any(borrow_targets.lenders(boxes, labels, valid, scale), axis=1)


def _part(count: int, total: int) -> dict[str, Any]:
    return {
        "objects": int(count),
        "share": round(float(count / total), 6) if total else None,
    }


def _per_image(counts: np.ndarray) -> dict[str, Any]:
    if not len(counts):
        return {"mean": None, "median": None, "largest": None}
    return {
        "mean": round(float(counts.mean()), 6),
        "median": float(np.median(counts)),
        "largest": int(counts.max()),
    }


def _quantiles(values: np.ndarray) -> list[float | None]:
    if not len(values):
        return [None] * len(_QUANTILES)
    return [round(float(value), 4) for value in np.quantile(values, _QUANTILES)]


def _config_and_splits(
    options: flags.FlagValues,
) -> tuple[ml_collections.ConfigDict, list[str]]:
    """Returns the config and the splits to inspect if --split names none."""
    if bool(options.path) == options["config"].present:
        raise InputError("give either --config or --path")
    if not options.path:
        config = command_line.resolved(options["config"])
        dataset = config.dataset
        return config, list(dict.fromkeys([dataset.train_split, *dataset.eval_splits]))
    config = coco_folder.get_config("path=.")
    config.dataset.path = options.path
    folder = pathlib.Path(options.path).expanduser().absolute()
    return config, list(folder_layout.find_splits(folder))


def _flags(argv: Sequence[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    packaged.define_config("config", packaged.HELP, values, argv)
    flags.DEFINE_string(
        "path",
        None,
        "Folder of images with COCO annotation files, in place of --config.",
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "split", [], "Split to inspect (default: all of them).", flag_values=values
    )
    flags.DEFINE_string(
        "output", None, "Local folder for inspection.json.", flag_values=values
    )
    return values


if __name__ == "__main__":
    sys.exit(cli.call(main, sys.argv))
