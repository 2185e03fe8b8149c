"""Counts at one threshold from a new pairing of the detections that reach it."""

import collections

from borrow_det.evaluation import average_precision, errors, pairing


def size_name(area):
    return "small" if area <= 1024 else "medium" if area <= 9216 else "large"


def counts_of_the_better_detections(truth, detections, threshold):
    """Pairs the detections of a threshold anew: {(class, size, kind): count}."""
    kept = [d for d in detections if d["score"] >= threshold]
    pairs = pairing.pair(truth, kept)
    kinds = errors.kinds(truth, kept, pairs)
    counts = collections.Counter()
    for i, detection in enumerate(kept):
        if not pairs.counted[i] or pairs.ignored[i]:
            continue
        taken, kind = pairs.object[i], kinds.detection[i]
        area = detection["bbox"][2] * detection["bbox"][3]
        if taken >= 0:
            kind = "hit"
            area = average_precision.object_area(truth["annotations"][taken])
        counts[detection["category_id"] - 1, size_name(area), kind] += 1
    for i, annotation in enumerate(truth["annotations"]):
        if pairs.detection[i] < 0 and not average_precision.is_ignored(annotation):
            size = size_name(average_precision.object_area(annotation))
            label = annotation["category_id"] - 1
            counts[label, size, "not found"] += 1
            counts[label, size, "missed"] += kinds.object[i] == "missed"
    return counts
