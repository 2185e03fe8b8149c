"""Resampled metrics against metrics of duplicated images, and known distributions."""

import math

import numpy as np
import pytest

from borrow_det.evaluation import average_precision, bootstrap, lenders
from tests.evaluation.random_records import random_records
from tests.evaluation.scattered_records import scattered_records

SMALL = average_precision.AREA_RANGES["small"]


def distinct_scores(detections):
    """Copies of one image would take turns if two of its scores were equal."""
    return [{**d, "score": d["score"] + 1e-6 * i} for i, d in enumerate(detections)]


def duplicated(truth, detections, counts):
    """The records with each image as often as it was drawn, copies as other images."""
    images, annotations, found = [], [], []
    for image in truth["images"]:
        for copy in range(int(counts[image["id"]])):
            number = {"id": 1000 * image["id"] + copy}
            images.append({**image, **number})
            for records, into in (
                (truth["annotations"], annotations),
                (detections, found),
            ):
                into += [
                    {**r, "image_id": number["id"]}
                    for r in records
                    if r["image_id"] == image["id"]
                ]
    return {**truth, "images": images, "annotations": annotations}, found


def records(seed):
    """Records of 12 images: scattered ones, or coarse ones with crowds."""
    if seed % 2:
        truth, detections = scattered_records(seed)
        for image in truth["images"]:  # A lender for some small objects.
            image["width"], image["height"] = 640, 480
        return truth, detections
    truth, detections = random_records(seed, images=12)
    return truth, distinct_scores(detections)


def of_every_image(truth, keys=None):
    ids = [image["id"] for image in truth["images"]]
    return bootstrap.make_units(ids, ids if keys is None else keys)


def agree(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("seed", range(4))
def test_resampled_metrics_equal_those_of_duplicated_images(seed):
    truth, detections = records(seed)
    units = of_every_image(truth)
    weights = bootstrap.draw(len(units.keys), 5)
    limit = (100, 3)[seed % 3 == 0]
    matcher = bootstrap.Matcher(truth, detections, units, limit)
    every, small = matcher.match(), matcher.match(SMALL)
    lent = {
        name: matcher.match(SMALL, members)
        for name, members in lenders.with_and_without(truth, 1.5).items()
    }
    for b in range(weights.shape[1]):
        one = weights[:, b : b + 1]
        counts = {key: one[i, 0] for i, key in enumerate(units.keys)}
        copies = duplicated(truth, detections, counts)
        expected = average_precision.coco_metrics(*copies, limit)
        expected |= lenders.lender_metrics(*copies, expected, 1.5, limit)
        found = bootstrap.resampled(every, one)
        agree(found["AR"], expected[f"AR_{limit}"])
        for name in ("AP", "AP50", "AP75"):
            agree(found[name], expected[name])
        for suffix, matches in {"": small, **lent}.items():
            found = bootstrap.resampled(matches, one)
            for name in ("AP", "AP50", "AR"):
                full = f"{name}_small_{suffix}" if suffix else f"{name}_small"
                agree(found[name], expected[full])


def test_resamples_are_computed_in_blocks_as_at_once(monkeypatch):
    truth, detections = records(1)
    units = of_every_image(truth)
    matches = bootstrap.Matcher(truth, detections, units).match()
    weights = bootstrap.draw(len(units.keys), 20)
    at_once = bootstrap.resampled(matches, weights)
    monkeypatch.setattr(bootstrap, "_BLOCK", 100)
    for name, values in bootstrap.resampled(matches, weights).items():
        np.testing.assert_array_equal(values, at_once[name])


def test_without_resampling_the_metrics_are_those_of_the_evaluation():
    truth, detections = records(3)
    units = of_every_image(truth)
    found = bootstrap.resampled(
        bootstrap.Matcher(truth, detections, units).match(), np.ones((12, 1))
    )
    expected = average_precision.coco_metrics(truth, detections)
    assert found["AP"] == pytest.approx([expected["AP"]], abs=1e-12)


def test_a_class_without_a_drawn_object_is_left_out_of_the_mean():
    truth, detections = records(1)
    truth["annotations"] = [
        {**a, "category_id": 1 if a["image_id"] == 1 else 2}
        for a in truth["annotations"]
    ]
    units = of_every_image(truth)
    matches = bootstrap.Matcher(truth, detections, units).match()
    weights = np.ones((12, 2))
    weights[0, 1] = 0
    weights[1:, 0] = 0
    both = bootstrap.resampled(matches, np.ones((12, 1)))["AP"]
    alone = bootstrap.resampled(matches, weights)["AP"]
    assert not np.isnan(alone).any()
    assert alone[0] != pytest.approx(both[0] / 2)
    nothing = bootstrap.resampled(matches, np.zeros((12, 1)))
    assert all(np.isnan(values).all() for values in nothing.values())


def test_groups_are_drawn_as_a_whole():
    truth, detections = records(5)
    keys = [f"video {i // 3}" for i in range(12)]
    units = of_every_image(truth, keys)
    assert (units.kind, len(units.keys)) == ("group", 4)
    assert of_every_image(truth).kind == "image"
    weights = bootstrap.draw(4, 5)
    found = bootstrap.resampled(
        bootstrap.Matcher(truth, detections, units).match(), weights
    )
    for b in range(5):
        counts = {
            image["id"]: weights[units.of_image[image["id"]], b]
            for image in truth["images"]
        }
        expected = average_precision.coco_metrics(
            *duplicated(truth, detections, counts)
        )
        agree(found["AP"][b], expected["AP"])


def test_a_resample_draws_as_many_units_as_there_are():
    weights = bootstrap.draw(40, 300)
    assert weights.shape == (40, 300)
    np.testing.assert_array_equal(weights.sum(axis=0), 40)
    np.testing.assert_array_equal(weights, bootstrap.draw(40, 300))
    # The number of times that a unit is drawn has the variance 1 - 1/40.
    assert weights.var() == pytest.approx(1 - 1 / 40, rel=0.03)


def test_the_interval_of_identical_detectors_is_exactly_zero():
    truth, detections = records(1)
    units = of_every_image(truth)
    weights = bootstrap.draw(12, 50)
    a, b = (
        bootstrap.resampled(
            bootstrap.Matcher(truth, list(detections), units).match(), weights
        )
        for _ in range(2)
    )
    found = bootstrap.interval(a["AP"] - b["AP"])
    assert found == {"low": 0.0, "high": 0.0, "std": 0.0, "samples": 50}


def test_an_interval_is_that_of_the_percentiles_and_needs_two_resamples():
    values = np.random.default_rng(0).permutation(np.arange(1001.0))
    found = bootstrap.interval(np.append(values, np.nan))
    assert (found["low"], found["high"]) == pytest.approx((25, 975))
    assert found["samples"] == 1001
    assert found["std"] == pytest.approx(1001 / math.sqrt(12), rel=1e-3)
    undefined = {"low": None, "high": None, "std": None}
    assert bootstrap.interval(np.array([1.0, np.nan])) == {**undefined, "samples": 1}


def test_intervals_of_a_share_cover_it_as_often_as_they_say():
    """The share of a binomial sample has a known value and standard error."""
    rng = np.random.default_rng(7)
    images, share, trials = 150, 0.4, 400
    units = bootstrap.make_units(range(images), range(images))
    weights = bootstrap.draw(images, 400)
    covered, errors = 0, []
    for _ in range(trials):
        flags = list(enumerate(rng.random(images) < share))
        found = bootstrap.interval(bootstrap.resampled_share(flags, units, weights))
        covered += found["low"] <= share <= found["high"]
        errors.append(found["std"])
    # 400 trials at 0.95 have a standard deviation of 0.011.
    assert 0.92 <= covered / trials <= 0.975
    known = math.sqrt(share * (1 - share) / images)
    assert np.mean(errors) == pytest.approx(known, rel=0.02)


def test_intervals_over_groups_cover_where_those_over_images_do_not():
    """The images of a group are equal: there are as many observations as groups."""
    rng = np.random.default_rng(8)
    groups, size, share, trials = 60, 10, 0.5, 200
    keys = np.repeat(np.arange(groups), size)
    covered = {}
    for kind, of in (("group", keys), ("image", np.arange(groups * size))):
        units = bootstrap.make_units(range(groups * size), of.tolist())
        weights = bootstrap.draw(len(units.keys), 300)
        covered[kind] = 0
        for _ in range(trials):
            flags = list(enumerate((rng.random(groups) < share)[keys]))
            found = bootstrap.interval(bootstrap.resampled_share(flags, units, weights))
            covered[kind] += found["low"] <= share <= found["high"]
    assert 0.9 <= covered["group"] / trials <= 0.98
    assert covered["image"] / trials < 0.6


def test_a_share_of_resamples_equals_that_of_copies():
    flags = [("a", True), ("a", False), ("b", True), ("c", False)]
    units = bootstrap.make_units(["a", "b", "c", "d"], ["a", "b", "c", "d"])
    weights = np.array([[1, 2, 0, 0], [1, 1, 0, 1], [1, 0, 1, 0], [1, 1, 3, 3]], float)
    found = bootstrap.resampled_share(flags, units, weights)
    np.testing.assert_allclose(found, [2 / 4, 3 / 5, 0, 1])
    nothing = bootstrap.resampled_share(flags, units, np.array([[0.0, 0, 0, 1]]).T)
    assert np.isnan(nothing).all()


def test_the_detectable_effect_is_that_of_the_formula():
    # z: 1.959964 + 0.841621; t with 4 degrees of freedom: 2.776445 + 0.940965.
    assert bootstrap.detectable_effect(0.01) == pytest.approx(0.02801585, abs=1e-8)
    assert bootstrap.detectable_effect(0.01, 4) == pytest.approx(0.0371741, abs=1e-7)


def test_the_detectable_effect_is_found_in_four_of_five_tests():
    effect = bootstrap.detectable_effect(1.0)
    rng = np.random.default_rng(3)
    found = np.abs(effect + rng.standard_normal(100_000)) > 1.959964
    assert found.mean() == pytest.approx(0.8, abs=0.005)


def test_the_spread_of_a_ratio_needs_values_above_zero_in_all_resamples():
    units = bootstrap.Units({1: 0, 2: 1}, (1, 2), "image")

    def evaluations(*values):
        return [bootstrap.Samples(units, {"AP": np.array(v)}) for v in values]

    own = evaluations([0.2, 0.4, 0.3], [0.4, 0.4, 0.9])
    other = evaluations([0.1, 0.1, 0.2], [0.2, 0.3, 0.2])
    found = bootstrap.difference(own, other, "AP")
    ratios = np.log([0.6 / 0.3, 0.8 / 0.4, 1.2 / 0.4])
    assert found["log_ratio_std"] == pytest.approx(np.std(ratios, ddof=1), abs=1e-12)
    assert found["samples"] == 3
    other = evaluations([0.0, 0.1, 0.2], [0.0, 0.3, 0.2])
    found = bootstrap.difference(own, other, "AP")
    assert found["log_ratio_std"] is None
    assert found["samples"] == 3
