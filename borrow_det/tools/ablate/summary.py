"""Statistics over the seeds and images of a sweep's cells, and tables of them."""

import csv
import io
import math
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
from scipy import stats

from borrow_det.evaluation import bootstrap
from borrow_det.evaluation.bootstrap import CONFIDENCE
from borrow_det.visualization.tables import markdown_table

# row -> seed -> split -> metric -> value.
Results = Mapping[str, Mapping[int, Mapping[str, Mapping[str, float]]]]
# row -> seed -> split -> metrics on resamples of the images.
Samples = Mapping[str, Mapping[int, Mapping[str, bootstrap.Samples]]]

_CLASS_PREFIXES = ("AP/", "AP50/")  # Metrics of single classes.


def dataset_name(config: ml_collections.ConfigDict) -> str:
    """Returns the dataset's name; for a folder of images, the folder's name."""
    folder = pathlib.Path(config.dataset.path).resolve().name
    return folder if config.dataset.path else config.dataset.name


def summarize(
    results: Results,
    costs: Mapping[str, Mapping[str, float]],
    datasets: Mapping[str, str],
    baseline: str,
    samples: Samples = types.MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Returns a record for each split and each row that has a finished cell.

    Args:
      results: row -> seed -> split -> metric -> value, for the finished cells. The
        baseline is present even if it has no finished cell.
      costs: row -> name -> value; these do not depend on the seed.
      datasets: name of the dataset by row.
      baseline: name of the row with which the others are compared.
      samples: row -> seed -> split -> metrics on resamples of the images.

    Returns:
      Records {name, baseline, dataset, split, seeds, seed_numbers, metrics, cost}.
      seeds is the number of seed_numbers, and metrics maps each name to its
      `statistics`.
    """
    splits = dict.fromkeys(
        split
        for by_seed in results.values()
        for by_split in by_seed.values()
        for split in by_split
    )
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
                    _over_images(samples, name, baseline, split, metric),
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
    """Merges the records of each row; metrics of later splits become SPLIT/NAME.

    Metrics of single classes are omitted, since there may be hundreds. The CSV file has
    them.
    """
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        row = rows.setdefault(record["name"], {**record, "metrics": {}})
        prefix = "" if row["split"] == record["split"] else f"{record['split']}/"
        for name, figures in record["metrics"].items():
            if not name.startswith(_CLASS_PREFIXES):
                row["metrics"][prefix + name] = figures
    return list(rows.values())


def _metric_names(
    by_seed: Mapping[int, Mapping[str, Mapping[str, float]]], split: str
) -> dict[str, None]:
    return dict.fromkeys(
        metric for by_split in by_seed.values() for metric in by_split.get(split, ())
    )


def _values(
    by_seed: Mapping[int, Mapping[str, Mapping[str, float]]], split: str, metric: str
) -> dict[int, float]:
    return {
        seed: by_split.get(split, {}).get(metric, math.nan)
        for seed, by_split in sorted(by_seed.items())
    }


def _over_images(
    samples: Samples, row: str, baseline: str, split: str, metric: str
) -> dict[str, Any] | None:
    """Returns the interval of the difference over images; see `bootstrap.difference`.

    Within a resample, the difference is the mean over the seeds that both rows have.
    """
    own, others = (
        {seed: of[split] for seed, of in samples.get(name, {}).items() if split in of}
        for name in (row, baseline)
    )
    seeds = sorted({*own} & {*others})
    return bootstrap.difference(
        [own[seed] for seed in seeds], [others[seed] for seed in seeds], metric
    )


def statistics(
    values: Mapping[int, float],
    baseline: Mapping[int, float],
    over_images: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Computes statistics over seeds and of the paired difference to the baseline.

    Args:
      values: the row's values by seed.
      baseline: the baseline's values by seed. The difference uses the seeds that both
        have.
      over_images: interval of the difference over images; see `bootstrap.difference`.

    Returns:
      {mean, std, values, difference: {mean, low, high, pairs}, bootstrap, mde: {seeds,
      images}}. std is the sample standard deviation (n - 1). values are in the order of
      the seeds. low and high are the ends of Student's 95 % confidence interval for the
      mean of the paired differences, and pairs is their number. bootstrap is
      `over_images`. mde has the smallest differences that the two intervals could have
      found (`bootstrap.detectable_effect`). A value is None if there are too few seeds,
      or if it is undefined (nan) for one of them.
    """
    mean, std, _ = _describe(list(values.values()))
    pairs = [values[seed] - baseline[seed] for seed in values if seed in baseline]
    difference, spread, half_width = _describe(pairs)
    low = high = None
    if difference is not None and half_width is not None:
        low, high = difference - half_width, difference + half_width
    effects: dict[str, float | None] = {"seeds": None, "images": None}
    if spread is not None:
        error = spread / math.sqrt(len(pairs))
        effects["seeds"] = bootstrap.detectable_effect(error, len(pairs) - 1)
    if over_images is not None and over_images["std"] is not None:
        effects["images"] = bootstrap.detectable_effect(over_images["std"])
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
        "bootstrap": over_images,
        "mde": effects,
    }


def _describe(
    values: Sequence[float],
) -> tuple[float | None, float | None, float | None]:
    """Returns (mean, standard deviation, half the width of the mean's interval)."""
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
    """Formats a table per split, with `mean ± std` and the difference, and the costs.

    Args:
      records: records of `summarize`.
      metrics: columns; a split's table omits those that none of its records has.
    """
    texts = []
    for split in dict.fromkeys(record["split"] for record in records):
        split_records = [record for record in records if record["split"] == split]
        shown = [m for m in metrics if any(m in r["metrics"] for r in split_records)]
        if not shown:
            continue
        compared = {m: _is_compared(split_records, m) for m in shown}
        header = ["seeds"]
        for metric in shown:
            header.append(metric)
            if compared[metric]:
                header.append(f"vs. {split_records[0]['baseline']} (95 % CI)")
        rows = [(r["name"], _row_cells(r, compared)) for r in split_records]
        texts += [f"**{split_records[0]['dataset']}, {split}**"]
        texts += [markdown_table("row", header, rows)]
        texts += _differences(split_records, shown)
    texts.append(cost_table({r["name"]: r["cost"] for r in records}))
    return "\n\n".join(texts) + "\n"


def _differences(records: Sequence[Mapping], metrics: Sequence[str]) -> list[str]:
    """Returns the table of differences of a split with their intervals, and its key.

    Empty if no difference has an interval.
    """
    found = [
        (record["name"], metric, record["metrics"][metric])
        for record in records
        for metric in metrics
        if record["name"] != record["baseline"] and metric in record["metrics"]
    ]
    rows = []
    for name, metric, figures in found:
        intervals, mean = _intervals(figures), figures["difference"]["mean"]
        if mean is not None and any(isinstance(cell, str) for cell in intervals):
            rows.append((name, [metric, f"{mean:+.3f}", *intervals]))
    if not rows:
        return []
    columns = ["metric", f"vs. {records[0]['baseline']}", "95 % CI, seeds"]
    columns += ["95 % CI, images", "detectable, seeds", "detectable, images"]
    drawn: dict[str, int] = {}
    for *_, figures in found:
        if over_images := figures["bootstrap"]:
            unit = f"{over_images['units']:,} {over_images['unit']}s"
            drawn[unit] = max(over_images["samples"], drawn.get(unit, 0))
    key = "Detectable: the smallest true difference that such a comparison finds in "
    key += f"{100 * bootstrap.POWER:.0f} % of the cases."
    for unit, samples in drawn.items():
        key += f" Images: paired bootstrap, {samples:,} resamples of {unit}."
    return [markdown_table("row", columns, rows), key]


def _intervals(figures: Mapping) -> list[str | float]:
    """Returns the cells of a difference's intervals and of what they could find."""
    of_images = figures["bootstrap"] or {"low": None}
    effects = (figures["mde"]["seeds"], figures["mde"]["images"])
    return [
        *(
            math.nan if interval["low"] is None else _interval_text(interval)
            for interval in (figures["difference"], of_images)
        ),
        *(math.nan if effect is None else f"{effect:.3f}" for effect in effects),
    ]


def _interval_text(interval: Mapping) -> str:
    return f"{interval['low']:+.3f} to {interval['high']:+.3f}"


def _is_compared(records: Sequence[Mapping], metric: str) -> bool:
    """Returns True if any record has a difference to the baseline in this metric."""
    return any(
        record["metrics"].get(metric, {}).get("difference", {}).get("mean") is not None
        for record in records
    )


def _row_cells(record: Mapping, compared: Mapping[str, bool]) -> list[str | float]:
    cells: list[str | float] = [str(record["seeds"])]
    for metric, has_difference in compared.items():
        figures = record["metrics"].get(metric)
        known = figures is not None and figures["mean"] is not None
        cells.append(_mean_cell(figures) if known else math.nan)
        if has_difference:
            cells.append(_difference_cell(record, figures) if known else math.nan)
    return cells


def _mean_cell(figures: Mapping) -> str:
    spread = "" if figures["std"] is None else f" ± {figures['std']:.3f}"
    return f"{figures['mean']:.3f}{spread}"


def _difference_cell(record: Mapping, figures: Mapping) -> str | float:
    difference = figures["difference"]
    if difference["mean"] is None or record["name"] == record["baseline"]:
        return math.nan
    text = f"{difference['mean']:+.3f}"
    if difference["low"] is not None:
        text += f" ({_interval_text(difference)})"
    if difference["pairs"] < record["seeds"]:
        text += f" over {difference['pairs']} seeds"
    return text


def cost_table(costs: Mapping[str, Mapping[str, float]]) -> str:
    """Formats the parameters, FLOPs and latency of each row as a table."""
    names = list(dict.fromkeys(name for cost in costs.values() for name in cost))
    columns = [name for name in names if name not in ("ratio_low", "ratio_high")]
    rows = [
        (row, [_cost_cell(name, cost) for name in columns])
        for row, cost in costs.items()
    ]
    return f"**cost of one image**\n\n{markdown_table('row', columns, rows)}"


def _cost_cell(name: str, cost: Mapping[str, float]) -> str | float:
    if name not in cost:
        return math.nan
    if name in ("parameters", "flops"):
        return f"{cost[name] / 1e6:,.2f} M"
    if name == "latency_ratio":
        low, high = cost["ratio_low"], cost["ratio_high"]
        return f"{cost[name]:.3f} ({low:.3f} to {high:.3f})"
    return f"{cost[name]:.1f}"


def as_csv(records: Sequence[Mapping]) -> str:
    """Formats the records as CSV, with one line per record and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = ("name", "dataset", "split", "seeds")
    costs = list(dict.fromkeys(name for record in records for name in record["cost"]))
    columns = {"difference": "mean", "low": "low", "high": "high", "pairs": "pairs"}
    of_images = {"images_low": "low", "images_high": "high", "images_std": "std"}
    effects = {"mde_seeds": "seeds", "mde_images": "images"}
    writer.writerow(
        [*fields, "metric", "mean", "std", *columns, *of_images, *effects, *costs]
    )
    for record in records:
        for metric, figures in record["metrics"].items():
            difference = figures["difference"]
            writer.writerow(
                [
                    *(record[field] for field in fields),
                    metric,
                    figures["mean"],
                    figures["std"],
                    *(difference[name] for name in columns.values()),
                    *((figures["bootstrap"] or {}).get(n) for n in of_images.values()),
                    *(figures["mde"][name] for name in effects.values()),
                    *(record["cost"].get(name) for name in costs),
                ]
            )
    return text.getvalue()
