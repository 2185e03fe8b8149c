"""Plain computations of precision, recall and confusion, one threshold at a time.

Independent of borrow_det: loops over records, and no shared code.
"""


def iou(a, b, crowd=False):
    """IoU of [x, y, width, height]; of a crowd, the share of `a` inside."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - shared
    return shared / union


def area(record):
    return record.get("area") or record["bbox"][2] * record["bbox"][3]


def ignores(annotation, limits):
    special = annotation.get("iscrowd") or annotation.get("difficult")
    return bool(special) or not limits[0] <= area(annotation) <= limits[1]


def by_score(truth, detections):
    """Detections by falling score; ties by the image and then by the record."""
    return sorted(detections, key=lambda d: (-d["score"], d["image_id"]))


def outcomes(truth, detections, category, limits=(0, 1e10)):
    """Pairs one class; returns (hits, false positives, objects, ignored detections)."""
    annotations = [a for a in truth["annotations"] if a["category_id"] == category]
    ordinary = [a for a in annotations if not ignores(a, limits)]
    special = [a for a in annotations if ignores(a, limits)]
    used = set()
    hits, false, ignored = [], [], []
    for detection in by_score(truth, detections):
        if detection["category_id"] != category:
            continue
        for group, result in ((ordinary, hits), (special, ignored)):
            best = None
            for annotation in group:
                crowd = annotation.get("iscrowd")
                if annotation["image_id"] != detection["image_id"] or (
                    id(annotation) in used and not crowd
                ):
                    continue
                value = iou(detection["bbox"], annotation["bbox"], crowd)
                if value >= 0.5 and (best is None or value >= best[0]):
                    best = value, annotation
            if best:
                used.add(id(best[1]))
                result.append(detection)
                break
        else:
            size = detection["bbox"][2] * detection["bbox"][3]
            outside = not limits[0] <= detection.get("box_area", size) <= limits[1]
            (ignored if outside else false).append(detection)
    return hits, false, ordinary, ignored


def at_score(truth, detections, score, categories, limits=(0, 1e10)):
    """Returns (precision, recall, F1) of the detections of at least a score."""
    kept = [d for d in detections if d["score"] >= score]
    hits = false = objects = 0
    for category in categories:
        found = outcomes(truth, kept, category, limits)
        hits, false, objects = (
            total + len(part)
            for total, part in zip((hits, false, objects), found[:3], strict=True)
        )
    precision, recall = hits / (hits + false), hits / objects
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return precision, recall, f1


def confusion(truth, detections, score):
    """Returns the counts of annotated (rows) and detected (columns) classes."""
    categories = [c["id"] for c in truth["categories"]]
    size = len(categories) + 1
    counts = [[0] * size for _ in range(size)]
    kept = [d for d in detections if d["score"] >= score]
    ignored = [d for category in categories for d in outcomes(truth, kept, category)[3]]
    objects = [a for a in truth["annotations"] if not ignores(a, (0, 1e10))]
    free = list(objects)
    for detection in by_score(truth, kept):
        if any(detection is other for other in ignored):
            continue
        row = size - 1
        near = [
            (iou(detection["bbox"], a["bbox"]), same, -i)
            for i, a in enumerate(free)
            for same in [a["category_id"] == detection["category_id"]]
            if a["image_id"] == detection["image_id"]
            and iou(detection["bbox"], a["bbox"]) >= 0.5
        ]
        if near:
            row = categories.index(free.pop(-max(near)[2])["category_id"])
        counts[row][categories.index(detection["category_id"])] += 1
    for annotation in free:
        counts[categories.index(annotation["category_id"])][size - 1] += 1
    return counts
