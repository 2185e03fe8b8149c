"""Number of classes of a config, without the data if possible."""

import ml_collections
from absl import flags

from borrow_det.data import sources
from borrow_det.data.datasets import coco_classes, scale_pairs
from borrow_det.errors import InputError

# Datasets whose classes are known without their files.
_CLASSES = {
    "scale_pairs": len(scale_pairs.SPECIES),
    "scale_pairs_wide": len(scale_pairs.SPECIES),
    "scale_pairs_clips": len(scale_pairs.SPECIES),
    "coco/2017": len(coco_classes.NAMES),
    "voc": 20,
    "wider_face": 1,
    "kitti": 8,
    "imagenet2012": 1000,
}


def define_flag(values: flags.FlagValues) -> None:
    """Defines --num_classes."""
    flags.DEFINE_integer(
        "num_classes",
        None,
        "Number of classes without background (default: those of the dataset).",
        lower_bound=1,
        flag_values=values,
    )


def resolve(config: ml_collections.ConfigDict, given: int | None) -> int:
    """Returns --num_classes, or else the number of classes of the dataset.

    Raises:
      InputError: the number is not known and the dataset's files are absent.
    """
    known = given or _CLASSES.get(config.dataset.name)
    if known:
        return known
    try:
        names = [config.dataset.train_split, *config.dataset.eval_splits]
        return len(sources.load_splits(config.dataset, names)[0].class_names)
    except InputError as error:
        raise InputError(f"{error}; or set --num_classes") from error
