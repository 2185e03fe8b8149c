"""What is proposed for objects, and that it is the smallest that is tried."""

import itertools
import math

import numpy as np
import pytest

from borrow_det.configs import base
from borrow_det.ops import anchor_design
from borrow_det.ops import anchors as anchor_ops
from borrow_det.tools.design_anchors import __main__ as design_anchors
from borrow_det.tools.design_anchors import proposal as proposal_lib


def objects_of(sizes, ratios, size):
    """Objects of all sizes and aspect ratios, evenly over the image."""
    generator = np.random.default_rng(0)
    side, ratio = (a.ravel() for a in np.meshgrid(sizes, ratios))
    half = np.stack([side / ratio**0.5, side * ratio**0.5], axis=1) / 2 / size
    centers = half + generator.uniform(0, 1, half.shape) * (1 - 2 * half)
    boxes = np.concatenate([centers - half, centers + half], axis=1)
    return proposal_lib.measure(boxes.astype(np.float32), (size, size))


def test_the_wanted_region_holds_the_share_and_no_more_than_it_must():
    generator = np.random.default_rng(0)
    sides = np.exp(generator.normal(0, 0.4, (4000, 2))) * 0.1
    boxes = np.concatenate([np.zeros_like(sides), sides], axis=1)
    objects = proposal_lib.measure(boxes, (512, 512))
    spans = []
    for share in (0.5, 0.9, 0.99, 1.0):
        region = proposal_lib.wanted_region(objects, share)
        inside = np.ones(4000, bool)
        for values, (low, high) in zip(objects[1:], region, strict=True):
            inside &= (values >= low * (1 - 1e-9)) & (values <= high * (1 + 1e-9))
        assert share <= inside.mean() <= share + 0.01
        spans.append(math.log(region.ratios[1] / region.ratios[0]))
    assert spans == sorted(spans)
    assert spans[-1] == pytest.approx(np.ptp(np.log(objects.ratios)))


def test_one_aspect_ratio_where_objects_have_one():
    objects = objects_of(np.geomspace(40, 250, 40), [0.5] * 20, 512)
    region = proposal_lib.wanted_region(objects, 0.99)
    own = base.get_config().anchors
    proposal, step = proposal_lib.propose(objects, own, (512, 512), 0.5, 0.99)
    assert proposal.aspect_ratios == ((0.5,),) * 4
    # Boxes of one aspect ratio need no second set: one anchor a position.
    assert anchor_ops.anchors_per_position(proposal) == (1, 1, 1, 1)
    assert step <= 2
    _, worst = proposal_lib.closed_form(proposal, region, (512, 512))
    assert worst.min() >= 0.5 - 1e-3
    assert own.sizes == (32.0, 64.0, 128.0, 256.0)


def share_of(proposal, objects, size, theta=0.5):
    placed = anchor_ops.make_anchors(proposal, (size, size))
    return (anchor_design.best_iou(objects.boxes, placed) >= theta).mean()


def test_a_larger_share_is_never_covered_worse():
    """And what a larger share finds, a smaller one that it reaches finds, too."""
    objects = objects_of(np.geomspace(18, 100, 12), np.geomspace(1 / 4, 4, 13), 128)
    own = base.get_config().anchors
    found = []
    for share in (0.3, 0.5, 0.7, 0.8, 0.88, 0.92, 0.96, 1.0):
        proposal, _ = proposal_lib.propose(objects, own, (128, 128), 0.5, share)
        count = sum(anchor_ops.anchors_per_position(proposal))
        found.append((share, count, share_of(proposal, objects, 128)))
    best = max(covered for _, _, covered in found)
    reached = [f for f in found if f[0] <= best]
    assert 4 <= len(reached) < len(found)
    assert all(covered >= share for share, _, covered in reached)
    for (_, count, covered), (_, more, better) in itertools.pairwise(reached):
        assert (covered, count) <= (better, more)
        assert count < more or covered == better
    assert len({count for _, count, _ in reached}) >= 4
    for _, count, covered in found[len(reached) :]:
        assert covered >= best - proposal_lib.WORTHLESS
        assert not any(c < count and better >= covered for _, c, better in found)


def test_out_of_reach_a_little_more_is_not_worth_more_anchors(monkeypatch):
    objects = objects_of([40.0], [1.0], 128)
    own = base.get_config().anchors
    shares = {4: 0.7, 8: 0.794, 12: 0.7951, 16: 0.798, 20: 0.8}
    best = {
        count: (share, proposal_lib._Set((count,) * 4, ((1.0,),) * 4, (), 2.0))
        for count, share in shares.items()
    }
    monkeypatch.setattr(proposal_lib, "_best_by_count", lambda *_: best)
    proposal, _ = proposal_lib.propose(objects, own, (128, 128), 0.5, 0.9)
    assert proposal.sizes == (12,) * 4


def test_what_a_sample_covers_is_judged_on_all_objects(monkeypatch):
    objects = objects_of(np.geomspace(18, 100, 20), np.geomspace(1 / 4, 4, 17), 128)
    own = base.get_config().anchors
    arguments = own, (128, 128), 0.5
    monkeypatch.setattr(proposal_lib, "_SAMPLE", 20)
    sample = proposal_lib.Objects(*(values[::17] for values in objects))
    found, _ = proposal_lib.propose(sample, *arguments, 0.9)
    # The premise: what covers enough of the sample covers too few of all.
    assert share_of(found, sample, 128) >= 0.9 > share_of(found, objects, 128)
    proposal, _ = proposal_lib.propose(objects, *arguments, 0.9)
    assert share_of(proposal, objects, 128) >= 0.9


def test_the_search_clips_as_the_anchors_are_clipped():
    """Objects at the border of which clipped anchors cover more."""
    boxes = np.float32(
        [
            (y, x, y + side, x + side)
            for side in np.geomspace(0.15, 0.5, 8)
            for y in (0, 1 - side)
            for x in (0, 0.3, 1 - side)
        ]
    )
    objects = proposal_lib.measure(boxes, (128, 128))
    own = base.get_config().anchors
    own.strides = (64, 64, 64, 64)
    shares = {}
    for own.clip in ("none", "boxes"):
        best = proposal_lib._best_by_count(objects, own, (128, 128), 0.5)
        shares[own.clip] = max(share for share, _ in best.values())
        proposal, _ = proposal_lib.propose(objects, own, (128, 128), 0.5, 1)
        assert share_of(proposal, objects, 128) == pytest.approx(shares[own.clip])
    assert shares["boxes"] > shares["none"]


def test_deep_levels_have_no_anchors_larger_than_the_image():
    objects = objects_of(np.geomspace(16, 120, 40), np.geomspace(0.7, 1.4, 9), 128)
    own = base.get_config().anchors
    own.strides, own.sizes = (8, 16, 32, 64, 128, 128), (1.0,) * 6
    proposal, _ = proposal_lib.propose(objects, own, (128, 128), 0.5, 0.99)
    assert max(proposal.sizes) <= 128
    assert len(proposal.sizes) == len(proposal.aspect_ratios) == 6
    assert np.allclose(np.diff(np.log(proposal.sizes[:3]), 2), 0, atol=1e-3)


@pytest.mark.parametrize("size", [(128, 128), (128, 256)])
def test_no_first_anchor_is_longer_than_the_image(size):
    objects = objects_of(np.geomspace(18, 60, 8), np.geomspace(1 / 4, 4, 7), 128)
    trimmed = 0
    for tried in proposal_lib._sets(objects, 4, size, 0.5):
        most = max(map(len, tried.ratios))
        for side, ratios in zip(tried.sizes, tried.ratios, strict=True):
            sides = [(side / ratio**0.5, side * ratio**0.5) for ratio in ratios]
            # A level has one at least.
            fits = [y <= size[0] and x <= size[1] for y, x in sides]
            assert all(fits) or len(fits) == 1
            trimmed += len(ratios) < most
    assert trimmed > 100


def test_objects_as_wide_as_the_papers_need_three_aspect_ratios():
    objects = objects_of(np.geomspace(60, 200, 30), np.geomspace(1 / 6, 6, 31), 1024)
    own = base.get_config().anchors
    proposal, step = proposal_lib.propose(objects, own, (1024, 1024), 0.5, 0.97)
    ratios = proposal.aspect_ratios[0]
    assert len(ratios) == 3
    assert ratios[1] == pytest.approx(1, rel=0.1)
    # No longer than Eq. (1) says.
    equation = design_anchors.from_ratio(6, 0.5, step)["max_aspect_ratio"]
    assert max(ratios) <= equation * (1 + 1e-3)
