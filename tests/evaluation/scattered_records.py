"""Random COCO records without ties, for comparisons with other software."""

import random


def scattered_records(seed, images=12, classes=4):
    """Returns (truth, detections): all kinds of errors, distinct scores, no crowds.

    `random.Random(seed).random()` gives the same numbers in every version of Python.
    """
    uniform = random.Random(seed).random
    annotations, detections = [], []
    for image in range(1, images + 1):
        objects = [_box(uniform) for _ in range(3 + int(6 * uniform()))]
        for box in objects:
            category = 1 + int(classes * uniform())
            record = {"image_id": image, "category_id": category, "bbox": box}
            annotations.append({"id": len(annotations), **record})
        own = annotations[-len(objects) :]
        for _ in range(25):
            # On an object, shifted by up to its side, or anywhere.
            other = own[int(len(own) * uniform())]
            shift = uniform() ** 2
            box = [
                v + shift * side * (uniform() - 0.5)
                for v, side in zip(other["bbox"], 2 * other["bbox"][2:], strict=True)
            ]
            category = other["category_id"]
            if uniform() < 0.3:
                category = 1 + int(classes * uniform())
            if uniform() < 0.2:
                box = _box(uniform)
            detection = {"image_id": image, "category_id": category, "bbox": box}
            detections.append({**detection, "score": uniform()})
    truth = {
        "images": [
            {"id": i, "width": 640, "height": 480} for i in range(1, images + 1)
        ],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, classes + 1)],
        "annotations": annotations,
    }
    return truth, detections


def _box(uniform):
    width, height = (10 * 20 ** uniform() for _ in range(2))
    return [uniform() * (640 - width), uniform() * (480 - height), width, height]
