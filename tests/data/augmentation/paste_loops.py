"""Pasted copies by loops in float64."""

import numpy as np


def meets(a, b):
    """Returns whether two boxes have a common area."""
    return min(a[2], b[2]) > max(a[0], b[0]) and min(a[3], b[3]) > max(a[1], b[1])


def planned(draws, example, unmoved, window, options):
    """Returns [(original, flip, box in pixels)] of the copies of an example."""
    size = example["image"].shape[:2]
    low, high = np.minimum(window[:2], window[2:]), np.maximum(window[:2], window[2:])
    area = np.clip(np.array([-low, 1 - low]) / (high - low), 0, 1) * size
    if window[1] > window[3]:
        area[:, 1] = size[1] - area[::-1, 1]
    boxes = example["boxes"].astype(np.float64) * [*size, *size]
    whole = (unmoved["boxes"] >= np.tile(low, 2) - 1e-5).all(axis=1)
    whole &= (unmoved["boxes"] <= np.tile(high, 2) + 1e-5).all(axis=1)
    objects = np.flatnonzero(example["box_mask"] & ~example["ignore"] & whole)
    taken = list(boxes[unmoved["box_mask"]])
    copies = []
    for i in range(1 + int(draws.number * options.paste_count)):
        smallest, largest = np.log(options.paste_sides)
        side = round(np.exp(smallest + draws.side[i] * (largest - smallest)))
        fits = [(g, shrunk(boxes[g], side)) for g in objects]
        fits = [(g, s) for g, s in fits if lends(boxes[g], s, options.paste_scale)]
        if not fits:
            continue
        g, shape = fits[int(draws.original[i] * len(fits))]
        first = np.ceil(area[0])
        room = np.floor(area[1]) - first - shape
        for place in draws.places[i]:
            corner = first + np.floor(place * (room + 1))
            box = np.array([*corner, *(corner + shape)])
            if room.min() >= 0 and not any(meets(box, other) for other in taken):
                taken.append(box)
                copies.append((g, draws.flip[i] < options.paste_flip, box))
                break
    return copies


def shrunk(box, side):
    """Returns the shape of a copy of a box with this longer side, in whole pixels."""
    extent = box[2:] - box[:2]
    return np.maximum(np.round(side * extent / extent.max()), 1)


def lends(box, shape, scale):
    """Returns whether a box is a lender of an object of a shape."""
    return np.sqrt(np.prod(box[2:] - box[:2]) / np.prod(shape)) >= scale - 1e-4


def triangle(position, step, length):
    """Returns the weights of pixels around a position, for pixels of a size."""
    distance = np.abs(position - (np.arange(length) + 0.5)) / max(step, 1)
    weights = np.maximum(1 - distance, 0)
    return weights / weights.sum()


def blended(image, original, box, flip, options):
    """Returns an image with a copy of a box, by loops over the copy's pixels."""
    result = image.astype(np.float64)
    y0, x0, y1, x1 = original
    top, left, bottom, right = box.astype(int)
    steps = (y1 - y0) / (bottom - top), (x1 - x0) / (right - left)
    for y in range(top, bottom):
        for x in range(left, right):
            t, u = (y + 0.5 - top) / (bottom - top), (x + 0.5 - left) / (right - left)
            column = x1 - u * (x1 - x0) if flip else x0 + u * (x1 - x0)
            rows = triangle(y0 + t * (y1 - y0), steps[0], image.shape[0])
            columns = triangle(column, steps[1], image.shape[1])
            color = np.einsum("y,yxc,x->c", rows, image.astype(np.float64), columns)
            weight = 1.0
            for place in (t, u):
                inner = min(place, 1 - place)
                weight *= min(1, inner / options.paste_edge)
            result[y, x] = (1 - weight) * image[y, x] + weight * color
    return result
