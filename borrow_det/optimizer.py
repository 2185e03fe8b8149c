"""The optimizer and its learning-rate schedule, from `config`."""

import jax
import optax

from borrow_det.errors import InputError


def make_schedule(config) -> optax.Schedule:
    """Learning rate against the step: linear warm-up, then steps or a cosine to zero.

    Raises:
      InputError: `schedule.name` is unknown.
    """
    peak = config.optimizer.learning_rate
    schedule, steps = config.schedule, config.num_steps
    warmup = min(schedule.warmup_steps, steps)
    if schedule.name == "cosine":
        after = optax.cosine_decay_schedule(peak, max(1, steps - warmup))
    elif schedule.name == "step":
        # Boundaries are shares of the whole run; optax counts from the warm-up's end.
        after = optax.piecewise_constant_schedule(
            peak,
            {
                round(share * steps) - warmup: schedule.factor
                for share in schedule.boundaries
            },
        )
    else:
        raise InputError(
            f"schedule.name is {schedule.name!r}; it must be step or cosine"
        )
    rise = optax.linear_schedule(0.0, peak, max(1, warmup))
    return optax.join_schedules([rise, after], [warmup])


def make_optimizer(config) -> optax.GradientTransformation:
    """SGD with momentum, or AdamW; gradients are clipped first if asked for.

    Weight decay acts on kernels only. SGD's is the L2 term of SSD's training (added
    to the gradient, before momentum), AdamW's is decoupled.

    Raises:
      InputError: `optimizer.name` is unknown.
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
    if optimizer.clip_norm > 0:
        return optax.chain(optax.clip_by_global_norm(optimizer.clip_norm), rule)
    return rule


def decay_mask(params):
    """True where weight decay acts: on kernels, not on biases, scales, temperatures."""

    def is_kernel(path, _):
        return path[-1].key == "kernel"

    return jax.tree_util.tree_map_with_path(is_kernel, params)
