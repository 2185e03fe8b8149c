"""One training step, for every task: the state, and what a batch does to it."""

import dataclasses
import functools
from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp
import optax
from jax import Array

from borrow_det.distributed import mesh as mesh_lib
from borrow_det.ops import collectives
from borrow_det.optimizer import make_optimizer


class TrainState(flax.struct.PyTreeNode):
    """All that a run needs to go on; donated to each step."""

    step: Array  # int32 []
    params: dict
    batch_stats: dict
    ema_params: dict  # Empty where no average is kept.
    opt_state: optax.OptState
    key_data: Array  # uint32, of the key from which each step's is folded.

    @property
    def variables(self) -> dict:
        """What is trained."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def eval_variables(self) -> dict:
        """What is evaluated: the averaged parameters where there are any."""
        params = self.ema_params or self.params
        return {"params": params, "batch_stats": self.batch_stats}


def init_state(task, config, mesh) -> TrainState:
    """A fresh state, laid out on the mesh."""
    return place(draw_state(task, config), mesh)


def draw_state(task, config) -> TrainState:
    """A fresh state's values, on the host.

    Drawn on one device, so that they do not depend on how many there are; every process
    draws the same.
    """
    return jax.device_get(_fresh_state(task, config))


def place(state: TrainState, mesh) -> TrainState:
    """Lays a state that every process has on the mesh."""
    return mesh_lib.put(state, mesh_lib.split_state(mesh, state))


def abstract_state(task, config, mesh) -> TrainState:
    """The shapes of a state, and where its arrays lie; no value is drawn."""
    shapes = jax.eval_shape(lambda: _fresh_state(task, config))
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        shapes,
        mesh_lib.split_state(mesh, shapes),
    )


def _fresh_state(task, config) -> TrainState:
    # The rbg generator compiles several times faster than threefry.
    key = jax.random.key(config.seed, impl="rbg")
    variables = jax.jit(task.init)(key)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        ema_params=params if config.ema_decay else {},
        opt_state=make_optimizer(config).init(params),
        key_data=jax.random.key_data(jax.random.key(config.seed)),
    )


def make_train_step(task, config, mesh) -> Callable:
    """The compiled step: (state, batch) -> (state, metrics); the state is donated."""
    layout = mesh_lib.split_state(mesh, abstract_state(task, config, mesh))
    step = functools.partial(train_step, task, config, mesh)
    return jax.jit(
        step,
        in_shardings=(layout, mesh_lib.split_batch(mesh)),
        out_shardings=(layout, mesh_lib.replicated(mesh)),
        donate_argnums=0,
    )


def train_step(
    task, config, mesh, state: TrainState, batch: dict[str, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """One pure update; every random key is folded from the seed and the step."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
    # Gathered once, before any pass, and the gradient is scattered again once, after
    # the last.
    whole = jax.lax.with_sharding_constraint(state.params, mesh_lib.replicated(mesh))
    gradient = mesh_lib.on_each_device(
        functools.partial(gradient_of_rows, task, config),
        mesh,
        split=(False, False, False, True),
        out_split=False,
    )
    grads, terms, batch_stats, totals = gradient(key, whole, state.batch_stats, batch)
    grads = jax.lax.with_sharding_constraint(grads, mesh_lib.split_state(mesh, grads))
    updates, opt_state = make_optimizer(config).update(
        grads, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    ema_params = (
        optax.incremental_update(params, state.ema_params, 1 - config.ema_decay)
        if config.ema_decay
        else {}
    )
    metrics = {name: value for name, value in terms.items() if name == "loss"}
    metrics |= {f"loss/{n}": v for n, v in terms.items() if n != "loss"}
    metrics["gradient_norm"] = optax.global_norm(grads)
    metrics |= task.step_metrics(totals)
    return dataclasses.replace(
        state,
        step=state.step + 1,
        params=params,
        batch_stats=batch_stats,
        ema_params=ema_params,
        opt_state=opt_state,
    ), metrics


def gradient_of_rows(task, config, key, params, batch_stats, batch):
    """What a batch says, of which this device has its rows; all of them run it.

    Returns (gradients, loss terms, batch statistics, totals), of the whole batch.
    """
    axes = collectives.device_axes()
    examples, totals = task.prepare(key, batch)
    grads, terms, batch_stats = accumulate_gradients(
        functools.partial(task.loss, totals=totals),
        # As the device's own: the gradient of what all have would be summed over them
        # in each pass, and in the type that the network computes in.
        jax.lax.pcast(params, axes, to="varying"),
        batch_stats,
        examples,
        config.micro_batch,
    )
    grads, terms = jax.lax.psum((grads, terms), axes)
    return grads, terms, batch_stats, totals


def accumulate_gradients(loss_fn, params, batch_stats, examples, micro_batch):
    """Gradient and loss terms of examples, summed over micro-batches of them.

    `loss_fn(params, batch_stats, examples)` must be a sum over examples. Returns
    (gradients, terms, batch statistics after the last micro-batch).
    """
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    rows = len(jax.tree.leaves(examples)[0])
    passes = rows // (micro_batch or rows)
    if passes <= 1:
        (_, (terms, stats)), grads = gradient(params, batch_stats, examples)
        return grads, terms, stats

    def one_pass(carry, micro):
        stats, *sums = carry
        (_, (terms, stats)), grads = gradient(params, stats, micro)
        sums = jax.tree.map(jnp.add, sums, [grads, terms])
        return (stats, *sums), None

    parts = jax.tree.map(lambda x: x.reshape(passes, -1, *x.shape[1:]), examples)
    first = jax.tree.map(lambda x: x[0], parts)
    (_, (terms, _)), grads = jax.eval_shape(gradient, params, batch_stats, first)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), [grads, terms])
    zeros = jax.lax.pcast(zeros, collectives.device_axes(), to="varying")
    carry, _ = jax.lax.scan(one_pass, (batch_stats, *zeros), parts)
    stats, grads, terms = carry
    return grads, terms, stats
