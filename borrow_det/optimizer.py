"""The optimizer and its learning-rate schedule."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax
from jax import Array

from borrow_det.errors import InputError, check_choice
from borrow_det.ops import subtrees


def make_schedule(config: ml_collections.ConfigDict) -> optax.Schedule:
    """Returns the learning rate as a function of the step, counted from 0.

    It is the product of warm-up and decay. The warm-up rises linearly to 1 over the
    first `schedule.warmup_steps` steps (at most `num_steps`) and is above 0 from the
    first step on. The decay is `factor` for every boundary reached (`step`; also during
    the warm-up), or half a cosine from the end of the warm-up to zero at `num_steps`
    (`cosine`). At each of `schedule.restarts` the schedule starts anew, over the steps
    until the next restart or `num_steps`.

    Raises:
      InputError: a field of `schedule` is out of its range.
    """
    _check(config.schedule)
    restarts = [s for s in config.schedule.restarts if s < config.num_steps]
    starts, ends = [0, *restarts], [*restarts, config.num_steps]
    first, *others = (
        _unbroken_schedule(config, end - start)
        for start, end in zip(starts, ends, strict=True)
    )
    if not others:
        return first

    def rate(step: int | Array) -> Array:
        step = jnp.asarray(step)
        value = first(step)
        for start, schedule in zip(restarts, others, strict=True):
            value = jnp.where(step >= start, schedule(step - start), value)
        return value

    return rate


def rate_at(config: ml_collections.ConfigDict, step: int) -> float:
    """Returns the learning rate of a step, counted from 0."""
    return float(make_schedule(config)(step))


def _unbroken_schedule(
    config: ml_collections.ConfigDict, steps: int
) -> Callable[[int | Array], Array]:
    """Returns warm-up and decay over a number of steps."""
    schedule = config.schedule
    warmup = min(schedule.warmup_steps, steps)
    boundaries = [round(share * steps) for share in schedule.boundaries]

    def rate(step: int | Array) -> Array:
        step = jnp.asarray(step).astype(jnp.float32)
        value = config.optimizer.learning_rate * jnp.minimum(
            (step + 1) / max(1, warmup), 1
        )
        if schedule.name == "cosine":
            share = jnp.clip((step - warmup) / max(1, steps - warmup), 0, 1)
            return value * (1 + jnp.cos(jnp.pi * share)) / 2
        for boundary in boundaries:
            value *= jnp.where(step >= boundary, schedule.factor, 1.0)
        return value

    return rate


def _check(schedule: ml_collections.ConfigDict) -> None:
    """Raises InputError if a field of `config.schedule` is out of its range."""
    check_choice("schedule.name", schedule.name, ("step", "cosine"))
    if schedule.warmup_steps < 0:
        raise InputError(
            f"schedule.warmup_steps is {schedule.warmup_steps}; it must be 0 or more"
        )
    if not schedule.factor > 0:
        raise InputError(f"schedule.factor is {schedule.factor}; it must be positive")
    starts = tuple(schedule.restarts)
    whole = all(isinstance(start, int) and start > 0 for start in starts)
    if not whole or list(starts) != sorted(set(starts)):
        raise InputError(
            f"schedule.restarts is {starts}; it must hold numbers of steps above 0, in "
            "ascending order"
        )
    shares = tuple(schedule.boundaries)
    if not all(0 < share <= 1 for share in shares) or list(shares) != sorted(shares):
        raise InputError(
            f"schedule.boundaries is {shares}; it must hold shares of num_steps above "
            "0 and up to 1, in ascending order"
        )


def make_optimizer(
    config: ml_collections.ConfigDict, stages: Iterable[Collection[str]]
) -> optax.GradientTransformation:
    """Returns SGD with momentum, or AdamW; gradients are clipped first if configured.

    Weight decay acts on kernels only. SGD's is the L2 term of SSD's training, added to
    the gradient before momentum; AdamW's is decoupled. Both are multiplied by the
    learning rate, and so, in the trunk, by `optimizer.trunk_rate` and `layer_decay`.

    Args:
      config: the configuration of a run.
      stages: paths of the modules of each stage of the trunk; see `Task`.

    Raises:
      InputError: `optimizer.name` is unknown, or a field of the schedule is wrong.
    """
    optimizer, schedule = config.optimizer, make_schedule(config)
    if optimizer.name == "sgd":
        rule = optax.chain(
            optax.add_decayed_weights(optimizer.weight_decay, decay_mask),
            optax.sgd(schedule, momentum=optimizer.momentum),
        )
    elif optimizer.name == "adamw":
        rule = optax.adamw(
            schedule,
            b1=optimizer.b1,
            b2=optimizer.b2,
            weight_decay=optimizer.weight_decay,
            mask=decay_mask,
        )
    else:
        raise InputError(
            f"optimizer.name is {optimizer.name!r}; it must be sgd or adamw"
        )
    clip = optax.identity()  # In its place, so that checkpoints fit either way.
    if optimizer.clip_norm > 0:
        clip = optax.clip_by_global_norm(optimizer.clip_norm)
    rates = _stage_rates(optimizer, stages)
    return _with_stage_rates(optax.chain(clip, rule), rates)


def _stage_rates(
    optimizer: ml_collections.ConfigDict, stages: Iterable[Collection[str]]
) -> dict[str, float]:
    """Returns the factor of the learning rate of each module of the trunk.

    `layer_decay` is that of Bao et al., BEiT (2022), per stage.
    """
    stages = tuple(stages)
    return {
        module: optimizer.trunk_rate * optimizer.layer_decay**deeper
        for deeper, stage in enumerate(reversed(stages))
        for module in stage
    }


def _with_stage_rates(
    rule: optax.GradientTransformation, rates: Mapping[str, float]
) -> optax.GradientTransformation:
    """Multiplies a rule's updates of modules, and so their learning rates, by factors.

    The state is the same with any factors, so that checkpoints fit.
    """
    if all(rate == 1 for rate in rates.values()):
        return rule

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = rule.update(grads, state, params)
        for rate in set(rates.values()) - {1.0}:
            modules = [module for module in rates if rates[module] == rate]
            _, inside = subtrees.split(updates, modules)
            inside = jax.tree.map(lambda x, rate=rate: rate * x, inside)
            updates = subtrees.merge(updates, inside)
        return updates, state

    return optax.GradientTransformation(rule.init, update)


def decay_mask(params: Any) -> Any:
    """Returns a tree that is True for kernels, on which weight decay acts."""

    def is_kernel(path: tuple[Any, ...], _: Any) -> bool:
        return path[-1].key == "kernel"

    return jax.tree_util.tree_map_with_path(is_kernel, params)
