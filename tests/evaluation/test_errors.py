"""Kinds of errors and their costs: tidecv's figures, COCO's metrics, and by hand."""

import json

import numpy as np
import pytest

from borrow_det.evaluation import average_precision, errors, pairing
from tests.evaluation.coco_records import FAR, A, B, detection, truth
from tests.evaluation.random_records import random_records
from tests.evaluation.scattered_records import scattered_records


def analyze(ground_truth, detections, scale=2.0, limit=100, score=None):
    pairs = {
        size: pairing.pair(ground_truth, detections, 0.5, limit, area_range)
        for size, area_range in pairing.SIZES.items()
    }
    return errors.analyze(ground_truth, detections, pairs, scale, score)


def find(ground_truth, detections, limit=100):
    pairs = pairing.pair(ground_truth, detections, max_detections=limit)
    return errors.kinds(ground_truth, detections, pairs)


def column(by_kind, size="all"):
    return [by_kind[kind][size] for kind in errors.KINDS]


# --- tidecv's figures
#
# tidecv 1.0.1 with pycocotools 2.0.11: the records were added to its `Data` by
# `add_ground_truth`, `add_detection` and, for crowds, `add_ignore_region`; the figures
# are `count_errors()` and `fix_main_errors()` of `TIDE().evaluate(truth, detections)`.
# Its order is Cls, Loc, Both, Dupe, Bkg, Miss, and its AP is in percent.

TIDECV = {
    # seed of `scattered_records`: (counts, AP50, costs)
    0: (
        [45, 40, 13, 87, 57, 4],
        36.3122442450173,
        [
            8.878552093921797,
            6.738663178488196,
            0.6230257040951415,
            5.016677883625746,
            7.10586560792234,
            2.175381835842451,
        ],
    ),
    1: (
        [58, 55, 12, 80, 42, 1],
        37.21135043265497,
        [
            10.814669560093087,
            9.629673575732589,
            2.398687459971484,
            3.334199059715921,
            3.172255431050715,
            0.7372701555869909,
        ],
    ),
    2: (
        [30, 31, 8, 118, 50, 4],
        48.78712857695713,
        [
            2.1274019515216835,
            3.059048064661127,
            0.20268032216044674,
            11.18365694829582,
            9.639016726752857,
            3.2367632713612693,
        ],
    ),
}


@pytest.mark.parametrize("seed", TIDECV)
def test_counts_and_costs_equal_those_of_tidecv(seed):
    ground_truth, detections = scattered_records(seed)
    counts, ap50, costs = TIDECV[seed]
    metrics = average_precision.coco_metrics(ground_truth, detections)
    assert 100 * metrics["AP50"] == pytest.approx(ap50, abs=1e-9)
    found = analyze(ground_truth, detections)
    assert column(found["counts"]) == counts
    assert 100 * np.array(column(found["AP50_cost"])) == pytest.approx(costs, abs=1e-9)


@pytest.fixture(scope="module")
def coco_vector(metric_vectors):
    folder = metric_vectors / "coco_val2014_fake100"
    names = ("instances_val2014_100", "instances_val2014_fakebbox100_results")
    return [json.loads((folder / f"{name}.json").read_text()) for name in names]


def test_counts_of_the_published_vector_equal_those_of_tidecv(coco_vector):
    assert column(analyze(*coco_vector)["counts"]) == [83, 1, 0, 1, 0, 97]


def test_costs_of_the_published_vector_equal_those_of_tidecv(coco_vector, monkeypatch):
    # Equal scores and classes without objects are treated differently on purpose: both
    # programs were given distinct scores in the same order, without the 9 detections of
    # such classes.
    ground_truth, detections = coco_vector
    order = pairing.pair(ground_truth, detections).order.tolist()
    rank = {d: n for n, d in enumerate(order)}
    classes = {
        annotation["category_id"]
        for annotation in ground_truth["annotations"]
        if not annotation["iscrowd"]
    }
    detections = [
        {**found, "score": 1 - rank[d] / 1000}
        for d, found in enumerate(detections)
        if found["category_id"] in classes
    ]
    # k / 100 and COCO's linspace differ by rounding at ten of the 101 recalls.
    monkeypatch.setattr(pairing, "RECALLS", np.arange(101) / 100)
    found = analyze(ground_truth, detections)
    assert column(found["counts"]) == [74, 1, 0, 1, 0, 106]
    *costs, missed = 100 * np.array(column(found["AP50_cost"]))
    assert costs == pytest.approx(
        [15.572502624814788, 0.24988213107025103, 0, 0.020599225914494923, 0], abs=1e-9
    )
    # All pizzas and umbrellas are missed. tidecv leaves out pizzas, and counts an AP of
    # 0 for umbrellas, since there are false positives.
    ap50, cost = 69.70827357310577, 10.561357418251859
    assert (ap50 + missed) * 68 == pytest.approx((ap50 + cost) * 69, abs=1e-7)


# --- costs are those of corrected records


def corrected(ground_truth, detections, found, kind):
    """Returns records in which the errors of a kind are corrected."""
    annotations = ground_truth["annotations"]
    if kind == "missed":
        kept = [
            annotation
            for annotation, error in zip(annotations, found.object, strict=True)
            if not error
        ]
        return {**ground_truth, "annotations": kept}, detections
    target = {d: annotations[g] for g, d in enumerate(found.correction) if d >= 0}
    result = []
    for d, record in enumerate(detections):
        if found.detection[d] != kind:
            result.append(record)
        elif d in target:
            copied = ("bbox", "category_id")
            result.append({**record, **{name: target[d][name] for name in copied}})
    return ground_truth, result


@pytest.mark.parametrize("seed", range(8))
def test_costs_are_the_ap50_of_corrected_records_with_ties_and_crowds(seed):
    records = random_records(seed)
    found, costs = find(*records), analyze(*records)["AP50_cost"]
    before = average_precision.coco_metrics(*records)["AP50"]
    for kind in errors.KINDS:
        after = average_precision.coco_metrics(*corrected(*records, found, kind))
        cost = after["AP50"] - before
        assert costs[kind]["all"] == pytest.approx(cost, abs=1e-12), kind
        assert cost >= 0


def test_costs_of_sizes_are_those_of_corrected_records():
    records = scattered_records(3)
    found, costs = find(*records), analyze(*records)["AP50_cost"]
    before = average_precision.coco_metrics(*records)
    different = set()
    for kind in errors.KINDS:
        after = average_precision.coco_metrics(*corrected(*records, found, kind))
        for size in average_precision.AREA_RANGES:
            cost = after[f"AP50_{size}"] - before[f"AP50_{size}"]
            assert costs[kind][size] == pytest.approx(cost, abs=1e-12), (kind, size)
            different.add(cost)
    assert len(different) > 12


# --- kinds


def brute_force_kind(ground_truth, record, pair_object, ignored):
    if pair_object >= 0 or ignored:
        return ""
    overlaps = [
        (
            a["category_id"] == record["category_id"],
            pairing.overlaps([record], [a])[0, 0],
        )
        for a in ground_truth["annotations"]
        if a["image_id"] == record["image_id"] and not average_precision.is_ignored(a)
    ]
    same = max((iou for own, iou in overlaps if own), default=0)
    other = max((iou for own, iou in overlaps if not own), default=0)
    if 0.1 <= same < 0.5:
        return "localization"
    if other >= 0.5:
        return "classification"
    if same >= 0.5:
        return "duplicate"
    return "both" if other > 0.1 else "background"


@pytest.mark.parametrize("seed", range(4))
def test_each_false_positive_has_one_kind(seed):
    ground_truth, detections = random_records(seed)
    pairs = pairing.pair(ground_truth, detections)
    found = errors.kinds(ground_truth, detections, pairs)
    assert found.detection == [
        brute_force_kind(ground_truth, record, pairs.object[d], pairs.ignored[d])
        for d, record in enumerate(detections)
    ]
    counts = analyze(ground_truth, detections)["counts"]
    false_positives = (pairs.object < 0).sum()
    assert sum(column(counts)[:-1]) == false_positives


@pytest.mark.parametrize("seed", range(4))
def test_counts_at_a_score_are_those_of_the_detections_that_reach_it(seed):
    ground_truth, detections = random_records(seed)
    for score in (0.1, 0.4, 0.9, 1.0):
        found = analyze(ground_truth, detections, score=score)["at_score"]
        kept = [record for record in detections if record["score"] >= score]
        expected = analyze(ground_truth, kept)
        assert found["score"] == score
        assert found["counts"] == expected["counts"]
        assert found["small_objects"] == expected["small_objects"]
    all_scores = analyze(ground_truth, detections)
    assert all_scores["at_score"] == {
        "score": None,
        "counts": all_scores["counts"],
        "small_objects": all_scores["small_objects"],
    }


def test_kinds_by_hand():
    # A found cat, a dog and a third object that nothing overlaps.
    ground_truth = truth((1, 1, A, {}), (1, 2, B, {}), (2, 2, A, {}))
    cases = [
        (detection(1, 1, A, 0.95), ""),
        (detection(1, 1, A, 0.9), "duplicate"),
        (detection(1, 1, [10, 10, 20, 10], 0.8), "duplicate"),  # IoU 1/2
        (detection(1, 1, [10, 10, 20, 9.9], 0.7), "localization"),
        (detection(1, 1, [10, 10, 20, 2], 0.7), "localization"),  # IoU 1/10
        (detection(1, 1, [10, 10, 20, 1.9], 0.7), "background"),
        (detection(1, 1, B, 0.6), "classification"),
        (detection(1, 1, [60, 60, 20, 10], 0.5), "classification"),  # IoU 1/2
        (detection(1, 1, [60, 60, 20, 9.9], 0.5), "both"),
        (detection(1, 1, [60, 60, 20, 2], 0.5), "background"),  # IoU 1/10
        (detection(1, 2, FAR, 0.4), "background"),
        (detection(2, 1, B, 0.3), "background"),  # The dog is in the other image.
    ]
    found = find(ground_truth, [case for case, _ in cases])
    assert found.detection == [kind for _, kind in cases]
    assert found.object == ["", "", "missed"]
    assert found.correction.tolist() == [-1, 6, -1]


def test_an_object_of_another_class_comes_before_a_duplicate():
    ground_truth = truth((1, 1, A, {}), (1, 2, A, {}))
    detections = [detection(1, 1, A, 0.9), detection(1, 1, A, 0.8)]
    found = find(ground_truth, detections)
    assert found.detection == ["", "classification"]
    assert found.correction.tolist() == [-1, 1]


def test_crowds_and_difficult_objects_are_neither_missed_nor_confused():
    for field in ("iscrowd", "difficult"):
        ground_truth = truth((1, 1, A, {field: 1}), (1, 2, B, {field: 1}))
        detections = [
            detection(1, 1, A, 0.9),
            detection(1, 1, A, 0.8),
            detection(1, 1, B, 0.7),
            detection(1, 1, [10, 10, 20, 5], 0.6),
        ]
        found = find(ground_truth, detections)
        # Many detections may take a crowd, and all of them do that are inside it. A
        # difficult object is taken once.
        twice, inside = ("", "") if field == "iscrowd" else ["background"] * 2
        assert found.detection == ["", twice, "background", inside]
        assert found.object == ["", ""]
        counts = analyze(ground_truth, detections)["counts"]
        assert counts["missed"]["all"] == 0


def test_detections_beyond_the_limit_are_not_errors():
    ground_truth = truth((1, 1, A, {}))
    detections = [detection(1, 1, FAR, 0.9), detection(1, 1, [10, 10, 20, 5], 0.8)]
    assert find(ground_truth, detections).detection == ["background", "localization"]
    limited = find(ground_truth, detections, limit=1)
    assert limited.detection == ["background", ""]
    assert limited.object == ["missed"]


# --- costs by hand


def test_costs_of_background_and_missed_by_hand():
    # One of two cats is found after a false positive: precision 1/2 up to recall 1/2,
    # which 51 of the 101 recalls do not exceed. 20 x 20 is small.
    ground_truth = truth((1, 1, A, {}), (1, 1, B, {}), names=("cat",))
    detections = [detection(1, 1, FAR, 0.9), detection(1, 1, A, 0.8)]
    found = analyze(ground_truth, detections)
    before = 51 / 101 / 2
    # Without the false positive, precision is 1; without the missed cat, recall is.
    background, missed = 51 / 101 - before, 1 / 2 - before
    for size in ("all", "small"):
        costs = column(found["AP50_cost"], size)
        assert costs == pytest.approx([0, 0, 0, 0, background, missed])
        assert column(found["counts"], size) == [0, 0, 0, 0, 1, 1]
    for size in ("medium", "large"):
        assert column(found["AP50_cost"], size) == [None] * 6
        assert column(found["counts"], size) == [0] * 6


def test_an_object_is_corrected_by_its_best_detection_alone():
    # Both false positives are on the dog: a dog at IoU 1/4 and then a cat on its place.
    ground_truth = truth((1, 1, A, {}), (1, 2, B, {}))
    detections = [
        detection(1, 2, [60, 60, 20, 5], 0.9),
        detection(1, 1, B, 0.8),
        detection(1, 1, A, 0.7),
    ]
    found = analyze(ground_truth, detections)
    # AP50: cat 1/2, dog 0. A corrected localization finds the dog. A corrected
    # classification leaves the cat alone, and the dog to the other.
    assert column(found["AP50_cost"]) == pytest.approx([1 / 4, 1 / 2, 0, 0, 0, 0])
    assert column(found["counts"]) == [1, 1, 0, 0, 0, 0]
    # The other way round, the correction of the class finds the dog as well.
    detections[0]["score"] = 0.6
    found = analyze(ground_truth, detections)
    assert column(found["AP50_cost"]) == pytest.approx([3 / 4, 0, 0, 0, 0, 0])


def test_a_false_positive_counts_in_the_size_of_its_box_and_a_miss_in_its_own():
    # A part of a large cat: localization of a small box, which costs AP50_large the
    # cat, and AP50_small the precision.
    ground_truth = truth(
        (1, 1, [100, 100, 100, 100], {}), (2, 1, A, {}), (2, 1, B, {"area": 2000.0})
    )
    detections = [detection(1, 1, [100, 100, 40, 25], 0.9), detection(2, 1, A, 0.8)]
    found = analyze(ground_truth, detections)
    assert found["counts"]["localization"] == {
        "all": 1,
        "small": 1,
        "medium": 0,
        "large": 0,
    }
    assert found["counts"]["missed"] == {"all": 1, "small": 0, "medium": 1, "large": 0}
    costs = found["AP50_cost"]["localization"]
    assert costs["large"] == pytest.approx(1)
    assert costs["small"] == pytest.approx(1 / 2)
    assert costs["medium"] == pytest.approx(0)


def test_costs_are_undefined_without_an_object():
    found = analyze(truth((1, 1, A, {})), [])
    assert column(found["counts"]) == [0, 0, 0, 0, 0, 1]
    # After the correction nothing is left to find.
    assert column(found["AP50_cost"]) == [0, 0, 0, 0, 0, None]
    for detections in ([], [detection(1, 1, A, 0.5)]):
        found = analyze(truth(), detections)
        assert column(found["AP50_cost"]) == [None] * 6
        assert column(found["counts"]) == [0, 0, 0, 0, len(detections), 0]
        assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_small_objects_are_counted_by_whether_they_have_a_lender():
    ground_truth = truth(
        (1, 1, [100, 100, 60, 60], {}),  # Lends to the cats of image 1.
        (1, 1, A, {}),
        (1, 1, B, {}),
        (1, 2, [10, 60, 20, 20], {}),
        (2, 1, A, {}),
        (2, 1, B, {}),
        (2, 2, [10, 60, 20, 20], {"difficult": 1}),
    )
    detections = [
        detection(1, 1, A, 0.9),
        detection(1, 2, B, 0.8),  # Of the other class.
        detection(2, 1, [10, 10, 20, 5], 0.7),
    ]
    found = analyze(ground_truth, detections)
    names = ("objects", "found", "classification", "localization", "missed")
    assert found["small_objects"] == {
        "with_lender": dict(zip(names, (2, 1, 1, 0, 0), strict=True)),
        "without_lender": dict(zip(names, (3, 0, 0, 1, 2), strict=True)),
    }
    assert found["missed_small"] == {"with_lender": 0, "without_lender": 2}
    # At three and a half times the side, nothing lends.
    found = analyze(ground_truth, detections, scale=3.5)
    assert found["small_objects"]["with_lender"]["objects"] == 0
    assert found["missed_small"] == {"with_lender": 0, "without_lender": 2}


@pytest.mark.parametrize("seed", range(3))
def test_targets_give_the_missed_objects_at_any_minimum_score(seed):
    ground_truth, detections = random_records(seed, images=20)
    pairs = pairing.pair(ground_truth, detections)
    found = errors.kinds(ground_truth, detections, pairs)
    assert np.all(
        (found.target >= 0)
        == [kind in ("classification", "localization") for kind in found.detection]
    )
    scores = np.array([d["score"] for d in detections])
    counts = pairing.counted_objects(ground_truth["annotations"])
    for least in (0.0, 0.3, 0.5, 0.8):
        above = np.flatnonzero(scores >= least)
        reached = {*pairs.object[above].tolist(), *found.target[above].tolist()}
        missed = [counts[g] and g not in reached for g in range(len(counts))]
        kept = [detections[d] for d in above]
        anew = errors.kinds(ground_truth, kept, pairing.pair(ground_truth, kept))
        assert [kind == "missed" for kind in anew.object] == missed
