"""The number of classes of a run that is looked at without its data."""

from absl import flags

from borrow_det.data import sources
from borrow_det.data.datasets import coco_classes, scale_pairs
from borrow_det.errors import InputError

# Of the sets whose classes are known without their files.
_CLASSES = {
    "scale_pairs": len(scale_pairs.SPECIES),
    "coco/2017": len(coco_classes.NAMES),
    "voc": 20,
    "wider_face": 1,
    "kitti": 8,
    "imagenet2012": 1000,
}


def define_flag(values: flags.FlagValues) -> None:
    """--num_classes of a tool."""
    flags.DEFINE_integer(
        "num_classes",
        None,
        "Without background; those of the data set.",
        lower_bound=1,
        flag_values=values,
    )


def of(config, given: int | None) -> int:
    """What --num_classes says, or is known of the set, or stands in its files.

    Raises:
      InputError: the files are not there.
    """
    known = given or _CLASSES.get(config.dataset.name)
    if known:
        return known
    try:
        return len(sources.load(config.dataset, config.dataset.train_split).class_names)
    except InputError as error:
        raise InputError(f"{error}; or give --num_classes") from error
