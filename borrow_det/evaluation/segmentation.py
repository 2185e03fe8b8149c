"""Boxes around the outlines of COCO's annotations: polygons and run-length masks."""

from collections.abc import Iterator, Sequence
from typing import Any

from borrow_det.evaluation.coco_values import as_number, as_size

# Characters of one count of a compressed mask: 13 times 5 bits hold any size.
_MAX_CHARACTERS = 13


def box_around(segmentation: Any) -> tuple[float, float, float, float] | None:
    """Returns the box around an outline in COCO's format.

    Args:
      segmentation: a list of polygons [x1, y1, x2, y2, ...], one such polygon, or a
        run-length mask {"size": [height, width], "counts": list or compressed text}.

    Returns:
      (x, y, width, height) in pixels; None if the outline is empty or invalid.

    Source: pycocotools' `toBbox` for masks.
    """
    if isinstance(segmentation, dict):
        return _mask_box(segmentation.get("size"), segmentation.get("counts"))
    if isinstance(segmentation, list) and segmentation:
        nested = isinstance(segmentation[0], list)
        return _polygons_box(segmentation if nested else [segmentation])
    return None


def _polygons_box(
    polygons: Sequence[Any],
) -> tuple[float, float, float, float] | None:
    xs: list[float] = []
    ys: list[float] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) % 2:
            return None
        numbers = [as_number(value) for value in polygon]
        finite = [value for value in numbers if value is not None]
        if len(finite) < len(numbers):
            return None
        xs += finite[::2]
        ys += finite[1::2]
    if not xs:
        return None
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _mask_box(size: Any, counts: Any) -> tuple[float, float, float, float] | None:
    """Returns the box around a mask; runs of 0 and 1 alternate, column by column."""
    if not isinstance(size, list) or len(size) != 2:
        return None
    height, width = as_size(size[0]), as_size(size[1])
    runs = _runs(counts)
    if height is None or width is None or runs is None:
        return None
    start, columns, rows = 0, [], []
    for index, length in enumerate(runs):
        end = start + length
        if length < 0 or end > height * width:
            return None
        if index % 2 and length:
            columns += [start // height, (end - 1) // height]
            # A run over several columns has pixels of the first and the last row.
            one_column = columns[-1] == columns[-2]
            rows += (
                [start % height, (end - 1) % height] if one_column else [0, height - 1]
            )
        start = end
    if not columns:
        return None
    x, y = min(columns), min(rows)
    return float(x), float(y), float(max(columns) - x + 1), float(max(rows) - y + 1)


def _runs(counts: Any) -> list[int] | None:
    """Returns the lengths of the runs; None if they are invalid."""
    if isinstance(counts, str):
        try:
            return list(_decompressed(counts))
        except ValueError:
            return None
    if not isinstance(counts, list):
        return None
    numbers = [as_number(count) for count in counts]
    whole = [int(n) for n in numbers if n is not None and n.is_integer()]
    return whole if len(whole) == len(counts) else None


def _decompressed(text: str) -> Iterator[int]:
    """Yields the counts of COCO's compressed text.

    Each character holds 5 bits of a signed count, the lowest bits first; from the
    fourth count on, it is the difference to the last but one.

    Raises:
      ValueError: the text is invalid.
    """
    last, last_but_one = 0, 0
    value = shift = index = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift >= 5 * _MAX_CHARACTERS:
            raise ValueError(f"{character!r} is not part of a compressed mask")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        if index > 2:
            value += last_but_one
        yield value
        last_but_one, last = last, value
        value, shift, index = 0, 0, index + 1
    if shift:
        raise ValueError("the last count of a compressed mask is incomplete")
