"""Statistics over seeds against values calculated by hand, and their tables."""

import csv
import io
import math

import pytest

from borrow_det.tools.ablate import plot, summary

# 97.5 % quantiles of Student's t distribution with 2 and 1 degrees of freedom.
T_2, T_1 = 4.302653, 12.706205


def test_paired_statistics_equal_values_calculated_by_hand():
    values = {0: 0.5, 1: 0.7, 2: 0.9}
    baseline = {0: 0.4, 1: 0.4, 2: 0.7, 3: 0.1}
    found = summary.statistics(values, baseline)
    assert found["mean"] == pytest.approx(0.7)
    assert found["std"] == pytest.approx(0.2)
    # The differences 0.1, 0.3, 0.2 have the mean 0.2 and the standard deviation 0.1.
    half = T_2 * 0.1 / math.sqrt(3)
    expected = {"mean": 0.2, "low": 0.2 - half, "high": 0.2 + half, "pairs": 3}
    assert found["difference"] == pytest.approx(expected, rel=1e-5)


def test_pairing_removes_the_variation_that_seeds_share():
    baseline = {0: 0.1, 1: 0.5}
    found = summary.statistics({0: 0.2, 1: 0.62}, baseline)["difference"]
    half = T_1 * 0.01
    expected = {"mean": 0.11, "low": 0.11 - half, "high": 0.11 + half, "pairs": 2}
    assert found == pytest.approx(expected, rel=1e-4)


def undefined(pairs):
    return {"mean": None, "low": None, "high": None, "pairs": pairs}


ONE_PAIR = {"mean": 0.25, "low": None, "high": None, "pairs": 1}


@pytest.mark.parametrize(
    ("values", "baseline", "mean", "std", "difference"),
    [
        ({3: 0.5}, {3: 0.25}, 0.5, None, ONE_PAIR),
        ({3: 0.5}, {4: 0.25}, 0.5, None, undefined(0)),
        ({0: 0.5, 1: math.nan}, {0: 0.5, 1: 0.5}, None, None, undefined(2)),
        ({0: 0.5, 1: 0.5}, {0: 0.5, 1: math.nan}, 0.5, 0.0, undefined(2)),
        ({}, {}, None, None, undefined(0)),
    ],
)
def test_undefined_statistics_are_none(values, baseline, mean, std, difference):
    found = summary.statistics(values, baseline)
    shown = [None if math.isnan(value) else value for value in values.values()]
    expected = {"mean": mean, "std": std, "values": shown, "difference": difference}
    assert found.pop("bootstrap") is None
    assert found.pop("mde")["images"] is None
    assert found == expected


@pytest.fixture
def records():
    """Records of two rows; a third row is not finished."""
    results = {
        "ssd": {0: {"val": {"AP": 0.5}}, 1: {"val": {"AP": 0.6}}},
        "full": {
            0: {"val": {"AP": 0.7, "extra": 1.0}, "pair": {"consistency": 1.0}},
            1: {"val": {"AP": 0.9, "extra": 1.0}, "pair": {"consistency": 0.5}},
        },
        "late": {},
    }
    costs = {"ssd": {"flops": 2_000_000}, "full": {"flops": 2_500_000}}
    return summary.summarize(results, costs, dict.fromkeys(results, "aquarium"), "ssd")


def test_summary_has_a_record_for_each_split_and_finished_row(records):
    keys = [(record["split"], record["name"]) for record in records]
    assert keys == [("val", "ssd"), ("val", "full"), ("pair", "ssd"), ("pair", "full")]
    assert all(record["seeds"] == 2 for record in records)
    assert all(record["dataset"] == "aquarium" for record in records)
    full = records[1]
    assert full["metrics"]["AP"]["mean"] == pytest.approx(0.8)
    assert full["metrics"]["AP"]["difference"]["mean"] == pytest.approx(0.25)
    # The baseline does not have this metric.
    assert full["metrics"]["extra"]["difference"] == undefined(2)
    assert records[2]["metrics"] == {}
    assert records[3]["metrics"]["consistency"]["mean"] == 0.75
    assert full["cost"] == {"flops": 2_500_000}


def test_a_merged_record_has_the_metrics_of_all_splits():
    splits = {"val": {"AP": 0.5, "AP/fish": 0.1}, "test": {"AP": 0.25}}
    records = summary.summarize({"ssd": {7: splits}}, {}, {"ssd": "aquarium"}, "ssd")
    (row,) = summary.by_row(records)
    fields = ("name", "dataset", "split", "seeds", "seed_numbers")
    assert [row[field] for field in fields] == ["ssd", "aquarium", "val", 1, [7]]
    means = {name: figures["mean"] for name, figures in row["metrics"].items()}
    assert means == {"AP": 0.5, "test/AP": 0.25}


def test_tables_and_csv_have_the_values_of_the_records(records):
    text = summary.as_markdown(records, ["AP", "AP50"])
    assert "**aquarium, val**" in text
    assert "pair" not in text  # The split has neither metric.
    half = T_1 * 0.05
    assert (
        f"| full |     2 | 0.800 ± 0.141 | +0.250 ({0.25 - half:+.3f} to "
        f"{0.25 + half:+.3f}) |" in text
    )
    assert "| full | 2.50 M |" in text
    (ssd,) = [line for line in text.splitlines() if "0.550" in line]
    assert (
        ssd.split("|")[-2].strip() == "-"
    )  # The baseline is not compared with itself.

    lines = list(csv.DictReader(io.StringIO(summary.as_csv(records))))
    assert [(row["name"], row["metric"]) for row in lines] == [
        ("ssd", "AP"),
        ("full", "AP"),
        ("full", "extra"),
        ("full", "consistency"),
    ]
    assert float(lines[1]["mean"]) == pytest.approx(0.8)
    assert float(lines[1]["low"]) == pytest.approx(0.25 - half, rel=1e-5)
    assert lines[2]["low"] == ""


def test_a_dataset_of_images_has_the_name_of_its_folder(tiny_config):
    tiny_config.dataset.path = "/data/aquarium/"
    assert summary.dataset_name(tiny_config) == "aquarium"
    tiny_config.dataset.name, tiny_config.dataset.path = "voc", ""
    assert summary.dataset_name(tiny_config) == "voc"


def test_an_unfinished_baseline_is_not_replaced_by_another_row(tmp_path):
    results = {
        "ssd": {},
        "a": {0: {"val": {"AP": 0.5}}, 1: {"val": {"AP": 0.7}}},
        "b": {0: {"val": {"AP": 0.6}}},
    }
    records = summary.summarize(results, {}, dict.fromkeys(results, "d"), "ssd")
    assert [record["baseline"] for record in records] == ["ssd", "ssd"]
    for record in records:
        assert record["metrics"]["AP"]["difference"] == undefined(0)
    plot.write(tmp_path / "a.png", records, results, "AP")
    results["ssd"] = {1: {"val": {"AP": 0.4}}}
    records = summary.summarize(results, {}, dict.fromkeys(results, "d"), "ssd")
    difference = records[1]["metrics"]["AP"]["difference"]
    assert difference == pytest.approx({**ONE_PAIR, "mean": 0.3})
    assert records[1]["seed_numbers"] == [0, 1]
    assert records[1]["metrics"]["AP"]["values"] == [0.5, 0.7]
    assert "+0.300 over 1 seeds" in summary.as_markdown(records, ["AP"])


def test_a_metric_that_a_seed_lacks_is_listed_as_undefined():
    results = {"ssd": {0: {"val": {"AP": 0.5}}, 1: {"val": {"AP": 0.5, "new": 0.1}}}}
    (record,) = summary.summarize(results, {}, {"ssd": "d"}, "ssd")
    assert record["metrics"]["new"]["mean"] is None
    assert record["metrics"]["AP"]["mean"] == 0.5


def test_only_the_baseline_has_a_dashed_line_in_plots(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(
        plot.figures, "write_png", lambda png, draw, texts: drawn.append(draw())
    )
    results = {
        "ssd": {0: {"val": {"AP": 0.5}}, 1: {"val": {"AP": 0.6}}},
        "$a_1$ | b": {0: {"val": {"AP": 0.8}}, 1: {"val": {"AP": 0.8}}},
    }
    records = summary.summarize(results, {}, dict.fromkeys(results, "d"), "ssd")
    plot.write(tmp_path / "a.png", records, results, "AP")
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.get_yticklabels()] == list(results)
    lines = [line.get_xydata().tolist() for line in axes.lines]
    assert [[0.5, 0], [0.6, 0]] in lines  # Seeds of the baseline.
    assert [[0.8, 1], [0.8, 1]] in lines
    assert [[0.55, 0]] in lines  # Means of the rows.
    assert [[0.8, 1]] in lines
    dashed = [line.get_xdata()[0] for line in axes.lines if line.get_ls() == "--"]
    assert dashed == [0.55]
