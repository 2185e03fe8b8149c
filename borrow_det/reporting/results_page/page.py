"""The results page of one evaluation: one HTML file, which works offline.

The page contains its pictures, its style and its script. Its policy
(Content-Security-Policy) forbids loading or running anything else, since names of files
and classes are untrusted text. Without scripts it is a plain document.
"""

import html
import os
import pathlib
import shlex
import urllib.parse
from collections.abc import Mapping, Sequence

import ml_collections
import numpy as np

from borrow_det import evaluate
from borrow_det.evaluate import Evaluated
from borrow_det.evaluation import errors, image_choice, outcomes, pairing
from borrow_det.evaluation.curves import BEST_F1
from borrow_det.io import json_files, paths
from borrow_det.reporting import html_page
from borrow_det.reporting.results_page import pictures, sections
from borrow_det.tasks.detection_evaluator import DetectionEvaluator, sized
from borrow_det.tasks.task import Evaluator

_PARTS = pathlib.Path(__file__).parent


def write(done: Evaluated, workdir: paths.Path) -> paths.Path | None:
    """Writes the page of an evaluation, STEP.html next to its metrics.

    Args:
      done: a complete evaluation.
      workdir: the run's work directory.

    Returns:
      The file; None if the evaluation has no page (see `_has_page`).
    """
    if not _has_page(done):
        return None
    page = evaluate.page_path(done.path)
    paths.write_whole(page, _Content(done, workdir).render(page.parent))
    return page


def write_run(
    evaluators: Sequence[Evaluator],
    workdir: paths.Path,
    step: int,
    metrics: Mapping[str, Mapping[str, float]],
    compared: Mapping[str, float],
    best: int,
) -> None:
    """Writes the pages of a finished run's evaluations, and `results.html`.

    `results.html` is the page of the first split at the last step, with a table of
    the evaluations at the last step and at the best one.

    Args:
      evaluators: the evaluators of the splits.
      workdir: the run's work directory.
      step: the last step.
      metrics: the metrics of each split at the last step.
      compared: the metrics at the last step that compare splits, by `SPLIT/NAME`.
      best: the best step; it may be the last one.
    """
    last = [
        Evaluated(e, step, _metrics_path(workdir, e, step), dict(metrics[e.split.name]))
        for e in evaluators
    ]
    earlier = {e: _metrics_path(workdir, e, best) for e in evaluators if best != step}
    others = [
        Evaluated(evaluator, best, path, evaluate.read_metrics(path))
        for evaluator, path in earlier.items()
        if paths.exists(path)
    ]
    evaluations = [done for done in (*last, *others) if _has_page(done)]
    for i, done in enumerate(evaluations):
        content = _Content(done, workdir)
        if i == 0:  # The other pages link to it.
            table = _evaluations(evaluations, workdir) + sections.comparison(compared)
            overview = content.render(workdir, table)
            paths.write_whole(workdir / "results.html", overview)
        page = evaluate.page_path(done.path)
        paths.write_whole(page, content.render(page.parent))


def _metrics_path(workdir: paths.Path, evaluator: Evaluator, step: int) -> paths.Path:
    return evaluate.metrics_path(workdir, evaluator.split.name, step)


def _has_page(done: Evaluated) -> bool:
    """Returns false for classification, for report.page_images=0 and without analysis.

    Evaluations of earlier versions have no analysis.
    """
    return (
        isinstance(done.evaluator, DetectionEvaluator)
        and done.evaluator.config.report.page_images > 0
        and paths.exists(evaluate.analysis_path(done.path))
    )


class _Content:
    """The content of a page, without links that depend on its folder."""

    def __init__(self, done: Evaluated, workdir: paths.Path):
        """Reads the files of an evaluation."""
        evaluator = done.evaluator
        assert isinstance(evaluator, DetectionEvaluator)
        self._step, self._workdir, self._evaluator = done.step, workdir, evaluator
        config, split = evaluator.config, evaluator.split
        names = split.class_names
        analysis = evaluate.read_analysis(done.path)
        point = analysis["operating_points"][BEST_F1]
        best = point["score"] if point else 0.0
        thresholds = outcomes.thresholds(best)
        start = int(np.searchsorted(thresholds, best))
        found, shown = _outcomes(evaluator, done.path, thresholds)
        chosen = image_choice.choose(
            found, shown.places, names, start, config.report.page_images
        )
        limit = config.evaluation.max_detections
        self._parts = {
            "Figures": '<div class="tables">\n'
            + sections.figures(done.metrics, limit)
            + sections.classes(done.metrics, names, analysis["by_class"])
            + "</div>\n",
            "Curves": sections.operating_points(analysis)
            + sections.curves(analysis, best),
            "Confusion matrix": sections.confusion(analysis),
            "Errors": sections.errors(analysis),
            "Pictures": _pictures(len(chosen), len(split), point is not None)
            + "".join(pictures.sections(split, shown, chosen, start)),
        }
        counted = int(found.object_counts.sum())
        self._about = (
            f"{split.dataset} {split.name}: {len(split)} images, {counted} objects, "
            f"{len(names)} {'class' if len(names) == 1 else 'classes'}. A detection "
            f"finds an object of its class at an IoU of at least {analysis['iou']:g}. "
            + (f"The best F1 is at a score of {best:.3f}." if point else "")
            + _tiles(config)
        )
        self._constants = {
            **outcomes.table(found, len(names)),
            "classes": names,
            "sizes": outcomes.SIZES,
            "kinds": outcomes.DETECTION_KINDS,
            "thresholds": thresholds.tolist(),
            "start": start,
            "least": pictures.LEAST_SCORE,
        }

    def render(self, folder: paths.Path, evaluations: str = "") -> str:
        """Returns the page.

        Args:
          folder: folder of the page, for relative links.
          evaluations: tables of all evaluations, as HTML; "" for none, and for a link
            to the page that has them.
        """
        parts = dict(self._parts)
        if evaluations:
            parts = {"Evaluations": evaluations} | parts
        link = "" if evaluations else link_to_run(self._workdir, folder)
        split = self._evaluator.split.name
        fields = {
            "ABOUT": html.escape(self._about),
            "LINKS": html_page.links(parts) + link,
            "EXPLAIN": self._explain(folder),
            "SECTIONS": html_page.sections(parts),
        }
        title = f"Results of {split} at step {self._step}"
        return html_page.page(_PARTS, title, fields, {"RESULTS": self._constants})

    def _explain(self, folder: paths.Path) -> str:
        """Returns a link to the page of explain, or the command that makes it."""
        if not self._evaluator.config.borrow.enabled:
            return ""
        page = explain_page(self._workdir)
        if paths.exists(page):
            link = _link("features that small detections borrowed", page, folder)
            return f'<p class="explain">More about this run: {link}.</p>\n'
        command = shlex.join(
            [
                *("borrow-det", "explain", f"--workdir={self._workdir}"),
                *(f"--output={page.parent}", f"--split={self._evaluator.split.name}"),
            ]
        )
        return (
            '<p class="explain">To see which features small detections borrowed: '
            f"<code>{html.escape(command)}</code></p>\n"
        )


def _outcomes(
    evaluator: DetectionEvaluator, path: paths.Path, thresholds: np.ndarray
) -> tuple[outcomes.Outcomes, pictures.Pictures]:
    """Reads the detections of an evaluation, and finds their outcomes.

    Args:
      evaluator: the evaluator of the split.
      path: the file of the metrics.
      thresholds: minimum scores, rising.
    """
    results = json_files.read(evaluate.results_path(evaluator, path))
    truth, detections = sized(evaluator.truth, results, evaluator.config)
    limit = evaluator.config.evaluation.max_detections
    pairs = pairing.pair(truth, detections, max_detections=limit)
    kinds = errors.kinds(truth, detections, pairs)
    found = outcomes.outcomes(truth, detections, pairs, kinds, thresholds)
    return found, pictures.Pictures(truth, detections, found)


def explain_page(workdir: paths.Path) -> paths.Path:
    """Returns the page of `explain` that the results pages of a run link to."""
    return workdir / "explain" / "index.html"


def link_to_run(workdir: paths.Path, folder: paths.Path) -> str:
    """Returns a link to a run's results.html for a page in another folder.

    It is "" if the run has no such page, or has it in a bucket and the folder is local.
    """
    page = workdir / "results.html"
    if paths.is_remote(page) != paths.is_remote(folder) or not paths.exists(page):
        return ""
    return _link("results of the run", page, folder)


def _evaluations(evaluations: Sequence[Evaluated], folder: paths.Path) -> str:
    """Returns the table of evaluations, with links to their pages."""
    fields = [
        field
        for field in DetectionEvaluator.figures.report
        if any(field in done.metrics for done in evaluations)
    ]
    rows = [
        [
            _link(done.evaluator.split.name, evaluate.page_path(done.path), folder),
            str(done.step),
            *(sections.number(done.metrics.get(field)) for field in fields),
        ]
        for done in evaluations
    ]
    several = len({done.step for done in evaluations}) > 1
    caption = "The last step and the best one" if several else "The last step"
    return html_page.number_table(("split", "step", *fields), rows, caption)


def _tiles(config: ml_collections.ConfigDict) -> str:
    """Returns a sentence about the views of an image; "" for the entire image only."""
    settings = config.evaluation
    if not settings.tiles:
        return ""
    return (
        f" Detections are those of tiles ({settings.tiles}, with an overlap of "
        f"{settings.tile_overlap:g} of their sides) and of the entire image, merged."
    )


def _pictures(shown: int, images: int, has_best: bool) -> str:
    """Returns the text above the pictures; `has_best`: there is a best F1."""
    start = "the best F1" if has_best else "zero, as there is no best F1,"
    which = (
        "All images of the split"
        if shown == images
        else f"{shown} of the {images} images of the split, chosen by their errors"
    )
    return (
        f"<p>{which}. Counts are those of all images. The size of a hit is that of its "
        "object, the size of a false positive that of its box. The threshold starts at "
        f"{start} and moves in steps of 0.01.</p>\n"
        "<noscript><p>Boxes and other thresholds need JavaScript.</p></noscript>\n"
    )


def _link(text: str, target: paths.Path, folder: paths.Path) -> str:
    """Returns a link to a file, relative to the folder of the page."""
    relative = os.path.relpath(os.fspath(target), os.fspath(folder))
    address = urllib.parse.quote(os.fsencode(relative))
    return f'<a href="{address}">{html.escape(text)}</a>'
