"""Statistics over seeds against figures worked out by hand, and the tables of them."""

import csv
import io
import math

import pytest

from borrow_det.tools import ablation_summary

# Student's t at 97.5 %, of any table of it.
T_2, T_1 = 4.302653, 12.706205


def test_paired_statistics_are_those_worked_out_by_hand():
    values = {0: 0.5, 1: 0.7, 2: 0.9}
    baseline = {0: 0.4, 1: 0.4, 2: 0.7, 3: 0.1}
    found = ablation_summary.statistics(values, baseline)
    assert found["mean"] == pytest.approx(0.7)
    assert found["std"] == pytest.approx(0.2)
    # Differences 0.1, 0.3, 0.2: mean 0.2, standard deviation 0.1.
    half = T_2 * 0.1 / math.sqrt(3)
    expected = {"mean": 0.2, "low": 0.2 - half, "high": 0.2 + half}
    assert found["difference"] == pytest.approx(expected, rel=1e-5)


def test_pairing_takes_out_what_seeds_have_in_common():
    baseline = {0: 0.1, 1: 0.5}
    found = ablation_summary.statistics({0: 0.2, 1: 0.62}, baseline)["difference"]
    half = T_1 * 0.01
    expected = {"mean": 0.11, "low": 0.11 - half, "high": 0.11 + half}
    assert found == pytest.approx(expected, rel=1e-4)


NONE = {"mean": None, "low": None, "high": None}


@pytest.mark.parametrize(
    ("values", "baseline", "mean", "std", "difference"),
    [
        ({3: 0.5}, {3: 0.25}, 0.5, None, {"mean": 0.25, "low": None, "high": None}),
        ({3: 0.5}, {4: 0.25}, 0.5, None, NONE),
        ({0: 0.5, 1: math.nan}, {0: 0.5, 1: 0.5}, None, None, NONE),
        ({0: 0.5, 1: 0.5}, {0: 0.5, 1: math.nan}, 0.5, 0.0, NONE),
        ({}, {}, None, None, NONE),
    ],
)
def test_what_is_undefined_is_none(values, baseline, mean, std, difference):
    found = ablation_summary.statistics(values, baseline)
    assert found == {"mean": mean, "std": std, "difference": difference}


@pytest.fixture
def records():
    """Of two rows and a third that is not finished."""
    results = {
        "ssd": {0: {"val": {"AP": 0.5}}, 1: {"val": {"AP": 0.6}}},
        "full": {
            0: {"val": {"AP": 0.7, "extra": 1.0}, "pair": {"followed": 1.0}},
            1: {"val": {"AP": 0.9, "extra": 1.0}, "pair": {"followed": 0.5}},
        },
        "late": {},
    }
    costs = {"ssd": {"flops": 2_000_000}, "full": {"flops": 2_500_000}}
    return ablation_summary.summarize(results, costs, "aquarium")


def test_summary_has_a_record_for_each_split_and_finished_row(records):
    keys = [(record["split"], record["name"]) for record in records]
    assert keys == [("val", "ssd"), ("val", "full"), ("pair", "ssd"), ("pair", "full")]
    assert all(record["seeds"] == 2 for record in records)
    assert all(record["dataset"] == "aquarium" for record in records)
    full = records[1]
    assert full["metrics"]["AP"]["mean"] == pytest.approx(0.8)
    assert full["metrics"]["AP"]["difference"]["mean"] == pytest.approx(0.25)
    assert full["metrics"]["extra"]["difference"] == NONE  # The baseline has none.
    assert records[2]["metrics"] == {}
    assert records[3]["metrics"]["followed"]["mean"] == 0.75
    assert full["cost"] == {"flops": 2_500_000}


def test_tables_show_the_records(records):
    text = ablation_summary.as_markdown(records, ["AP", "AP50"])
    assert "**aquarium, val**" in text
    assert "pair" not in text  # It has neither of the metrics.
    half = T_1 * 0.05
    assert (
        f"| full | 2 | 0.800 ± 0.141 | +0.250 ({0.25 - half:+.3f} to "
        f"{0.25 + half:+.3f}) |" in text
    )
    assert "| full | 2.50 M |" in text

    lines = list(csv.DictReader(io.StringIO(ablation_summary.as_csv(records))))
    assert [(row["name"], row["metric"]) for row in lines] == [
        ("ssd", "AP"),
        ("full", "AP"),
        ("full", "extra"),
        ("full", "followed"),
    ]
    assert float(lines[1]["mean"]) == pytest.approx(0.8)
    assert float(lines[1]["low"]) == pytest.approx(0.25 - half, rel=1e-5)
    assert lines[2]["low"] == ""


def test_data_sets_are_named_as_people_know_them(tiny_config):
    tiny_config.dataset.path = "/data/aquarium/"
    assert ablation_summary.dataset_name(tiny_config) == "aquarium"
    tiny_config.dataset.name, tiny_config.dataset.path = "voc", ""
    assert ablation_summary.dataset_name(tiny_config) == "voc"
