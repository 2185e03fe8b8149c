"""Opening of a dataset in spite of its problems."""

from collections.abc import Sequence

import ml_collections

from borrow_det.data import sources
from borrow_det.errors import InputError
from borrow_det.io.problems import Problems


def open_splits(
    dataset_config: ml_collections.ConfigDict, names: Sequence[str]
) -> tuple[dict[str, sources.Split], Problems]:
    """Opens splits with what is good in them, and lists what is wrong.

    Args:
      dataset_config: config.dataset. Bad images are left out, and bad boxes are clipped
        unless the policy is to drop them.
      names: names of splits, or slices of them.

    Returns:
      The splits that can be read, by name, and the problems of all of them.

    Raises:
      InputError: none of the splits can be read.
    """
    lenient = dataset_config.copy_and_resolve_references()
    if lenient.bad_boxes == "error":
        lenient.bad_boxes = "clip"
    problems = Problems()
    readable = list(names)
    try:
        splits = sources.load_splits(lenient, readable, refuse=False)
    except InputError:
        # One of several splits may be broken: those that can be read are opened
        # together, since their classes are numbered together.
        readable = [name for name in names if _can_be_read(lenient, name, problems)]
        if len(readable) in (0, len(names)):
            raise
        splits = sources.load_splits(lenient, readable, refuse=False)
    # Two slices of a split have the same problems.
    found = dict.fromkeys(problem for split in splits for problem in split.problems)
    problems.extend(found)
    for split in splits:
        if split.problems and not len(split):
            reason = "none of its images can be read: add images"
            problems.add("split without images", split.name, "", reason)
    return dict(zip(readable, splits, strict=True)), problems


def _can_be_read(
    dataset_config: ml_collections.ConfigDict, name: str, problems: Problems
) -> bool:
    """Returns whether a split can be opened; if not, adds the reason to problems."""
    try:
        sources.load_splits(dataset_config, [name], refuse=False)
    except InputError as error:
        problems.add("split that cannot be read", name, "", str(error).rstrip("."))
        return False
    return True
