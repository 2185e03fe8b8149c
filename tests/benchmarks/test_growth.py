"""Exponents of known figures, and the growth benchmark at a small size."""

import json

import pytest

from benchmarks import growth

pytestmark = pytest.mark.benchmarks


def test_exponents_are_slopes_of_logarithms():
    rows = {n: {"square": n**2, "flat": 7.0, "late": n + 12} for n in (1, 4, 16)}
    found = growth.exponents(rows)
    assert found["exponent"]["square"] == 2
    assert found["at_the_end"] == {"square": 2, "flat": 0, "late": 0.4}
    # With three equal steps, the fitted slope is that between the first and the last.
    assert found["exponent"]["late"] == pytest.approx(0.28)


def test_a_figure_with_zeros_has_no_exponent():
    found = growth.exponents({1: {"MiB": 0.0}, 2: {"MiB": 3.0}})
    assert found == {"exponent": {}, "at_the_end": {}}
    assert "-" in growth.table("size", {"rows": {1: {"MiB": 0.0}}, **found})


def test_flops_grow_linearly_with_the_batch(capsys, monkeypatch):
    monkeypatch.setitem(growth.AXES, "batch", (1, 2))
    monkeypatch.setitem(growth._START, "size", 128)
    assert growth.main(["growth", "--axis=batch", "--width=0.03", "--rounds=1"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)["axes"]["batch"]
    for kind in ("detect", "train"):
        assert found["exponent"][f"{kind} GFLOP"] == 1
        assert found["rows"]["2"][f"{kind} ms"] > 0
    assert "| at the end |" in printed.err


def test_each_operation_on_a_dataset_is_measured():
    rows = growth.data_rows((4,), rounds=1)
    names = ["prepare", "open", "check", "first batch", "ground truth", "score"]
    assert list(rows[4]) == [f"{name} s" for name in names] + ["MiB"]
