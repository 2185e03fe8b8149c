"""Image ids for predictions, from a COCO file that lists the same images."""

from collections.abc import Sequence
from typing import NamedTuple

from borrow_det.evaluation import coco_format
from borrow_det.evaluation.coco_values import Id
from borrow_det.io import file_names
from borrow_det.io.problems import Problems
from borrow_det.tools.predict.sources import Source


class ImageIds(NamedTuple):
    """Image ids of inputs.

    Attributes:
      ids: id of each input that the COCO file lists.
      left_out: inputs that it does not list, and videos. `score` takes no detections of
        images that the ground truth does not have.
    """

    ids: dict[Source, Id]
    left_out: list[Source]


def image_ids(annotations: str, sources: Sequence[Source]) -> ImageIds:
    """Looks up the image id that a COCO file has for each input, by file name.

    The recorded names may be those of another machine (io/file_names.py). Names that
    are equal in several folders are distinguished by their folders. If several inputs
    fit one record, the one with the most folders in common has its id.

    Args:
      annotations: COCO file; its list of annotations may be absent.
      sources: inputs.

    Raises:
      InputError: the file cannot be read or lists none of the inputs, several records
        fit an input equally well, or several inputs a record; the message counts them
        and names the first of each.
    """
    wrong_records, unlisted, problems = Problems(), Problems(), Problems()
    images = coco_format.read_annotations(
        annotations, wrong_records, annotated=False
    ).images
    index = file_names.NameIndex(
        (parts, number)
        for number, image in enumerate(images)
        for parts in file_names.readings_of(image.file_name)
    )
    fitting: dict[int, list[Source]] = {}
    for source in sources:
        if source.may_be_video:
            reason = "frames have no image ids in a COCO file"
            unlisted.add("video", source.name, "", reason)
            continue
        found, candidates = index.find(source.readings)
        # The readings of one name are one image.
        numbers = {found} if found is not None else set(candidates)
        if len(numbers) == 1:
            fitting.setdefault(numbers.pop(), []).append(source)
        elif numbers:
            names = ", ".join(repr(images[n].file_name) for n in sorted(numbers)[:4])
            reason = f"the file has several images of that name: {names}"
            problems.add("ambiguous file name", source.name, "", reason)
        else:
            reason = "the file has no image of that name"
            unlisted.add("unknown file name", source.name, "", reason)
    ids: dict[Source, Id] = {}
    for number, several in fitting.items():
        name = images[number].file_name
        first, *others = _closest(several, name)
        ids[first] = images[number].id
        for other in others:
            reason = f"{name!r} is the image of {first.name}, too"
            problems.add("image of two files", other.name, "", reason)
    if not ids:
        problems.extend(unlisted)
    advice = f"Correct --ids_from={annotations}, or leave out these files"
    if wrong_records:
        advice += f". Records of that file are wrong, too: {wrong_records.summary()}"
    problems.refuse(None, advice)
    return ImageIds(ids, [source for source in sources if source not in ids])


def _closest(sources: Sequence[Source], name: str) -> list[Source]:
    """Returns the sources whose paths have the most trailing parts of a name."""
    recorded = file_names.readings_of(name)

    def common(source: Source) -> int:
        pairs = [(ours, theirs) for ours in source.readings for theirs in recorded]
        return max(_common_end(ours, theirs) for ours, theirs in pairs)

    lengths = [common(source) for source in sources]
    best = max(lengths)
    return [s for s, n in zip(sources, lengths, strict=True) if n == best]


def _common_end(first: file_names.Parts, second: file_names.Parts) -> int:
    """Returns the number of trailing parts that two paths have in common."""
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        count += 1
    return count
