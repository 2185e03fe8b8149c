"""COCO-format records for tests of metrics."""

A, B, FAR = [10, 10, 20, 20], [60, 60, 20, 20], [200, 200, 20, 20]


def truth(*annotations, names=("cat", "dog"), images=2):
    """Makes ground truth of annotations (image, category, bbox, extra fields)."""
    return {
        "images": [{"id": i} for i in range(1, images + 1)],
        "categories": [{"id": i, "name": n} for i, n in enumerate(names, start=1)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": box, **extra}
            for i, (image, category, box, extra) in enumerate(annotations)
        ],
    }


def detection(image, category, box, score):
    """Makes a detection."""
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}
