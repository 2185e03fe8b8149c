"""One training step, for every task: the state, and its update by a batch."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from borrow_det.distributed import mesh as mesh_lib
from borrow_det.ops import collectives, subtrees
from borrow_det.optimizer import make_optimizer
from borrow_det.tasks.task import Task


class TrainState(flax.struct.PyTreeNode):
    """The state of a run between two steps; each step donates it."""

    step: Array  # int32 []
    params: dict
    batch_stats: dict
    ema_params: dict  # Of the parameters that are trained; empty if ema_decay is 0.
    opt_state: optax.OptState  # Of the parameters that are trained.
    key_data: Array  # uint32; each step folds its key from the key with this data.

    @property
    def variables(self) -> dict:
        """The variables of the last step."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def eval_variables(self) -> dict:
        """The variables that are evaluated: averaged parameters if present."""
        params = subtrees.merge(self.params, self.ema_params)
        return {"params": params, "batch_stats": self.batch_stats}


def init_state(task: Task, mesh: Mesh) -> TrainState:
    """Draws a fresh state and shards it over the mesh."""
    return shard_state(draw_state(task), mesh)


def draw_state(task: Task) -> TrainState:
    """Draws a fresh state on the host.

    It is drawn on one device, so that the values do not depend on the number of
    devices; every process draws the same.
    """
    return jax.device_get(_fresh_state(task))


def with_variables(task: Task, state: TrainState, variables: dict) -> TrainState:
    """Returns a fresh state that starts from other variables."""
    trained, _ = subtrees.split(variables["params"], task.frozen)
    averages = trained if state.ema_params else {}
    return dataclasses.replace(state, **variables, ema_params=averages)


def shard_state(state: TrainState, mesh: Mesh) -> TrainState:
    """Shards a state, complete in every process, over the mesh."""
    return mesh_lib.put(state, mesh_lib.state_shardings(mesh, state))


def abstract_state(task: Task, mesh: Mesh) -> TrainState:
    """Returns the shapes and shardings of a state, without values."""
    shapes = jax.eval_shape(lambda: _fresh_state(task))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        mesh_lib.state_shardings(mesh, shapes),
    )


def _fresh_state(task: Task) -> TrainState:
    config = task.config
    # The rbg generator compiles several times faster than threefry.
    key = jax.random.key(config.seed, impl="rbg")
    variables = jax.jit(task.init)(key)
    params = variables["params"]
    trained, _ = subtrees.split(params, task.frozen)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        ema_params=trained if config.ema_decay else {},
        opt_state=make_optimizer(config, task.stages).init(trained),
        key_data=jax.random.key_data(jax.random.key(config.seed)),
    )


def make_train_step(task: Task, mesh: Mesh, state: TrainState) -> Callable:
    """Compiles the step: (state, batch) -> (state, metrics); the state is donated.

    Args:
      task: the run's task.
      mesh: the run's mesh.
      state: a state, concrete or abstract; only its shapes are used.
    """
    shardings = mesh_lib.state_shardings(mesh, state)
    return jax.jit(
        functools.partial(train_step, task, mesh),
        in_shardings=(shardings, mesh_lib.batch_sharding(mesh)),
        out_shardings=(shardings, mesh_lib.replicated(mesh)),
        donate_argnums=0,
    )


def train_step(
    task: Task, mesh: Mesh, state: TrainState, batch: dict[str, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """Updates the state by one batch; a pure function.

    Every random key is folded from the seed and the step.
    """
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
    # Parameters are gathered once, before the first pass; the gradient is scattered
    # once, after the last.
    whole = jax.lax.with_sharding_constraint(state.params, mesh_lib.replicated(mesh))
    gradient = mesh_lib.on_each_device(
        functools.partial(gradient_of_rows, task),
        mesh,
        split=(False, False, False, True),
        out_split=False,
    )
    grads, terms, batch_stats, totals = gradient(key, whole, state.batch_stats, batch)
    grads = jax.lax.with_sharding_constraint(
        grads, mesh_lib.state_shardings(mesh, grads)
    )
    return (
        update(task, state, grads, batch_stats),
        step_metrics(task, grads, terms, totals),
    )


def update(task: Task, state: TrainState, grads: dict, batch_stats: dict) -> TrainState:
    """Returns the state after a step with this gradient and these batch statistics."""
    config = task.config
    trained, frozen = subtrees.split(state.params, task.frozen)
    updates, opt_state = make_optimizer(config, task.stages).update(
        grads, state.opt_state, trained
    )
    trained = optax.apply_updates(trained, updates)
    ema_params = (
        optax.incremental_update(trained, state.ema_params, 1 - config.ema_decay)
        if config.ema_decay
        else {}
    )
    return dataclasses.replace(
        state,
        step=state.step + 1,
        params=subtrees.merge(trained, frozen),
        batch_stats=batch_stats,
        ema_params=ema_params,
        opt_state=opt_state,
    )


def step_metrics(
    task: Task, grads: dict, terms: dict[str, Array], totals: dict[str, Array]
) -> dict[str, Array]:
    """Returns the metrics of a step: loss terms, norm of the gradient, the task's."""
    metrics = {name: value for name, value in terms.items() if name == "loss"}
    metrics |= {f"loss/{n}": v for n, v in terms.items() if n != "loss"}
    metrics["gradient_norm"] = optax.global_norm(grads)
    return metrics | task.step_metrics(totals)


def gradient_of_rows(
    task: Task, key: Array, params: dict, batch_stats: dict, batch: dict[str, Array]
) -> tuple[dict, dict[str, Array], dict, dict[str, Array]]:
    """Computes the gradient of a batch; every device runs it on its own rows.

    Returns:
      (gradients, loss terms, batch statistics, totals) of the global batch; the
      gradients are those of the parameters that are trained.
    """
    axes = collectives.device_axes()
    examples, totals = task.prepare(key, batch)
    # Marked as varying over devices: otherwise each pass would sum the gradient over
    # them, in the type that the network computes in.
    params = jax.lax.pcast(params, axes, to="varying")
    trained, frozen = subtrees.split(params, task.frozen)

    def loss(trained: dict, batch_stats: dict, examples: Any) -> tuple:
        params = subtrees.merge(trained, frozen)
        return task.loss(params, batch_stats, examples, totals)

    grads, terms, batch_stats = accumulate_gradients(
        loss, trained, batch_stats, examples, task.config.micro_batch
    )
    grads, terms = jax.lax.psum((grads, terms), axes)
    return grads, terms, batch_stats, totals


def accumulate_gradients(
    loss_fn: Callable, params: dict, batch_stats: dict, examples: Any, micro_batch: int
) -> tuple[dict, dict[str, Array], dict]:
    """Sums the gradient and the loss terms of examples over micro-batches.

    Args:
      loss_fn: (params, batch_stats, examples) -> (loss, (terms, batch_stats)), sums
        over examples.
      params: the parameters.
      batch_stats: the batch statistics before the first micro-batch.
      examples: the examples; every leaf has them as its leading axis.
      micro_batch: examples in a pass; 0 for all at once.

    Returns:
      (gradients, terms, batch statistics after the last micro-batch).
    """
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    rows = len(jax.tree.leaves(examples)[0])
    passes = rows // (micro_batch or rows)
    if passes <= 1:
        (_, (terms, stats)), grads = gradient(params, batch_stats, examples)
        return grads, terms, stats

    def one_pass(carry: tuple, micro: Any) -> tuple[tuple, None]:
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
