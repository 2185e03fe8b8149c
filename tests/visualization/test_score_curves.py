"""Plots of curves and confusion matrices: what is drawn, what is named in text."""

import itertools

import numpy as np
import PIL.Image
import pytest

from borrow_det.evaluation import analysis
from borrow_det.visualization import confusion_matrix, score_curves
from tests.evaluation.coco_records import A, truth
from tests.evaluation.random_records import random_records


def analyzed(names):
    """Analysis of random records whose classes have other names."""
    ground_truth, detections = random_records(0)
    extra = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    return analysis.analyze(
        {**ground_truth, "categories": extra}, detections, lender_scale=2.0
    )


def texts(figure):
    """All texts of a figure, by what they are."""
    axes = figure.get_axes()
    return {
        "legends": [
            [text.get_text() for text in panel.get_legend().get_texts()]
            for panel in axes
            if panel.get_legend()
        ],
        "note": figure.get_supxlabel(),
        "titles": [panel.get_title() for panel in axes],
    }


def test_classes_with_the_most_objects_are_lines_and_the_others_are_named():
    rng = np.random.default_rng(0)
    count = 12
    found = analyzed([f"kind {k}" for k in range(count)])
    for k in range(count):
        curve = found["curves"][f"kind {k}"]["all"]
        curve.update(objects=100 - k if k < 11 else 0, f1=[0.25], score=[0.5])
        curve.update(precision=[float(rng.random())], recall=[0.5])
    drawn, others = score_curves.drawn_classes(found)
    assert (drawn, others) == (list(range(8)), [8, 9, 10, 11])
    figure = score_curves._figure(
        found, found["classes"], "title", [("recall", "precision")]
    )
    shown = texts(figure)
    classes, sizes = shown["legends"]
    assert len(classes) == 9
    assert classes[1] == "kind 0 (F1 0.250, 100 objects)"
    assert [line.split()[0] for line in sizes] == ["all", "small", "medium", "large"]
    assert shown["note"] == (
        "Not drawn, with the best F1: kind 8 0.250, kind 9 0.250, kind 10 0.250. "
        "Without objects: kind 11."
    )
    lines = figure.get_axes()[0].get_lines()[:9]
    styles = [(line.get_color(), str(line._dash_pattern)) for line in lines]
    assert len(set(styles)) == 9
    neighbors = itertools.pairwise(styles)
    assert all(a[1] != b[1] for a, b in neighbors)  # Without colors, too.
    np.testing.assert_array_equal(
        lines[0].get_xdata(), found["curves"]["all"]["all"]["recall"]
    )


def test_curves_over_the_score_mark_the_best_f1():
    found = analyzed(["cat", "dog", "owl"])
    panels = [("score", name) for name in ("f1", "precision", "recall")]
    figure = score_curves._figure(found, found["classes"], "title", panels)
    best = found["operating_points"]["best_f1"]
    assert texts(figure)["titles"] == 6 * [f"best F1 at a score of {best['score']:.3f}"]
    top = figure.get_axes()[0]
    assert top.get_lines()[-1].get_xdata() == [best["score"], best["score"]]
    curve = found["curves"]["all"]["all"]
    np.testing.assert_array_equal(top.get_lines()[0].get_ydata(), curve["f1"])


def test_cells_have_counts_and_shares_of_their_row():
    counts = np.array([[30, 0, 10], [0, 0, 0], [1, 999, 0]])
    figure = confusion_matrix._figure(counts, ["cat", "dog", "background"], "title")
    (axes,) = figure.get_axes()
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    # Columns first.
    assert cells == {
        (0, 0): "30\n75%",
        (2, 0): "10\n25%",
        (0, 2): "1\n<1%",
        (1, 2): "999\n100%",
    }
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert rows == ["cat (40)", "dog (0)", "background (1,000)"]
    assert len(axes.patches) == 2  # The frames of the diagonal.


@pytest.mark.parametrize("classes", [1, 80])
def test_cells_of_a_matrix_have_room_for_their_text(classes):
    counts = np.full((classes + 1, classes + 1), 1234)
    names = [f"class {k}" for k in range(classes + 1)]
    figure = confusion_matrix._figure(counts, names, "title")
    (axes,) = figure.get_axes()
    inches = (figure.get_figwidth() - 3.2) / (classes + 1)
    font = axes.texts[0].get_fontsize()
    assert font >= 6.5
    # Two lines of text, and five digits of 0.64 of the font's size.
    assert 2.4 * font / 72 < inches
    assert 5 * 0.64 * font / 72 < inches


def test_names_in_any_script_and_markup_are_drawn_as_text(tmp_path):
    names = ["$x_1$ <img src=x onerror=1>", "\u0395\u03bb\u03bb", "a" * 100]
    found = analyzed(names)
    pictures = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    score_curves.precision_recall(found, pictures[0], "a $title$")
    score_curves.over_score(found, pictures[1], "a $title$")
    confusion_matrix.confusion_matrix(found["confusion"], pictures[2], "a $title$")
    for picture in pictures:
        assert np.array(PIL.Image.open(picture)).std() > 5


def test_evaluations_without_detections_are_drawn(tmp_path):
    found = analysis.analyze(truth((1, 1, A, {})), [], lender_scale=2.0)
    score_curves.precision_recall(found, tmp_path / "a.png", "title")
    confusion_matrix.confusion_matrix(found["confusion"], tmp_path / "b.png", "title")
    figure = score_curves._figure(found, ["cat", "dog"], "t", [("recall", "precision")])
    assert texts(figure)["titles"] == 2 * ["no detections or no objects"]
    assert texts(figure)["note"] == "Without objects: dog."
    assert len(list(tmp_path.iterdir())) == 2
