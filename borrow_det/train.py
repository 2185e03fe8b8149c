"""The training loop, one for every task: state, step, hooks."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import time
from collections.abc import Callable

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import parameter_overview
from jax import Array

from borrow_det import (
    checkpoints,
    config_check,
    evaluate,
    initialization,
    report,
    sharding,
)
from borrow_det import workdir as workdir_lib
from borrow_det.console import Console
from borrow_det.metric_writer import MetricWriter
from borrow_det.optimizer import make_optimizer, make_schedule
from borrow_det.tasks import classification, detection

TASKS = {
    "detection": detection.DetectionTask,
    "classification": classification.ClassificationTask,
}


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


def train_and_evaluate(config, workdir: str | os.PathLike) -> dict[str, dict]:
    """Trains to `config.num_steps`, from the newest checkpoint if there is one.

    Returns the last evaluation's metrics of each of `dataset.eval_splits`.

    Raises:
      InputError: the configuration, the data or the work directory is wrong.
      FloatingPointError: the loss is not finite; names the range of steps.
    """
    mesh = sharding.make_mesh(config.mesh)
    config_check.check(config, TASKS, mesh.shape["data"])
    evaluate.check_splits(tuple(config.dataset.eval_splits))
    config = initialization.resolve_normalization(config, workdir)
    task_class = TASKS[config.task]
    data = task_class.open(config)
    classes = workdir_lib.Classes(data.train.class_names, data.train.category_ids)
    task = task_class(config, len(classes.class_names))
    # What does not fit is refused before a work directory is made of it.
    shapes = jax.eval_shape(lambda: init_state(task, config, mesh))
    if config.init_from and not workdir_lib.has_checkpoints(workdir):
        initialization.start_from(
            config, classes, shapes.variables, checkpoints.variable_shapes
        )
    workdir = workdir_lib.prepare(workdir, config, classes, data.boxes)
    run = Run(config, workdir, task, mesh, data.train, data.eval_sets)
    try:
        return run.go()
    finally:
        run.close()


def init_state(task, config, mesh) -> TrainState:
    """A fresh state, replicated over the mesh."""
    # Drawn on one device, so that the values do not depend on how many there are.
    # The rbg generator compiles several times faster than threefry.
    key = jax.random.key(config.seed, impl="rbg")
    variables = jax.jit(task.init)(key)
    params = variables["params"]
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables["batch_stats"],
        # A copy: donated buffers must not be shared.
        ema_params=jax.tree.map(jnp.copy, params) if config.ema_decay else {},
        opt_state=make_optimizer(config).init(params),
        key_data=jax.random.key_data(jax.random.key(config.seed)),
    )
    return jax.device_put(state, sharding.replicated(mesh))


def make_train_step(task, config, mesh) -> Callable:
    """The compiled step: (state, batch) -> (state, metrics); the state is donated."""
    whole, split = sharding.replicated(mesh), sharding.split_batch(mesh)
    step = functools.partial(train_step, task, config, mesh)
    return jax.jit(
        step,
        in_shardings=(whole, split),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )


def train_step(
    task, config, mesh, state: TrainState, batch: dict[str, Array]
) -> tuple[TrainState, dict[str, Array]]:
    """One pure update; every random key is folded from the seed and the step."""
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
    examples, totals = task.prepare(key, batch)
    grads, terms, batch_stats = accumulate_gradients(
        functools.partial(task.loss, totals=totals), state, examples, config, mesh
    )
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


def accumulate_gradients(loss_fn, state: TrainState, examples, config, mesh):
    """Gradient and loss terms of a batch, summed over its micro-batches.

    `loss_fn(params, batch_stats, examples)` must be a sum over examples. Returns
    (gradients, terms, batch statistics after the last micro-batch).
    """
    gradient = jax.value_and_grad(loss_fn, has_aux=True)
    devices = mesh.shape["data"]
    passes = config.batch_size // devices // (config.micro_batch or config.batch_size)
    if passes <= 1:
        (_, (terms, stats)), grads = gradient(state.params, state.batch_stats, examples)
        return grads, terms, stats

    def split(x):
        # Each pass takes some of every device's own examples: none moves.
        x = x.reshape(devices, passes, -1, *x.shape[1:]).swapaxes(0, 1)
        x = x.reshape(passes, -1, *x.shape[3:])
        spec = jax.sharding.PartitionSpec(None, "data")
        return jax.lax.with_sharding_constraint(
            x, jax.sharding.NamedSharding(mesh, spec)
        )

    def one_pass(carry, micro):
        stats, *sums = carry
        (_, (terms, stats)), grads = gradient(state.params, stats, micro)
        sums = jax.tree.map(jnp.add, sums, [grads, terms])
        return (stats, *sums), None

    parts = jax.tree.map(split, examples)
    first = jax.tree.map(lambda x: x[0], parts)
    (_, (terms, _)), grads = jax.eval_shape(
        gradient, state.params, state.batch_stats, first
    )
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), [grads, terms])
    carry, _ = jax.lax.scan(one_pass, (state.batch_stats, *zeros), parts)
    stats, grads, terms = carry
    return grads, terms, stats


class Run:
    """One run in its work directory: the loop, and what happens between its steps."""

    def __init__(self, config, workdir, task, mesh, train_source, eval_sets):
        self.config = config
        self.workdir = workdir
        self.task = task
        self.mesh = mesh
        self.train_source = train_source
        self.eval_sets = eval_sets
        self.console = Console(config.num_steps)
        self.checkpoints = checkpoints.Checkpoints(
            workdir, every=config.checkpoint_every, keep=config.keep_checkpoints
        )
        self.state = self._initial_state()
        self.start = int(self.state.step)
        self.writer = MetricWriter(workdir, resume_step=self.start)
        self.train_step = make_train_step(task, config, mesh)
        self.predict = evaluate.make_predict(task, mesh)
        self.schedule = make_schedule(config)
        self.unchecked = []  # (step, metrics on the device) since the last check.
        self.unlogged = []  # Metrics that passed it, since the last line.
        self.metrics = {}
        self.compared = {}  # Metrics that splits give together.

    def _initial_state(self) -> TrainState:
        fresh = functools.partial(init_state, self.task, self.config, self.mesh)
        if self.checkpoints.latest_step is not None:
            # Shapes are enough: values would be compiled and drawn to be dropped.
            whole = sharding.replicated(self.mesh)
            shapes = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
                jax.eval_shape(fresh),
            )
            fields = self.checkpoints.restore(vars(shapes), self.console.line)
            self.console.line(f"resuming at step {int(fields['step'])}")
            return TrainState(**fields)
        state = fresh()
        record = self.workdir / "initialization.json"
        record.unlink(missing_ok=True)  # Of a start that reached no checkpoint.
        if self.config.init_from:
            return self._initialize(state, record)
        return state

    def _initialize(self, state: TrainState, record: pathlib.Path) -> TrainState:
        source = self.train_source
        classes = workdir_lib.Classes(source.class_names, source.category_ids)
        begun = initialization.start_from(self.config, classes, state.variables)
        self.console.line(begun.describe())
        workdir_lib.write_json(record, begun.record())
        variables = jax.device_put(begun.variables, sharding.replicated(self.mesh))
        averages = variables["params"] if state.ema_params else {}
        ema_params = jax.tree.map(jnp.copy, averages)
        return dataclasses.replace(state, **variables, ema_params=ema_params)

    def go(self) -> dict[str, dict]:
        """Trains to the last step and evaluates there."""
        count = sum(x.size for x in jax.tree.leaves(self.state.params))
        self.console.line(
            f"{count:,} parameters, {len(self.train_source):,} training images, "
            f"{self.mesh.size} device(s), work directory {self.workdir}"
        )
        if not self.start:
            self._describe()
        if not self.config.num_steps and self.checkpoints.latest_step is None:
            self.checkpoints.save(0, vars(self.state), force=True)
        if self.start or not self.config.num_steps:
            self._catch_up()
        batches = self.task.train_batches(self.train_source, self.start)
        with contextlib.closing(batches):
            self._train(batches)
        self.writer.flush()
        self.console.finish()
        eval_sources = [eval_set.source for eval_set in self.eval_sets]
        text = report.write_report(
            self.task, self.workdir, eval_sources, self.metrics, self.compared
        )
        print(text)
        return self.metrics

    def _describe(self):
        """Leaves what does not change during a run."""
        overview = parameter_overview.get_parameter_overview(
            self.state.params, include_stats=False
        )
        (self.workdir / "parameters.txt").write_text(overview + "\n")
        self.writer.write_hparams(self.config.to_dict())
        report.write_contact_sheet(
            self.task, self.train_source, self.config, self.workdir
        )

    def _catch_up(self):
        """Evaluates what a run lacks that was stopped after its checkpoint.

        Or that has no step to make: it evaluates the parameters that it starts from.
        """
        if self.start < self.config.num_steps and self.start % self.config.eval_every:
            return
        compared = evaluate.metrics_path(self.workdir, evaluate.COMPARISON, self.start)
        for eval_set in self.eval_sets:
            split = eval_set.source.split
            path = evaluate.metrics_path(self.workdir, split, self.start)
            if path.exists():
                self.metrics[split] = evaluate.read_metrics(path)
            else:
                self._evaluate(eval_set, self.start)
                compared.unlink(missing_ok=True)  # It lacks this split.
        if compared.exists():
            self.compared = evaluate.read_metrics(compared)
        else:
            self._compare(self.start)

    def _train(self, batches):
        clock = time.monotonic()
        for step in range(self.start + 1, self.config.num_steps + 1):
            batch = sharding.put_batch(next(batches), self.mesh)
            self.state, metrics = self.train_step(self.state, batch)
            self.unchecked.append((step, metrics))
            last = step == self.config.num_steps
            if last or step % self.config.log_every == 0:
                clock = self._log(step, clock, batches.counts)
            if last or self.checkpoints.due(step):
                self._check_finite()
                self.checkpoints.save(step, vars(self.state), force=last)
            if last or step % self.config.eval_every == 0:
                before = time.monotonic()
                for eval_set in self.eval_sets:
                    self._evaluate(eval_set, step)
                self._compare(step)
                clock += time.monotonic() - before  # It stood still meanwhile.
            self.console.advance(step)

    def _check_finite(self) -> None:
        """Takes the steps' metrics from the device; ends the run if they diverged.

        The gradient's norm tells, too: a step of finite loss with a gradient that is
        not has already spoilt the parameters.
        """
        steps = [step for step, _ in self.unchecked]
        values = jax.device_get([metrics for _, metrics in self.unchecked])
        self.unchecked = []
        for step, metrics in zip(steps, values, strict=True):
            for name in ("loss", "gradient_norm"):
                if not np.isfinite(metrics[name]):
                    latest = self.checkpoints.latest_step
                    raise FloatingPointError(
                        f"{name} is {metrics[name]} at step {step} (checked steps "
                        f"{steps[0]} to {steps[-1]}); the newest checkpoint is "
                        f"{'none yet' if latest is None else f'of step {latest}'}. "
                        "Lower optimizer.learning_rate or set optimizer.clip_norm, "
                        "and start again."
                    )
        self.unlogged += values

    def _log(self, step, clock, counts):
        self._check_finite()
        now = time.monotonic()
        values, self.unlogged = self.unlogged, []
        means = {name: float(np.mean([v[name] for v in values])) for name in values[0]}
        means["learning_rate"] = float(self.schedule(step - 1))
        means["images_per_second"] = (
            len(values) * self.config.batch_size / max(now - clock, 1e-9)
        )
        # Boxes that were cut or mended while loading, where there were any.
        means |= {f"data/{name}": count for name, count in counts.items() if count}
        self.writer.write_scalars(step, means)
        self.console.metrics(step, means)
        return now

    def _evaluate(self, eval_set, step):
        source = eval_set.source
        metrics, pictures = evaluate.evaluate(
            self.task,
            self.predict,
            self.state.eval_variables,
            eval_set,
            self.mesh,
            self.workdir,
            step,
        )
        self.metrics[source.split] = metrics
        split = workdir_lib.folder_name(source.split)
        self.writer.write_scalars(
            step, {f"{split}/{name}": v for name, v in metrics.items()}
        )
        for i, picture in enumerate(pictures):
            self.writer.write_images(step, {f"{split}/{i}": picture[None]})
        self.console.evaluation(step, source, metrics, self.task.figures.console)

    def _compare(self, step):
        self.compared = evaluate.compare(self.task, self.eval_sets, self.workdir, step)
        if self.compared:
            named = {f"{evaluate.COMPARISON}/{n}": v for n, v in self.compared.items()}
            self.writer.write_scalars(step, named)

    def close(self) -> None:
        """Waits for checkpoints and metrics to reach the disk."""
        self.console.finish()
        self.checkpoints.close()
        self.writer.close()
