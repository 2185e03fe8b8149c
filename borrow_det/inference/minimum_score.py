"""Minimum scores of detections: numbers, or names of operating points."""

from borrow_det.errors import InputError
from borrow_det.evaluation import curves
from borrow_det.workdir.operating_points import OperatingPoints


def parse(text: str, name: str) -> float | str:
    """Returns the value of a flag: a number, or the name of an operating point.

    Raises:
      InputError: it is neither; the message begins with `name`.
    """
    try:
        score = float(text)
    except ValueError:
        _check_name(text, name)
        return text
    return check(score, name)


def check(score: float, name: str = "score") -> float:
    """Returns a minimum score.

    Raises:
      InputError: it is not a number from 0 to 1; the message begins with `name`.
    """
    if not 0 <= score <= 1:
        raise InputError(f"{name}={score:g} is not a number from 0 to 1")
    return score


def look_up(name: str, known: OperatingPoints) -> float:
    """Returns the score of an operating point.

    Args:
      name: name of the point, such as "best_f1".
      known: the operating points of the checkpoint.

    Raises:
      InputError: the name is wrong, or the point is not known.
    """
    _check_name(name, "score")
    if name not in known.points:
        raise InputError(
            f"{known.workdir} has no operating point {name} of step {known.step}: run "
            f"`{_command(name, known)}` to store it"
        )
    return float(known.points[name]["score"])


def _check_name(text: str, name: str) -> None:
    try:
        curves.check_name(text)
    except InputError as error:
        raise InputError(
            f"{name}={text} is neither a number from 0 to 1 nor an operating point: "
            f"{curves.BEST_F1}, precision_0.9, recall_0.9 and the like"
        ) from error


def _command(name: str, known: OperatingPoints) -> str:
    command = f"borrow-det evaluate --workdir={known.workdir} --split={known.split}"
    command += f" --step={known.step}"
    if name != curves.BEST_F1:
        command += " --{}={:g}".format(*curves.wanted(name))
    return command
