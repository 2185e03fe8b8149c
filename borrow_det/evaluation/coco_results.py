"""The reader of COCO's results files: lists of detections."""

import os
import reprlib
from collections.abc import Mapping
from typing import Any

from borrow_det.errors import InputError
from borrow_det.evaluation.annotations import Annotations
from borrow_det.evaluation.coco_values import Id, as_id, as_number, id_key
from borrow_det.io import json_files
from borrow_det.io.problems import Problems

# Numbers of a box; the areas of larger ones may be infinite.
_LARGEST = 1e100


def read_results(
    path: str | os.PathLike, annotations: Annotations
) -> list[dict[str, Any]]:
    """Reads the detections of a results file.

    Args:
      path: the file.
      annotations: annotations of the same images. An id in the results matches an id in
        them that is equal, or is the text of the same integer.

    Returns:
      A record of each detection, in the order of the file: image_id and category_id as
      in the annotations, bbox [x, y, width, height] in pixels and score. Detections of
      a root category of Roboflow's exports are left out: it is not a class.

    Raises:
      InputError: the file cannot be read, or records in it are wrong; the message
        counts them by kind and quotes the first of each.
    """
    problems = Problems()
    results = parse_results(json_files.read(path), str(path), annotations, problems)
    problems.refuse(
        None, "Correct the results, or give the annotation file that they belong to"
    )
    return results


def parse_results(
    data: Any, name: str, annotations: Annotations, problems: Problems
) -> list[dict[str, Any]]:
    """Reads the content of a results file; see `read_results`.

    Args:
      data: content of the file.
      name: name of the file, for messages.
      annotations: annotations of the same images.
      problems: receives the wrong records, which are left out.

    Raises:
      InputError: the content is not a list.
    """
    if not isinstance(data, list):
        shown = reprlib.repr(data)
        if isinstance(data, Mapping):  # Possibly an annotation file, which is long.
            shown = f"an object with the keys {reprlib.repr(list(data))}"
        raise InputError(
            f"{name}: the detections must be a list of objects, not {shown}"
        )
    root = annotations.root_id
    classes = [category.id for category in annotations.categories]
    category_ids = classes if root is None else [*classes, root]
    known: dict[str, Mapping[str, Id]] = {
        "image_id": {id_key(image.id): image.id for image in annotations.images},
        "category_id": {id_key(value): value for value in category_ids},
    }
    results = []
    for index, record in enumerate(data):
        try:
            found = _detection(record, known)
        except _WrongRecordError as error:
            kind, reason = error.args
            problems.add(kind, name, f"detections[{index}]", reason)
            continue
        if root is None or found["category_id"] != root:
            results.append(found)
    return results


class _WrongRecordError(Exception):
    """Raised with the kind of the problem and the reason."""


def _detection(record: Any, known: Mapping[str, Mapping[str, Id]]) -> dict[str, Any]:
    if not isinstance(record, Mapping):
        raise _WrongRecordError(
            "invalid record", f"must be a JSON object, not {reprlib.repr(record)}"
        )
    for key in ("image_id", "category_id", "bbox", "score"):
        if key not in record:
            raise _WrongRecordError("missing key", f"the key {key!r} is missing")
    ids: dict[str, Any] = {}
    for key, table in known.items():
        value = as_id(record[key])
        if value is None or id_key(value) not in table:
            raise _WrongRecordError(
                f"unknown {key.removesuffix('_id')}",
                f"{key} {reprlib.repr(record[key])} is not in the ground truth",
            )
        ids[key] = table[id_key(value)]
    box = record["bbox"]
    numbers = [as_number(v) for v in box] if isinstance(box, list) else []
    if len(numbers) != 4 or None in numbers:
        raise _WrongRecordError(
            "wrong box",
            f"bbox {reprlib.repr(box)} is not [x, y, width, height] in finite numbers",
        )
    if max(map(abs, box)) > _LARGEST:
        raise _WrongRecordError(
            "wrong box", f"bbox {reprlib.repr(box)} is not a box in pixels"
        )
    if min(box[2:]) < 0:
        raise _WrongRecordError(
            "wrong box", f"bbox {reprlib.repr(box)} has a negative width or height"
        )
    score = as_number(record["score"])
    if score is None:
        raise _WrongRecordError(
            "wrong score",
            f"score is {reprlib.repr(record['score'])}, not a finite number",
        )
    return {**ids, "bbox": numbers, "score": score}
