"""Learning curves of a run."""

import json
import math

import numpy as np
import PIL.Image
import pytest
from matplotlib.figure import Figure

from borrow_det.visualization import curves

RECORDS = [
    {"step": 1, "loss": 4.0, "loss/matching": None, "learning_rate": 0.1},
    {"step": 2, "loss": 2.0, "loss/matching": 1.0, "images_per_second": 7.0},
    {"step": 2, "val/AP": 0.5, "val/AP50": 0.75, "val/AP_small": 0.25},
    {"step": 2, "val/AP/cat": 0.1, "val/AP75": 0.3, "val/AP50_small": 0.5},
    {"step": 2, "train_16/AP": 0.75, "train_16/AP_small": None, "train_16/AR_100": 1},
    {"step": 4, "val/AP": 0.625, "val/AP_small": None, "val/AP/AP50": 0.5},
]


@pytest.fixture
def panels(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    drawn = {}
    monkeypatch.setattr(
        curves, "_plot", lambda axes, title, panel: drawn.update({title: panel})
    )
    titles = curves.learning_curves(path, tmp_path / "curves.png")
    assert titles == list(drawn)
    return drawn


def test_panels_are_losses_learning_rate_and_three_metrics(panels):
    assert list(panels) == ["loss", "learning rate", "AP", "AP50", "AP_small"]
    assert panels["loss"].lines == {
        "loss": [(1, 4.0), (2, 2.0)],
        "loss/matching": [(2, 1.0)],
    }
    assert panels["learning rate"].lines == {"learning_rate": [(1, 0.1)]}


def test_a_metric_has_one_line_for_each_split_and_none_for_classes(panels):
    assert panels["AP"].lines == {
        "val": [(2, 0.5), (4, 0.625)],
        "train_16": [(2, 0.75)],
    }
    assert panels["AP50"].lines == {"val": [(2, 0.75)]}
    assert panels["AP_small"].lines == {"val": [(2, 0.25)]}


def test_a_panel_says_what_it_lacks(panels):
    assert panels["AP"].notes == []
    assert panels["AP50"].notes == ["One evaluation, at step 2."]
    assert panels["AP_small"].notes == [
        "No small object to find: train_16.",
        "One evaluation, at step 2.",
    ]
    undefined = curves.make_panels({"loss/matching": [(1, math.nan)]})
    assert undefined == {"loss": curves.Panel({}, ["No value: loss/matching."])}


def test_classification_has_panels_of_its_accuracies():
    series = {"val/top1": [(2, 0.5)], "val/top5": [(2, 0.75)], "val/loss": [(2, 1.5)]}
    panels = curves.make_panels(series)
    assert {title: panel.lines for title, panel in panels.items()} == {
        "loss": {"val/loss": [(2, 1.5)]},
        "top1": {"val": [(2, 0.5)]},
        "top5": {"val": [(2, 0.75)]},
    }


def test_the_legend_is_outside_and_lines_differ_without_color():
    figure = Figure(layout="constrained")
    axes = figure.add_subplot()
    lines = {name: [(1, 0.5), (2, 0.75)] for name in ("a", "b", "$c$")}
    curves._plot(axes, "AP", curves.Panel(lines, ["No object to find: $d$."]))
    figure.canvas.draw()
    legend = axes.get_legend()
    assert legend.get_window_extent().x0 >= axes.get_window_extent().x1
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "$c$"]
    drawn = axes.get_lines()
    assert len({(line.get_linestyle(), line.get_marker()) for line in drawn}) == 3
    assert axes.get_xlabel() == "step\nNo object to find: $d$."


def test_low_values_fill_a_plot():
    figure = Figure()
    axes = figure.add_subplot()
    curves._plot(axes, "AP", curves.Panel({"val": [(1, 0.01), (2, 0.04)]}, []))
    low, high = axes.get_ylim()
    assert low < 0
    assert 0.04 < high < 0.05


def test_the_picture_is_written_even_if_a_panel_is_empty(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0, "val/AP": 0.5, "val/AP_small": null}\n')
    titles = curves.learning_curves(path, tmp_path / "curves.png")
    assert titles == ["loss", "AP", "AP_small"]
    assert np.array(PIL.Image.open(tmp_path / "curves.png")).std() > 5


def test_without_panels_no_file_is_written(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "images_per_second": 2.0}\n')
    assert curves.learning_curves(path, tmp_path / "curves.png") == []
    assert not (tmp_path / "curves.png").exists()
