"""The optimizer and its learning-rate schedule, from `config`."""

import jax
import jax.numpy as jnp
import optax

from borrow_det.errors import InputError, check_choice


def make_schedule(config) -> optax.Schedule:
    """Learning rate against the step, counted from 0: warm-up times decay.

    The warm-up rises linearly to 1 within the first `schedule.warmup_steps` steps (of
    the run, if that is shorter), the first of which has a rate already. The decay is
    `factor` for every boundary reached (`step`; also during the warm-up), or half a
    cosine from the warm-up's end to zero at `num_steps` (`cosine`).

    Raises:
      InputError: a field of `schedule` is out of its range.
    """
    schedule, steps = config.schedule, config.num_steps
    _check(schedule)
    warmup = min(schedule.warmup_steps, steps)
    boundaries = [round(share * steps) for share in schedule.boundaries]

    def rate(step):
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


def _check(schedule):
    """Raises InputError unless the fields of `config.schedule` make sense."""
    check_choice("schedule.name", schedule.name, ("step", "cosine"))
    if schedule.warmup_steps < 0:
        raise InputError(
            f"schedule.warmup_steps is {schedule.warmup_steps}; it must be 0 or more"
        )
    if not schedule.factor > 0:
        raise InputError(f"schedule.factor is {schedule.factor}; it must be positive")
    shares = tuple(schedule.boundaries)
    if not all(0 < share <= 1 for share in shares) or list(shares) != sorted(shares):
        raise InputError(
            f"schedule.boundaries is {shares}; they must be shares of num_steps above "
            "0 and up to 1, in rising order"
        )


def make_optimizer(config) -> optax.GradientTransformation:
    """SGD with momentum, or AdamW; gradients are clipped first if asked for.

    Weight decay acts on kernels only. SGD's is the L2 term of SSD's training (added
    to the gradient, before momentum), AdamW's is decoupled.

    Raises:
      InputError: `optimizer.name` is unknown, or the schedule's fields are unsound.
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
    return optax.chain(clip, rule)


def decay_mask(params):
    """True where weight decay acts: on kernels, not on biases, scales, temperatures."""

    def is_kernel(path, _):
        return path[-1].key == "kernel"

    return jax.tree_util.tree_map_with_path(is_kernel, params)
