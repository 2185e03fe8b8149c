"""Costs against published and calculated values; timing against a simulated clock."""

import time

import numpy as np
import pytest

from borrow_det.configs import base, quickstart, ssd300_coco
from borrow_det.tasks.detection import DetectionTask
from borrow_det.tools.ablate import model_cost


def test_ssd300_has_the_parameters_and_flops_that_torchvision_publishes():
    config = ssd300_coco.get_config("reference=torchvision")
    cost = model_cost.static_cost(DetectionTask(config, num_classes=90))
    # The metadata of its weights: 34.858 billion multiply-adds, 35,641,826 parameters.
    assert cost["parameters"] == 35_641_826
    # XLA does not count products with padding; the dilated fc6 has many.
    assert 0.95 < cost["flops"] / (2 * 34.858e9) < 1


def test_flops_of_borrowing_are_those_of_its_matrix_products():
    config = base.get_config()
    config.borrow.levels = (1,)
    config.borrow.context = False
    config.borrow.query_block = 256  # A loop of four blocks.
    full = model_cost.static_cost(DetectionTask(config, num_classes=2))
    config.borrow.enabled = False
    plain = model_cost.static_cost(DetectionTask(config, num_classes=2))
    # At 512 pixels: 32^2 queries; 16^2 and 8^2 keys of 1024 and 512 channels.
    R, T, C, E = 1024, 320, 512, 256
    embed = 256 * 1024 * E + 64 * 512 * E
    multiplied = R * C * E + 2 * embed + 2 * R * T * E + R * (C + E) * C
    weights = (C * E + E) + 2 * (1024 * E + E + 512 * E + E) + (C + E) * C + C + 1
    assert full["parameters"] - plain["parameters"] == weights
    # The remainder: biases, lengths of vectors and the softmax.
    difference = full["flops"] - plain["flops"]
    assert difference == pytest.approx(2 * multiplied, rel=0.02)
    assert difference > 2 * multiplied


def test_every_reference_adds_the_same_cost_and_no_parameters():
    config = quickstart.get_config()
    config.input_size = (64, 64)

    def cost(kind, count=1):
        config.references.kind, config.references.count = kind, count
        return model_cost.static_cost(DetectionTask(config, num_classes=2))

    none, one, two, four = cost("none"), *(cost("group", n) for n in (1, 2, 4))
    assert one["parameters"] == none["parameters"]
    step = two["flops"] - one["flops"]
    # The maps are given: no reference passes through the trunk.
    assert 0 < step < none["flops"] / 10
    assert four["flops"] - two["flops"] == pytest.approx(2 * step, rel=0.01)
    assert cost("overview") == one


class Clock:
    """Clock of a machine whose calls take given times and slow down in each round."""

    def __init__(self, calls):
        self.now = 0.0
        self.order = []
        self.calls = calls

    def call(self, name, cost):
        def run():
            turn = len(self.order) // self.calls  # The first round is not timed.
            self.order.append(name)
            self.now += cost * (1 + turn)
            return np.zeros(1)

        return run


def test_latency_ratios_are_taken_within_each_round(monkeypatch):
    clock = Clock(3)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    calls = {n: clock.call(n, c) for n, c in (("a", 0.002), ("b", 0.003), ("c", 0.001))}
    found = model_cost.relative_latency(calls, "b", 5)
    # The rounds take 2 to 6 times the cost; the median is 4.
    expected = {"a": (2, 2 / 3), "b": (3, 1), "c": (1, 1 / 3)}
    for name, (milliseconds, ratio) in expected.items():
        assert found[name]["latency_ms"] == pytest.approx(4 * milliseconds)
        for figure in ("latency_ratio", "ratio_low", "ratio_high"):
            assert found[name][figure] == pytest.approx(ratio)
    rounds = ["".join(clock.order[i : i + 3]) for i in range(0, 18, 3)]
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len({one[0] for one in rounds[1:]}) > 1  # The order changes.


def test_without_the_baseline_there_is_no_latency_ratio(monkeypatch):
    clock = Clock(1)
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    found = model_cost.relative_latency({"b": clock.call("b", 0.001)}, "ssd", 3)
    assert list(found["b"]) == ["latency_ms"]
