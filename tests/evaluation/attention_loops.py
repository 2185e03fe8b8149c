"""Positions of objects, found in loops."""

import numpy as np


def inside(point, box):
    return bool(np.all(box[:2] <= point) and np.all(point <= box[2:]))


def descriptors(box, centers):
    """Returns the positions whose centers are in a box, or else the nearest one."""
    rows = [r for r, point in enumerate(centers) if inside(point, box)]
    if rows:
        return rows
    middle = (box[:2] + box[2:]) / 2
    return [int(np.argmin(np.linalg.norm(centers - middle, axis=1)))]
