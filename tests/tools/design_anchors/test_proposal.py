"""Proposed anchors: the smallest candidate that covers the wanted share."""

import itertools
import math

import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.ops import anchors as anchor_ops
from borrow_det.tools.design_anchors import __main__ as design_anchors
from borrow_det.tools.design_anchors import proposal
from borrow_det.tools.design_anchors.size_ranges import WEIGHTS, weighted


def objects_of(sizes, ratios, size):
    """Returns objects of all sizes and aspect ratios, uniform over the image."""
    generator = np.random.default_rng(0)
    side, ratio = (a.ravel() for a in np.meshgrid(sizes, ratios))
    half = np.stack([side / ratio**0.5, side * ratio**0.5], axis=1) / 2 / size
    centers = half + generator.uniform(0, 1, half.shape) * (1 - 2 * half)
    boxes = np.concatenate([centers - half, centers + half], axis=1)
    return proposal.measure(boxes.astype(np.float32), (size, size))


def goal_of(share, allow_worse=False):
    return proposal.Goal(0.5, share, WEIGHTS, allow_worse)


def test_the_wanted_region_contains_the_share_and_little_more():
    generator = np.random.default_rng(0)
    sides = np.exp(generator.normal(0, 0.4, (4000, 2))) * 0.1
    boxes = np.concatenate([np.zeros_like(sides), sides], axis=1)
    objects = proposal.measure(boxes, (512, 512))
    spans = []
    for share in (0.5, 0.9, 0.99, 1.0):
        region = proposal.wanted_region(objects, share)
        inside = np.ones(4000, bool)
        for values, (low, high) in zip(objects[1:], region, strict=True):
            inside &= (values >= low * (1 - 1e-9)) & (values <= high * (1 + 1e-9))
        assert share <= inside.mean() <= share + 0.01
        spans.append(math.log(region.ratios[1] / region.ratios[0]))
    assert spans == sorted(spans)
    assert spans[-1] == pytest.approx(np.ptp(np.log(objects.ratios)))


def test_objects_of_one_aspect_ratio_need_one():
    objects = objects_of(np.geomspace(40, 250, 40), [0.5] * 20, 512)
    region = proposal.wanted_region(objects, 0.99)
    own = base.get_config().anchors
    proposed, step = proposal.propose(objects, own, (512, 512), goal_of(0.99))
    assert proposed.aspect_ratios == ((0.5,),) * 4
    # Boxes of one aspect ratio need one anchor per position.
    assert anchor_ops.anchors_per_position(proposed) == (1, 1, 1, 1)
    assert step <= 2
    _, worst = proposal.closed_form(proposed, region, (512, 512))
    assert worst.min() >= 0.5 - 1e-3
    assert own.sizes == (32.0, 64.0, 128.0, 256.0)


def shares_of(anchors, objects, size):
    return proposal.covered_shares(objects, anchors, (size, size), 0.5)


def share_of(anchors, objects, size):
    return weighted(shares_of(anchors, objects, size), WEIGHTS)


def test_a_larger_share_needs_at_least_as_many_anchors():
    """With equal counts, the proposals for both shares are the same."""
    objects = objects_of(np.geomspace(18, 100, 12), np.geomspace(1 / 4, 4, 13), 128)
    own = base.get_config().anchors
    found = []
    for share in (0.3, 0.5, 0.7, 0.8, 0.88, 0.92, 0.96, 1.0):
        proposed, _ = proposal.propose(
            objects, own, (128, 128), goal_of(share, allow_worse=True)
        )
        count = sum(anchor_ops.anchors_per_position(proposed))
        found.append((share, count, share_of(proposed, objects, 128)))
    best = max(covered for _, _, covered in found)
    reached = [f for f in found if f[0] <= best]
    assert 4 <= len(reached) < len(found)
    assert all(covered >= share for share, _, covered in reached)
    for (_, count, covered), (_, more, better) in itertools.pairwise(reached):
        assert (covered, count) <= (better, more)
        assert count < more or covered == better
    assert len({count for _, count, _ in reached}) >= 4
    for _, count, covered in found[len(reached) :]:
        assert covered >= best - proposal.WORTHLESS
        assert not any(c < count and better >= covered for _, c, better in found)


def candidate_of(size):
    return proposal._Candidate((size,) * 4, ((1.0,),) * 4, (), 2.0)


def test_if_the_share_is_out_of_reach_small_gains_add_no_anchors(monkeypatch):
    objects = objects_of([40.0], [1.0], 128)
    own = base.get_config().anchors
    own.sizes = (500.0,) * 4
    shares = {4: 0.7, 8: 0.794, 12: 0.7951, 16: 0.798, 20: 0.8}
    best = {count: [(share, candidate_of(count))] for count, share in shares.items()}
    monkeypatch.setattr(proposal, "_best_by_count", lambda *_: best)
    proposed, _ = proposal.propose(objects, own, (128, 128), goal_of(0.9))
    assert proposed.sizes == (12,) * 4


def test_the_share_is_measured_on_all_objects_not_on_the_sample():
    objects = objects_of(np.geomspace(18, 100, 20), np.geomspace(1 / 4, 4, 17), 128)
    own = base.get_config().anchors
    arguments = own, (128, 128), goal_of(0.9, allow_worse=True)
    sample = proposal.MeasuredObjects(*(values[::17] for values in objects))
    found, _ = proposal.propose(sample, *arguments)
    # The premise: anchors that cover enough of the sample cover too few of all objects.
    assert share_of(found, sample, 128) >= 0.9 > share_of(found, objects, 128)
    proposed, _ = proposal.propose(objects, *arguments, sample=20)
    assert share_of(proposed, objects, 128) >= 0.9


# Only large objects matter.
FOR_LARGE = proposal.Goal(0.5, 0.98, (1e-3, 1e-3, 1.0), allow_worse=False)


def small_and_large():
    """Returns 40 small objects, anywhere, and 1000 large ones of another shape."""
    small = objects_of([17.0] * 5, [1.0] * 8, 256)
    large = objects_of([120.0] * 25, [0.5] * 40, 256)
    boxes = np.concatenate([small.boxes, large.boxes])
    return proposal.measure(boxes, (256, 256))


def test_small_objects_weigh_however_few_they_are():
    """One size per level: either all sizes are for large objects, or some for small."""
    objects = small_and_large()
    own = base.get_config().anchors
    own.sizes = (200.0,) * 4
    own.aspect_ratios, own.second_aspect_ratios = ((8.0,),) * 4, ()
    assert shares_of(own, objects, 256)[[0, 2]].tolist() == [0, 0]
    proposed, _ = proposal.propose(objects, own, (256, 256), goal_of(0.99))
    small, _, large = shares_of(proposed, objects, 256)
    assert small > 0.9
    assert large > 0.9
    proposed, _ = proposal.propose(objects, own, (256, 256), FOR_LARGE)
    # Small objects without a weight are not worth an anchor.
    assert shares_of(proposed, objects, 256)[0] < 0.5
    assert shares_of(proposed, objects, 256)[2] >= 0.98


def test_no_size_range_gets_worse_unless_that_is_allowed():
    objects = small_and_large()
    own = base.get_config().anchors
    own.sizes, own.clip = (16.0, 20.0, 120.0, 240.0), "none"
    before = shares_of(own, objects, 256)
    for allow_worse in (False, True):
        goal = FOR_LARGE._replace(allow_worse=allow_worse)
        proposed, _ = proposal.propose(objects, own, (256, 256), goal)
        after = shares_of(proposed, objects, 256)
        assert after[2] >= 0.98
        assert (after[0] < before[0]) == allow_worse
        assert np.isnan(after[1])


# The second share is within WORTHLESS of the best, and far from it.
@pytest.mark.parametrize("share_of_both", [1.0, 0.9])
def test_candidates_that_are_worse_on_all_objects_are_left_out(
    monkeypatch, share_of_both
):
    """The first candidate covers the large objects only, which a search may not see."""
    objects = small_and_large()
    own = base.get_config().anchors
    own.sizes, own.second_aspect_ratios = (16.0, 400.0, 400.0, 400.0), ()
    own.aspect_ratios = ((1.0,),) * 4
    large = proposal._Candidate((120.0,) * 4, ((0.5,),) * 4, (), 2.0)
    both = proposal._Candidate((16.0, 120.0, 120.0, 120.0), ((0.5, 1.0),) * 4, (), 2.0)
    best = {4: [(1.0, large)], 8: [(share_of_both, both)]}
    monkeypatch.setattr(proposal, "_best_by_count", lambda *_: best)
    proposed, _ = proposal.propose(objects, own, (256, 256), FOR_LARGE)
    assert proposed.sizes == both.sizes


def test_the_configs_own_anchors_are_proposed_if_nothing_is_better(monkeypatch):
    objects = objects_of([30.0] * 4, [1.0] * 10, 128)
    own = base.get_config().anchors
    own.sizes, own.second_aspect_ratios = (30.0, 60.0, 120.0, 240.0), ()
    own.aspect_ratios = ((1.0,),) * 4
    assert share_of(own, objects, 128) == 1
    # As good with as many anchors, better in the sample only, and worse with fewer.
    best = {4: [(1.0, candidate_of(30.0))], 3: [(1.0, candidate_of(90.0))]}
    monkeypatch.setattr(proposal, "_best_by_count", lambda *_: best)
    proposed, step = proposal.propose(objects, own, (128, 128), goal_of(0.99))
    assert proposed == own
    assert proposed is not own
    assert step == 2


def test_the_search_clips_anchors_as_the_config_does():
    """Clipped anchors cover more of these objects, which are at the border."""
    boxes = np.float32(
        [
            (y, x, y + side, x + side)
            for side in np.geomspace(0.15, 0.5, 8)
            for y in (0, 1 - side)
            for x in (0, 0.3, 1 - side)
        ]
    )
    objects = proposal.measure(boxes, (128, 128))
    own = base.get_config().anchors
    own.strides = (64, 64, 64, 64)
    shares = {}
    for own.clip in ("none", "boxes"):
        best = proposal._best_by_count(
            objects, own, (128, 128), goal_of(1.0), np.zeros(3)
        )
        shares[own.clip] = max(share for found in best.values() for share, _ in found)
        proposed, _ = proposal.propose(
            objects, own, (128, 128), goal_of(1.0, allow_worse=True)
        )
        assert share_of(proposed, objects, 128) == pytest.approx(shares[own.clip])
    assert shares["boxes"] > shares["none"]


def test_the_search_leaves_out_candidates_below_the_floor():
    objects = small_and_large()
    own = base.get_config().anchors
    smallest = []
    for floor in (0, 0.5):
        best = proposal._best_by_count(
            objects, own, (256, 256), FOR_LARGE, np.array([floor, 0, 0])
        )
        tried = [candidate for found in best.values() for _, candidate in found]
        shares = [shares_of(proposal._with(own, t), objects, 256)[0] for t in tried]
        smallest.append(min(shares))
    assert smallest[0] < 0.5 <= smallest[1]


def test_deep_levels_have_no_anchors_larger_than_the_image():
    objects = objects_of(np.geomspace(16, 120, 40), np.geomspace(0.7, 1.4, 9), 128)
    own = base.get_config().anchors
    own.strides, own.sizes = (8, 16, 32, 64, 128, 128), (1.0,) * 6
    own.aspect_ratios = ((1.0,),) * 6
    proposed, _ = proposal.propose(objects, own, (128, 128), goal_of(0.99))
    assert max(proposed.sizes) <= 128
    assert len(proposed.sizes) == len(proposed.aspect_ratios) == 6
    assert np.allclose(np.diff(np.log(proposed.sizes[:3]), 2), 0, atol=1e-3)


@pytest.mark.parametrize("size", [(128, 128), (128, 256)])
def test_no_first_anchor_is_larger_than_the_image(size):
    objects = objects_of(np.geomspace(18, 60, 8), np.geomspace(1 / 4, 4, 7), 128)
    trimmed = 0
    for tried in proposal._candidates(objects, 4, size, 0.5):
        largest = max(map(len, tried.ratios))
        for side, ratios in zip(tried.sizes, tried.ratios, strict=True):
            sides = [(side / ratio**0.5, side * ratio**0.5) for ratio in ratios]
            # A level has at least one anchor.
            fits = [y <= size[0] and x <= size[1] for y, x in sides]
            assert all(fits) or len(fits) == 1
            trimmed += len(ratios) < largest
    assert trimmed > 100


def test_objects_of_the_papers_aspect_ratios_need_three_anchors():
    objects = objects_of(np.geomspace(60, 200, 30), np.geomspace(1 / 6, 6, 31), 1024)
    own = base.get_config().anchors
    proposed, step = proposal.propose(objects, own, (1024, 1024), goal_of(0.97))
    ratios = proposed.aspect_ratios[0]
    assert len(ratios) == 3
    assert ratios[1] == pytest.approx(1, rel=0.1)
    # At most the aspect ratio of Eq. (1).
    equation = design_anchors.from_ratio(6, 0.5, step)["max_aspect_ratio"]
    assert max(ratios) <= equation * (1 + 1e-3)
