"""Parts of a tree: what is inside of modules, what is not, and both again."""

import pytest

from borrow_det.ops import subtrees

TREE = {
    "trunk": {"conv1_1": {"conv": {"kernel": 1, "bias": 2}}, "conv1_10": {"scale": 3}},
    "fc6": {"kernel": 4},
}


def test_a_module_is_split_off_by_its_whole_name():
    outside, inside = subtrees.split(TREE, ("trunk/conv1_1", "fc6"))
    assert outside == {"trunk": {"conv1_10": {"scale": 3}}}
    assert inside == {
        "trunk": {"conv1_1": {"conv": {"kernel": 1, "bias": 2}}},
        "fc6": {"kernel": 4},
    }


@pytest.mark.parametrize("modules", [(), ("trunk",), ("trunk", "fc6"), ("fc7",)])
def test_the_parts_make_the_tree_again(modules):
    outside, inside = subtrees.split(TREE, modules)
    assert subtrees.merge(outside, inside) == TREE
    assert subtrees.merge(inside, outside) == TREE


def test_the_part_takes_the_place_of_the_tree():
    part = {"trunk": {"conv1_1": {"conv": {"bias": 7}}}}
    merged = subtrees.merge(TREE, part)
    assert merged["trunk"]["conv1_1"]["conv"] == {"kernel": 1, "bias": 7}
    assert merged["fc6"] == TREE["fc6"]
    assert TREE["trunk"]["conv1_1"]["conv"]["bias"] == 2
