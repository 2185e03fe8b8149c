"""What happens to boxes that cannot be right: dataset.bad_boxes."""

from collections.abc import Callable

import numpy as np

from borrow_det.errors import InputError, check_choice

POLICIES = ("error", "clip", "drop")
# Annotation tools round: a box that sticks out of the image by no more than this is
# clipped under every policy, and not counted.
TOLERANCE = 1.0


def check_policy(policy: str) -> None:
    """Raises InputError when dataset.bad_boxes is none of POLICIES."""
    check_choice("dataset.bad_boxes", policy, POLICIES)


def clean(
    boxes: np.ndarray,
    height: int,
    width: int,
    policy: str,
    describe: Callable[[int], str],
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Clips, drops or refuses boxes that are not finite, empty or outside the image.

    Args:
      boxes: [n, 4], [y_min, x_min, y_max, x_max] in pixels.
      height: of the image, in pixels.
      width: of the image, in pixels.
      policy: error; clip (a box that sticks out is cut at the border; what is not
        finite, or empty then, is dropped); drop.
      describe: names box i in an error.

    Returns:
      The boxes, float64 [n, 4] and within the image wherever they are kept; which
      are kept, bool [n]; and the counts {"clipped": ., "dropped": .}.

    Raises:
      InputError: under the policy error, for the first bad box.
    """
    check_policy(policy)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    borders = np.array([height, width, height, width], np.float64)
    finite = np.isfinite(boxes).all(axis=1)
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
            else f"lies outside the image of {width} x {height} pixels"
        )
        raise InputError(
            f"{describe(i)} {reason}: correct it, or set dataset.bad_boxes to "
            "clip or drop"
        )
    keep = ~bad if policy == "drop" else finite & ~empty
    counts = {
        "clipped": int((keep & outside).sum()),
        "dropped": int((~keep).sum()),
    }
    return clipped, keep, counts


def _has_area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
