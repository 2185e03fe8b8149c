"""Random COCO records with crowds, difficult objects and ties, for tests of metrics."""

import numpy as np

CLASSES = ("cat", "dog", "owl")


def random_records(seed, images=6):
    """Returns (truth, detections): coarse boxes and scores, so that many are equal."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    for image in rng.permutation(images) + 1:
        for _ in range(rng.integers(0, 12)):
            annotation = {
                "image_id": int(image),
                "category_id": int(rng.integers(1, len(CLASSES))),  # No owls.
                "bbox": _box(rng),
                "iscrowd": int(rng.random() < 0.15),
                "difficult": int(rng.random() < 0.15),
            }
            annotations.append({"id": len(annotations), **annotation})
        near = [a for a in annotations if a["image_id"] == image]
        for _ in range(rng.integers(0, 25)):
            box = _box(rng)
            if near and rng.random() < 0.7:
                box = list(near[rng.integers(len(near))]["bbox"])
                box[rng.integers(4)] += int(rng.integers(0, 3)) * 10
            detection = {
                "image_id": int(image),
                "category_id": int(rng.integers(1, len(CLASSES) + 1)),
                "bbox": box,
                "score": int(rng.integers(1, 10)) / 10,
            }
            detections.append(detection)
    truth = {
        "images": [
            {"id": i, "width": 400, "height": 400} for i in range(1, 1 + images)
        ],
        "categories": [{"id": i, "name": n} for i, n in enumerate(CLASSES, start=1)],
        "annotations": annotations,
    }
    return truth, detections


def _box(rng):
    x, y = rng.integers(0, 6, 2) * 20
    width, height = rng.integers(1, 4, 2) * 20
    return [int(v) for v in (x, y, width, height)]
