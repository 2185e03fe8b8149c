"""The plots of an evaluation: curves and confusion matrix, one picture each."""

from typing import Any

from borrow_det import evaluate
from borrow_det.io import paths
from borrow_det.visualization import confusion_matrix, score_curves


def write(path: paths.Path, split: Any) -> None:
    """Writes the plots of an evaluation to `STEP.plots/`, next to its metrics.

    They are `precision_recall.png`, `scores.png` (F1, precision and recall over the
    minimum score) and `confusion_matrix.png`. An evaluation without an analysis has
    none.

    Args:
      path: the file of the metrics.
      split: the split that was evaluated.
    """
    analysis = evaluate.read_analysis(path)
    if not analysis:
        return
    folder = evaluate.plots_folder(path)
    paths.make_folder(folder)
    title = f"{split.dataset} {split.name}, step {path.stem}, IoU {analysis['iou']:g}"
    score_curves.precision_recall(analysis, folder / "precision_recall.png", title)
    score_curves.over_score(analysis, folder / "scores.png", title)
    confusion = analysis["confusion"]
    if confusion["score"] is not None:
        title += f", score {confusion['score']:.3f} (best F1)"
    confusion_matrix.confusion_matrix(confusion, folder / "confusion_matrix.png", title)
