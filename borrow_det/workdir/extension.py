"""More steps for a run: the learning-rate schedule from the present step on."""

import os
from collections.abc import Callable

import ml_collections

from borrow_det.errors import InputError, check_choice
from borrow_det.workdir import checkpoints, metadata

RESTART, CONTINUE = "restart", "continue"

# (configuration, step counted from 0) -> learning rate.
Rate = Callable[[ml_collections.ConfigDict, int], float]


def with_restarts(
    config: ml_collections.ConfigDict, workdir: str | os.PathLike, rate: Rate
) -> tuple[ml_collections.ConfigDict, str]:
    """Returns the config of a run that resumes, with the restarts of its schedule.

    Restarts that an earlier start has added are kept. A finished run that gets more
    steps gets another one with `schedule.extend=restart`.

    Args:
      config: the configuration, which has the number of steps.
      workdir: the work directory, which has checkpoints.
      rate: computes the learning rate of a step.

    Returns:
      The config, and a line about a change of the schedule; "" without a change.

    Raises:
      InputError: the run is finished and gets more steps, and `schedule.extend` is
        empty.
    """
    extend = config.schedule.extend
    check_choice("schedule.extend", extend, ("", RESTART, CONTINUE))
    stored, step = metadata.load_config(workdir), checkpoints.newest_step(workdir)
    given, kept = tuple(config.schedule.restarts), tuple(stored.schedule.restarts)
    # A later start without the flag keeps the latest choice.
    config = config.copy_and_resolve_references()
    config.schedule.extend = extend or stored.schedule.extend
    continued = _restarting(config, kept if kept[: len(given)] == given else given)
    if not step or config.num_steps <= step:
        return continued, ""
    # The schedule as it was, and as it would be, at the next step.
    before, after = rate(stored, step), rate(continued, step)
    if step < stored.num_steps:
        return continued, _describe_unfinished(stored, continued, step, before, after)
    restarts = {*continued.schedule.restarts, step}
    restarted = _restarting(config, tuple(sorted(restarts)))
    added, length = config.num_steps - step, f"{config.num_steps:,} steps"
    if not extend:
        raise InputError(
            f"{workdir} has finished its {step:,} steps, and the learning rate of its "
            f"schedule is {before:.3g} at the next: to train to {length}, set "
            f"--config.schedule.extend={RESTART}, which starts warm-up and schedule "
            f"anew over the {added:,} added steps ({rate(restarted, step):.3g} at the "
            f"next step), or {CONTINUE}, which follows the schedule of a run of "
            f"{length} from there on ({after:.3g} at the next step)"
        )
    chosen = restarted if extend == RESTART else continued
    return chosen, (
        f"extending the run by {added:,} steps to {config.num_steps:,} (schedule."
        f"extend={extend}): the learning rate at the next step is "
        f"{rate(chosen, step):.3g} in place of {before:.3g}"
    )


def _describe_unfinished(
    stored: ml_collections.ConfigDict,
    config: ml_collections.ConfigDict,
    step: int,
    before: float,
    after: float,
) -> str:
    extend = config.schedule.extend
    parts = []
    if extend and extend != stored.schedule.extend:
        parts.append(
            f"schedule.extend={extend} changes nothing, as the run is at step {step:,} "
            f"of {stored.num_steps:,} and not finished"
        )
    if stored.num_steps != config.num_steps and before != after:
        parts.append(
            f"num_steps was {stored.num_steps:,} and is now {config.num_steps:,}: the "
            f"learning rate at the next step is {after:.3g} in place of {before:.3g}"
        )
    return "; ".join(parts)


def _restarting(
    config: ml_collections.ConfigDict, restarts: tuple[int, ...]
) -> ml_collections.ConfigDict:
    config = config.copy_and_resolve_references()
    config.schedule.restarts = restarts
    return config
