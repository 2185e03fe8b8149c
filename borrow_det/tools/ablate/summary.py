"""What the finished cells of a sweep say: statistics over seeds, and tables of them."""

import csv
import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from borrow_det.visualization.tables import markdown_table

CONFIDENCE = 0.95
_OF_ONE_CLASS = ("AP/", "AP50/")  # evaluation/average_precision.py.


def dataset_name(config) -> str:
    """The data set's name; of folders of images, the folder's."""
    folder = pathlib.Path(config.dataset.path).resolve().name
    return folder if config.dataset.path else config.dataset.name


def summarize(
    results: Mapping[str, Mapping[int, Mapping[str, Mapping[str, float]]]],
    costs: Mapping[str, Mapping[str, float]],
    datasets: Mapping[str, str],
) -> list[dict[str, Any]]:
    """One record for each split and row that has a finished cell.

    Args:
      results: row -> seed -> split -> metric -> value, of finished cells alone; the
        first row is the baseline, and stands there though none of its is finished.
      costs: row -> figure -> value, which do not depend on seeds.
      datasets: of each row.

    Returns:
      Records {name, baseline, dataset, split, seeds, seed_numbers, metrics, cost}:
      baseline is the first row's name, seeds how many seed_numbers there are, metrics
      maps each name to what `statistics` says of it.
    """
    splits = dict.fromkeys(
        split
        for by_seed in results.values()
        for by_split in by_seed.values()
        for split in by_split
    )
    baseline = next(iter(results))
    return [
        {
            "name": name,
            "baseline": baseline,
            "dataset": datasets[name],
            "split": split,
            "seeds": len(by_seed),
            "seed_numbers": sorted(by_seed),
            "metrics": {
                metric: statistics(
                    _values(by_seed, split, metric),
                    _values(results[baseline], split, metric),
                )
                for metric in _metric_names(by_seed, split)
            },
            "cost": dict(costs.get(name, {})),
        }
        for split in splits
        for name, by_seed in results.items()
        if by_seed
    ]


def by_row(records: Sequence[Mapping]) -> list[dict[str, Any]]:
    """One record for each row: metrics of other splits than its first as SPLIT/NAME.

    Those of single classes are left to the CSV: there may be hundreds.
    """
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        row = rows.setdefault(record["name"], {**record, "metrics": {}})
        prefix = "" if row["split"] == record["split"] else f"{record['split']}/"
        for name, figures in record["metrics"].items():
            if not name.startswith(_OF_ONE_CLASS):
                row["metrics"][prefix + name] = figures
    return list(rows.values())


def _metric_names(by_seed, split):
    return dict.fromkeys(
        metric for by_split in by_seed.values() for metric in by_split.get(split, ())
    )


def _values(by_seed, split, metric):
    return {
        seed: by_split.get(split, {}).get(metric, math.nan)
        for seed, by_split in sorted(by_seed.items())
    }


def statistics(
    values: Mapping[int, float], baseline: Mapping[int, float]
) -> dict[str, Any]:
    """Mean and spread over seeds, and the difference to the baseline, seed by seed.

    Args:
      values: of each seed.
      baseline: likewise; seeds that only one of both has are left out of the
        difference.

    Returns:
      {mean, std, values, difference: {mean, low, high, pairs}}: std of a sample
      (n - 1), values in the order of the seeds, low and high of Student's 95 % interval
      for the mean of the paired differences, pairs their number. None for what there
      are too few seeds for, or is undefined (nan) for one of them.
    """
    mean, std, _ = _describe(list(values.values()))
    pairs = [values[seed] - baseline[seed] for seed in values if seed in baseline]
    difference, _, half_width = _describe(pairs)
    low = high = None
    if half_width is not None:
        low, high = difference - half_width, difference + half_width
    return {
        "mean": mean,
        "std": std,
        "values": [v if math.isfinite(v) else None for v in values.values()],
        "difference": {
            "mean": difference,
            "low": low,
            "high": high,
            "pairs": len(pairs),
        },
    }


def _describe(values):
    """(mean, standard deviation, half the width of the mean's interval)."""
    n = len(values)
    if not n or not np.all(np.isfinite(values)):
        return None, None, None
    mean = float(np.mean(values))
    if n == 1:
        return mean, None, None
    std = float(np.std(values, ddof=1))
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
    return mean, std, quantile * std / math.sqrt(n)


def as_markdown(records: Sequence[Mapping], metrics: Sequence[str]) -> str:
    """A table for each split, `mean ± std` and the paired difference; then the costs.

    Args:
      records: of `summarize`.
      metrics: the columns; those that no record of a split has are left out.
    """
    texts = []
    for split in dict.fromkeys(record["split"] for record in records):
        of_split = [record for record in records if record["split"] == split]
        shown = [m for m in metrics if any(m in r["metrics"] for r in of_split)]
        if not shown:
            continue
        compared = {m: _is_compared(of_split, m) for m in shown}
        header = ["seeds"]
        for metric in shown:
            header.append(metric)
            if compared[metric]:
                header.append(f"to {of_split[0]['baseline']} (95 %)")
        rows = [(record["name"], _row_cells(record, compared)) for record in of_split]
        texts += [f"**{of_split[0]['dataset']}, {split}**"]
        texts += [markdown_table("row", header, rows)]
    texts.append(cost_table({r["name"]: r["cost"] for r in records}))
    return "\n\n".join(texts) + "\n"


def _is_compared(records, metric):
    """Whether a row's difference in it is known: the baseline may have no such one."""
    return any(
        record["metrics"].get(metric, {}).get("difference", {}).get("mean") is not None
        for record in records
    )


def _row_cells(record, compared):
    cells = [str(record["seeds"])]
    for metric, has_difference in compared.items():
        figures = record["metrics"].get(metric)
        known = figures is not None and figures["mean"] is not None
        cells.append(_mean_cell(figures) if known else math.nan)
        if has_difference:
            cells.append(_difference_cell(record, figures) if known else math.nan)
    return cells


def _mean_cell(figures):
    spread = "" if figures["std"] is None else f" ± {figures['std']:.3f}"
    return f"{figures['mean']:.3f}{spread}"


def _difference_cell(record, figures):
    difference = figures["difference"]
    if difference["mean"] is None or record["name"] == record["baseline"]:
        return math.nan
    text = f"{difference['mean']:+.3f}"
    if difference["low"] is not None:
        text += f" ({difference['low']:+.3f} to {difference['high']:+.3f})"
    if difference["pairs"] < record["seeds"]:
        text += f" of {difference['pairs']} seeds"
    return text


def cost_table(costs: Mapping[str, Mapping[str, float]]) -> str:
    """What each row costs: parameters, FLOPs and latency."""
    names = list(dict.fromkeys(name for cost in costs.values() for name in cost))
    columns = [name for name in names if name not in ("ratio_low", "ratio_high")]
    rows = [
        (row, [_cost_cell(name, cost) for name in columns])
        for row, cost in costs.items()
    ]
    return f"**cost of one image**\n\n{markdown_table('row', columns, rows)}"


def _cost_cell(name, cost):
    if name not in cost:
        return math.nan
    if name in ("parameters", "flops"):
        return f"{cost[name] / 1e6:,.2f} M"
    if name == "latency_ratio":
        low, high = cost["ratio_low"], cost["ratio_high"]
        return f"{cost[name]:.3f} ({low:.3f} to {high:.3f})"
    return f"{cost[name]:.1f}"


def as_csv(records: Sequence[Mapping]) -> str:
    """One line for each record and metric, for other programs' tables."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = ("name", "dataset", "split", "seeds")
    costs = list(dict.fromkeys(name for record in records for name in record["cost"]))
    of_difference = {"difference": "mean", "low": "low", "high": "high"}
    of_difference["pairs"] = "pairs"
    writer.writerow([*fields, "metric", "mean", "std", *of_difference, *costs])
    for record in records:
        for metric, figures in record["metrics"].items():
            difference = figures["difference"]
            writer.writerow(
                [
                    *(record[field] for field in fields),
                    metric,
                    figures["mean"],
                    figures["std"],
                    *(difference[name] for name in of_difference.values()),
                    *(record["cost"].get(name) for name in costs),
                ]
            )
    return text.getvalue()
