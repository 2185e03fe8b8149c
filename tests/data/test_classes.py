import pytest

from borrow_det.data import classes


@pytest.mark.parametrize(
    ("names", "ids", "trained_names", "trained_ids", "expected"),
    [
        (("cat", "dog"), (1, 7), ("cat", "dog"), (1, 7), [0, 1]),
        (("dog", "cat"), (1, 2), ("cat", "dog"), (1, 7), [1, 0]),
        # A file that lists fewer categories.
        (("dog",), (7,), ("cat", "dog"), (1, 7), [1]),
        # The class of an older run whose root category was one, too.
        (("cell",), (1,), ("cell", "cell (1)"), (0, 1), [1]),
        (("dog",), ("7",), ("cat", "dog"), (1, 7), [1]),
        (("zebra", "dog"), (1, 7), ("cat", "dog"), (1, 7), None),
    ],
)
def test_classes_are_found_among_those_of_a_run(
    names, ids, trained_names, trained_ids, expected
):
    found = classes.indices_among(names, ids, trained_names, trained_ids)
    assert found == expected


def test_ids_are_those_of_the_split_and_else_those_of_the_run():
    assert classes.ids_of([1], (7,), (1, 7)) == (1, 7)
    assert classes.ids_of([1, 0], (5, 6), (1, 7, 3)) == (6, 5, 3)
    assert classes.ids_of([1], (1,), (1, 7)) == ("1 of the run", 1)
