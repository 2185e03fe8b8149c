"""Handling of invalid boxes: dataset.bad_boxes."""

from collections.abc import Callable

import numpy as np

from borrow_det.errors import InputError, check_choice

POLICIES = ("error", "clip", "drop")
# Annotation tools round coordinates. Boxes that exceed the image by at most this many
# pixels are clipped under every policy, and are not counted.
TOLERANCE = 1.0
# Faults of boxes; BESIDE is completely outside the image, OUTSIDE partly.
GOOD, OUTSIDE, BESIDE, EMPTY, NOT_FINITE = range(5)


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
    clipped, faults = judge(boxes, np.array([height, width]))
    bad = faults != GOOD
    if policy == "error" and bad.any():
        i = int(np.argmax(bad))
        raise InputError(
            f"{describe(i)} {reason(faults[i], height, width)}: correct it, or set "
            "dataset.bad_boxes to clip or drop"
        )
    keep = kept(faults, policy)
    return clipped, keep, counts(faults, policy)


def judge(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the boxes that are not finite, empty or outside their image.

    Args:
      boxes: [n, 4], [y_min, x_min, y_max, x_max] in pixels.
      sizes: [n, 2] or [2], (height, width) of each box's image in pixels.

    Returns:
      Boxes float64 [n, 4], clipped to their images, zeros if not finite; and the fault
      of each box, uint8 [n]: GOOD, OUTSIDE, EMPTY or NOT_FINITE.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    borders = np.tile(np.asarray(sizes, np.float64), 2)
    finite = np.all(np.isfinite(boxes), axis=1)
    boxes = np.where(finite[:, None], boxes, 0.0)
    clipped = np.clip(boxes, 0.0, borders)
    outside = np.abs(clipped - boxes).max(axis=1, initial=0.0) > TOLERANCE
    # A box that lies beside its image has no area in it, under every policy.
    empty = ~_has_area(boxes)
    beside = ~empty & ~_has_area(clipped)
    faults = np.full(len(boxes), GOOD, np.uint8)
    faults[outside] = OUTSIDE
    faults[beside] = BESIDE
    faults[empty] = EMPTY
    faults[~finite] = NOT_FINITE
    return clipped, faults


def kept(faults: np.ndarray, policy: str) -> np.ndarray:
    """Returns the boxes that a policy keeps, bool [n].

    Args:
      faults: of `judge`.
      policy: dataset.bad_boxes; "error" keeps good boxes.
    """
    good = faults == GOOD
    return good | (faults == OUTSIDE) if policy == "clip" else good


def counts(faults: np.ndarray, policy: str) -> dict[str, int]:
    """Returns the numbers of boxes {"clipped": ., "dropped": .} under a policy."""
    keep = kept(faults, policy)
    return {
        "clipped": int((keep & (faults != GOOD)).sum()),
        "dropped": int((~keep).sum()),
    }


def reason(fault: int, height: float, width: float) -> str:
    """Returns a clause that describes the fault of a box.

    Args:
      fault: of `judge`, not GOOD.
      height: height of the image, in pixels.
      width: width of the image, in pixels.
    """
    if fault == NOT_FINITE:
        return "is not finite"
    if fault == EMPTY:
        return "has no area"
    return f"is outside the image of {width} x {height} pixels"


def _has_area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
