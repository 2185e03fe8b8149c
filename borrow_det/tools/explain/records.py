"""Entries of explanations.json."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from borrow_det.tools.explain.explanation import (
    Borrowed,
    BorrowedReference,
    LevelDetections,
    SourcePosition,
)
from borrow_det.tools.explain.references import Reference

# `[y_min, x_min, y_max, x_max]` of a view in pixels of its image.
Window: TypeAlias = tuple[int, int, int, int]


class Explained(NamedTuple):
    """A detection that is explained, or the reason why it cannot be."""

    detection: int  # Index among the image's detections.
    borrowed: Borrowed | None
    note: str  # The reason if `borrowed` is None.


def image_record(
    name: str,
    size: tuple[int, int],
    found: LevelDetections,
    explained: Sequence[Explained],
    class_names: Sequence[str],
    category_ids: Sequence[int | str],
    drawn: Mapping[int, str],
    references: Sequence[Reference] = (),
    window: Window | None = None,
) -> dict[str, Any]:
    """Returns an image's entry in explanations.json.

    Boxes are COCO's [x, y, width, height] and centers [x, y], in pixels of the upright
    image, the view, or the reference. Levels and references count from 1, detections
    from 0. Fields of views and of references are absent without them.
    """
    sizes = [size, *((r.image.shape[0], r.image.shape[1]) for r in references)]
    of_index = {one.detection: one for one in explained}
    detections = _detections(found, size, class_names, category_ids)
    for k, detection in enumerate(detections):
        if k in of_index:
            one = of_index[k]
            detection["picture"] = drawn.get(k)
            detection["note"] = one.note
            detection["borrowed"] = (
                _borrowed_record(one.borrowed, sizes) if one.borrowed else None
            )
    record: dict[str, Any] = {"file_name": name, "height": size[0], "width": size[1]}
    if window is not None:
        top, left, bottom, right = window
        record["window"] = [left, top, right - left, bottom - top]
    if references:
        record["references"] = [
            {
                "file_name": reference.name,
                "height": height,
                "width": width,
                "detections": _detections(
                    reference.found, (height, width), class_names, category_ids
                ),
            }
            for reference, (height, width) in zip(references, sizes[1:], strict=True)
        ]
    return {**record, "detections": detections}


def _detections(
    found: LevelDetections,
    size: tuple[int, int],
    class_names: Sequence[str],
    category_ids: Sequence[int | str],
) -> list[dict[str, Any]]:
    return [
        {
            "index": k,
            "class": class_names[label],
            "category_id": category_ids[label],
            "score": float(found.scores[k]),
            "bbox": [round(v, 3) for v in found.pixels(k, size)],
            "level": int(found.levels[k]) + 1,
        }
        for k, label in enumerate(found.labels.tolist())
    ]


def _borrowed_record(
    borrowed: Borrowed, sizes: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """Returns the numbers of a detection.

    Args:
      borrowed: attention of the detection.
      sizes: (height, width) in pixels of the image and of each reference.
    """
    record = {
        "level": borrowed.level + 1,
        "descriptors": len(borrowed.descriptors),
        "shares": _by_level(borrowed.shares),
        "attention_precision": borrowed.attention_precision,
        "positions": borrowed.positions,
        "larger": list(borrowed.lenders),
        "sources": [_source(source, sizes) for source in borrowed.sources],
    }
    if borrowed.references:
        record["share_references"] = borrowed.share_references
        record["references"] = [_reference(one) for one in borrowed.references]
    return record


def _source(source: SourcePosition, sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    place = 0 if source.reference is None else source.reference + 1
    height, width = sizes[place]
    record = {
        "level": source.level + 1,
        "center": [
            round(source.center[1] * width, 3),
            round(source.center[0] * height, 3),
        ],
        "weight": source.weight,
        "detections": list(source.detections),
    }
    return {**record, "reference": place or None} if len(sizes) > 1 else record


def _reference(borrowed: BorrowedReference) -> dict[str, Any]:
    return {
        "share": borrowed.share,
        "shares": _by_level(borrowed.shares),
        "larger": list(borrowed.lenders),
    }


def _by_level(shares: Mapping[int, float]) -> dict[str, float]:
    return {str(m + 1): share for m, share in shares.items()}
