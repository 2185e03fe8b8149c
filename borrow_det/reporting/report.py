"""What a run leaves for a person: a sheet of its scenes, curves, and a short report."""

from collections.abc import Mapping, Sequence

from borrow_det.io import paths
from borrow_det.tasks.task import Evaluator
from borrow_det.visualization import annotate
from borrow_det.visualization import curves as curves_lib
from borrow_det.visualization.tables import markdown_report, per_class_table
from borrow_det.workdir import metadata

# Classes of a table that still suits the console; report.md holds them all.
_CONSOLE_CLASSES = 30


def write_contact_sheet(
    evaluator: Evaluator, split, config, workdir: paths.Path
) -> None:
    """Draws the first `report.contact_sheet` training images and what they show."""
    count = min(config.report.contact_sheet, len(split))
    if not count:
        return
    scenes = [evaluator.scene(split, i) for i in range(count)]
    sheet = annotate.contact_sheet(scenes, columns=max(1, round(count**0.5)))
    annotate.write_image(workdir / "contact_sheet.png", sheet)


def write_report(
    evaluators: Sequence[Evaluator],
    workdir: paths.Path,
    metrics: Mapping[str, Mapping[str, float]],
    compared: Mapping[str, float],
) -> str:
    """Writes `report.md` and the learning curves; returns the text for the console.

    Both hold the splits' figures, the details of them, what splits give together
    (`compared`, by `SPLIT/NAME`), then the figures of each class, a table a split; long
    ones are left out of the console's text, which ends with where everything lies.
    """
    splits = [evaluator.split for evaluator in evaluators]
    lines = {}
    for split in splits:
        lines |= split.reference_lines
    figures = evaluators[0].figures
    texts = [markdown_report(metrics, lines, figures.report)]
    texts += _details(figures.details, metrics, compared)
    config = metadata.load_config(workdir)
    if config.report.curves:
        curves_lib.learning_curves(
            workdir / "metrics.jsonl", workdir / "learning_curves.png"
        )
    places = {
        "learning curves": "learning_curves.png",
        "training scenes": "contact_sheet.png",
        f"pictures, figures and {evaluators[0].results_name}": "evaluations",
        "checkpoints": "checkpoints",
    }
    found = [
        f"{what}: {workdir / name}"
        for what, name in places.items()
        if (workdir / name).exists()
    ]
    complete, shown = list(texts), list(texts)
    for split in splits if figures.per_class else ():
        table = per_class_table(
            metrics[split.name], split.class_names, figures.per_class
        )
        table = f"{split.name}, class by class:\n\n{table}"
        complete.append(table)
        if len(split.class_names) <= _CONSOLE_CLASSES:
            shown.append(table)
    report = "\n\n".join(complete) + "\n"
    paths.write_whole(workdir / "report.md", report)
    return "\n\n".join([*shown, "\n".join(found)])


def _details(fields, metrics, compared):
    """The tables of splits that come after the first, of what there is."""
    tables = []
    if any(field in figures for figures in metrics.values() for field in fields):
        tables.append(markdown_report(metrics, {}, fields))
    splits = {}
    for name, value in compared.items():
        split, _, field = name.rpartition("/")
        splits.setdefault(split, {})[field] = value
    if splits:
        fields = list(dict.fromkeys(f for figures in splits.values() for f in figures))
        tables.append(markdown_report(splits, {}, fields))
    return tables
