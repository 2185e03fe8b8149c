import numpy as np
import pytest

from borrow_det.errors import InputError
from borrow_det.evaluation import bad_boxes

NAN, INF = float("nan"), float("inf")

# Boxes in an image 20 high and 30 wide: (box, what is wrong, the box when clipped).
CASES = [
    ((0, 0, 20, 30), None, (0, 0, 20, 30)),
    ((5, 5, 5.01, 5.01), None, (5, 5, 5.01, 5.01)),
    ((-1, 3, 10, 31), None, (0, 3, 10, 30)),  # One pixel: rounding.
    ((-1.5, 3, 10, 12), "outside", (0, 3, 10, 12)),
    ((3, 4, 10, 45), "outside", (3, 4, 10, 30)),
    ((3, 31, 10, 35), "outside", None),
    ((25, 3, 28, 9), "outside", None),
    ((-0.5, 3, 0, 9), "outside", None),  # Within the tolerance, and nothing is left.
    ((4, 4, 4, 9), "no area", None),
    ((9, 4, 5, 8), "no area", None),
    ((4, 9, 8, 4), "no area", None),
    ((NAN, 4, 8, 9), "not finite", None),
    ((4, 4, INF, 9), "not finite", None),
]


@pytest.mark.parametrize(("box", "wrong", "clipped"), CASES)
def test_each_policy_on_an_invalid_box(box, wrong, clipped):
    def clean(policy):
        boxes, keep, counts = bad_boxes.clean(
            np.array([box, (1, 2, 3, 4)]), 20, 30, policy, lambda i: f"box {i}"
        )
        assert keep[1]
        np.testing.assert_array_equal(boxes[1], (1, 2, 3, 4))
        return (tuple(boxes[0]) if keep[0] else None), counts

    if wrong:
        with pytest.raises(InputError, match=f"^box 0 .*{wrong}.*dataset.bad_boxes"):
            clean("error")
        assert clean("drop") == (None, {"clipped": 0, "dropped": 1})
        counts = {"clipped": int(clipped is not None), "dropped": int(clipped is None)}
        assert clean("clip") == (clipped, counts)
    else:
        for policy in bad_boxes.POLICIES:
            assert clean(policy) == (clipped, {"clipped": 0, "dropped": 0})


def test_an_image_without_boxes():
    boxes, keep, counts = bad_boxes.clean(np.zeros((0, 4)), 20, 30, "error", str)
    assert boxes.shape == (0, 4)
    assert keep.shape == (0,)
    assert counts == {"clipped": 0, "dropped": 0}


def test_an_unknown_policy_is_an_error():
    with pytest.raises(InputError, match="'ignore'; it must be one of"):
        bad_boxes.clean(np.zeros((0, 4)), 20, 30, "ignore", str)
