"""What the finished cells of a sweep say: statistics over seeds, and tables of them."""

import csv
import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


def dataset_name(config) -> str:
    """The data set's name; of folders of images, the folder's."""
    dataset = config.dataset
    return pathlib.Path(dataset.path).name if dataset.path else dataset.name


def summarize(
    results: Mapping[str, Mapping[int, Mapping[str, Mapping[str, float]]]],
    costs: Mapping[str, Mapping[str, float]],
    dataset: str,
) -> list[dict[str, Any]]:
    """One record for each split and row that has a finished cell.

    Args:
      results: row -> seed -> split -> metric -> value, of finished cells alone; the
        first row is the baseline.
      costs: row -> figure -> value, which do not depend on seeds.
      dataset: its name.

    Returns:
      Records {name, dataset, split, seeds, metrics, cost}: seeds counts them, metrics
      maps each name to what `statistics` says of it.
    """
    splits = dict.fromkeys(
        split
        for by_seed in results.values()
        for by_split in by_seed.values()
        for split in by_split
    )
    baseline = next(iter(results.values()), {})
    return [
        {
            "name": name,
            "dataset": dataset,
            "split": split,
            "seeds": len(by_seed),
            "metrics": {
                metric: statistics(
                    _values(by_seed, split, metric), _values(baseline, split, metric)
                )
                for metric in next(iter(by_seed.values())).get(split, ())
            },
            "cost": dict(costs.get(name, {})),
        }
        for split in splits
        for name, by_seed in results.items()
        if by_seed
    ]


def _values(by_seed, split, metric):
    return {
        seed: by_split.get(split, {}).get(metric, math.nan)
        for seed, by_split in by_seed.items()
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
      {mean, std, difference: {mean, low, high}}: std of a sample (n - 1), low and high
      of Student's 95 % interval for the mean of the paired differences. None for what
      there are too few seeds for, or is undefined (nan) for one of them.
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
        "difference": {"mean": difference, "low": low, "high": high},
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
    tables = []
    for split in dict.fromkeys(record["split"] for record in records):
        of_split = [record for record in records if record["split"] == split]
        shown = [m for m in metrics if any(m in r["metrics"] for r in of_split)]
        if not shown:
            continue
        header = ["row", "seeds"]
        for metric in shown:
            header += [metric, "difference (95 %)"]
        rows = [
            [record["name"], str(record["seeds"])]
            + [c for m in shown for c in _metric_cells(record["metrics"].get(m))]
            for record in of_split
        ]
        tables.append(_table(f"{of_split[0]['dataset']}, {split}", header, rows))
    tables.append(cost_table({r["name"]: r["cost"] for r in records}))
    return "\n".join(tables)


def cost_table(costs: Mapping[str, Mapping[str, float]]) -> str:
    """What each row costs: parameters, FLOPs (millions) and latency."""
    names = list(dict.fromkeys(name for cost in costs.values() for name in cost))
    rows = [
        [row, *(_cost_cell(name, cost.get(name)) for name in names)]
        for row, cost in costs.items()
    ]
    return _table("cost of one image", ["row", *names], rows)


def _table(title, header, rows):
    lines = [header, ["---"] * len(header), *rows]
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"**{title}**\n\n{body}\n"


def _metric_cells(figures):
    if figures is None or figures["mean"] is None:
        return ["-", "-"]
    spread = "" if figures["std"] is None else f" ± {figures['std']:.3f}"
    difference = figures["difference"]
    text = "-"
    if difference["mean"] is not None:
        text = f"{difference['mean']:+.3f}"
    if difference["low"] is not None:
        text += f" ({difference['low']:+.3f} to {difference['high']:+.3f})"
    return [f"{figures['mean']:.3f}{spread}", text]


def _cost_cell(name, value):
    if value is None:
        return "-"
    if name in ("parameters", "flops"):
        return f"{value / 1e6:.2f} M"
    return f"{value:.2f}"


def as_csv(records: Sequence[Mapping]) -> str:
    """One line for each record and metric, for other programs' tables."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = ("name", "dataset", "split", "seeds")
    costs = list(dict.fromkeys(name for record in records for name in record["cost"]))
    statistic_names = ("mean", "std", "difference", "low", "high")
    writer.writerow([*fields, "metric", *statistic_names, *costs])
    for record in records:
        for metric, figures in record["metrics"].items():
            difference = figures["difference"]
            writer.writerow(
                [
                    *(record[field] for field in fields),
                    metric,
                    figures["mean"],
                    figures["std"],
                    *(difference[name] for name in ("mean", "low", "high")),
                    *(record["cost"].get(name) for name in costs),
                ]
            )
    return text.getvalue()
