"""Costs against published and worked-out figures; timing by a clock of our own."""

import itertools
import time

import numpy as np
import pytest

from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools import model_cost
from configs import base, ssd300_coco


def test_ssd300_has_the_flops_that_torchvision_publishes():
    config = ssd300_coco.get_config("reference=torchvision")
    cost = model_cost.static_cost(DetectionTask(config, num_classes=90))
    # Its weights' metadata: 34.858 billion multiply-adds, 35,641,826 parameters.
    assert cost["parameters"] == 35_641_826
    # XLA counts no products with padding, of which the dilated fc6 has many.
    assert 0.95 < cost["flops"] / (2 * 34.858e9) < 1


def test_borrowing_costs_its_products():
    config = base.get_config()
    config.borrow.levels = (1,)
    config.borrow.context = False
    full = model_cost.static_cost(DetectionTask(config, num_classes=2))
    config.borrow.enabled = False
    plain = model_cost.static_cost(DetectionTask(config, num_classes=2))
    # At 512 pixels: 32^2 descriptors; 16^2 and 8^2 sources of 1024 and 512 channels.
    R, T, C, E = 1024, 320, 512, 256
    embed = 256 * 1024 * E + 64 * 512 * E
    multiplied = R * C * E + 2 * embed + 2 * R * T * E + R * (C + E) * C
    weights = (C * E + E) + 2 * (1024 * E + E + 512 * E + E) + (C + E) * C + C + 1
    assert full["parameters"] - plain["parameters"] == weights
    # Beside the products: biases, lengths and the softmax.
    difference = full["flops"] - plain["flops"]
    assert difference == pytest.approx(2 * multiplied, rel=0.02)
    assert difference > 2 * multiplied


def test_calls_are_compared_within_each_round(monkeypatch):
    now = [0.0]
    # The machine slows down from round to round; b takes 1.5 times as long as a.
    load = itertools.count()
    order = []

    def call(name, cost):
        def run():
            order.append(name)
            now[0] += cost * (1 + next(load) // 2)
            return np.zeros(1)

        return run

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    found = model_cost.side_by_side({"a": call("a", 0.002), "b": call("b", 0.003)}, 5)
    assert order == list("ab" + "ab" + "ba" + "ab" + "ba" + "ab")
    assert found["a"]["latency_ratio"] == 1
    assert found["b"]["latency_ratio"] == pytest.approx(1.5)
    assert found["a"]["latency_ms"] == pytest.approx(2 * 4)  # Of 2 to 6 times.
    assert found["b"]["latency_ms"] == pytest.approx(3 * 4)
    assert model_cost.side_by_side({}, 5) == {}
