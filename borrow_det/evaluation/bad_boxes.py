"""Handling of invalid boxes: dataset.bad_boxes."""

from collections.abc import Callable

import numpy as np

from borrow_det.errors import InputError, check_choice

POLICIES = ("error", "clip", "drop")
# Annotation tools round coordinates. Boxes that exceed the image by at most this many
# pixels are clipped under every policy, and are not counted.
TOLERANCE = 1.0


def check_policy(policy: str) -> None:
    """Checks dataset.bad_boxes.

    Raises:
      InputError: it is not one of POLICIES.
    """
    check_choice("dataset.bad_boxes", policy, POLICIES)


def clean(
    boxes: np.ndarray,
    height: int,
    width: int,
    policy: str,
    describe: Callable[[int], str],
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Clips, drops or rejects boxes that are not finite, empty or outside the image.

    Args:
      boxes: [n, 4], [y_min, x_min, y_max, x_max] in pixels.
      height: height of the image, in pixels.
      width: width of the image, in pixels.
      policy: "error"; "clip" (clip boxes to the image, and drop boxes that are not
        finite or then empty); or "drop".
      describe: returns a description of box i for a message.

    Returns:
      Boxes float64 [n, 4], inside the image if they are kept; a mask bool [n] of the
      boxes to keep; and the numbers of boxes {"clipped": ., "dropped": .}.

    Raises:
      InputError: the policy is "error" and a box is invalid.
    """
    check_policy(policy)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    borders = np.array([height, width, height, width], np.float64)
    finite = np.all(np.isfinite(boxes), axis=1)
    boxes = np.where(finite[:, None], boxes, 0.0)
    clipped = np.clip(boxes, 0.0, borders)
    empty = ~_has_area(boxes) | ~_has_area(clipped)
    outside = np.abs(clipped - boxes).max(axis=1, initial=0.0) > TOLERANCE
    bad = ~finite | empty | outside
    if policy == "error" and bad.any():
        i = int(np.argmax(bad))
        reason = (
            "is not finite"
            if not finite[i]
            else "has no area"
            if not _has_area(boxes)[i]
            else f"is outside the image of {width} x {height} pixels"
        )
        raise InputError(
            f"{describe(i)} {reason}: correct it, or set dataset.bad_boxes to clip or "
            "drop"
        )
    keep = ~bad if policy == "drop" else finite & ~empty
    counts = {
        "clipped": int((keep & outside).sum()),
        "dropped": int((~keep).sum()),
    }
    return clipped, keep, counts


def _has_area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
