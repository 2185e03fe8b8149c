"""The training loop, one for every task: what happens between its steps."""

import collections
import contextlib
import dataclasses
import os

import jax
import numpy as np

from borrow_det import evaluate
from borrow_det.config import validate
from borrow_det.distributed import mesh as mesh_lib
from borrow_det.distributed import processes
from borrow_det.distributed.preemption import Preemption
from borrow_det.errors import PreemptedError
from borrow_det.optimizer import make_schedule
from borrow_det.reporting import profiler
from borrow_det.reporting.run_log import RunLog, SilentLog
from borrow_det.reporting.step_timer import StepTimer, memory_metrics
from borrow_det.tasks import classification, detection
from borrow_det.train_step import (
    TrainState,
    abstract_state,
    draw_state,
    make_train_step,
    place,
)
from borrow_det.workdir import checkpoints, compilation_cache, metadata
from borrow_det.workdir import init_from as init_from_lib

TASKS = {
    "detection": detection.DetectionTask,
    "classification": classification.ClassificationTask,
}
# Steps that the host may be ahead of the device: enough to keep it busy and to have its
# next batches on it before it asks, and few enough for a checkpoint within seconds of a
# notice of preemption.
STEPS_AHEAD = 2


def train_and_evaluate(
    config, workdir: str | os.PathLike, profile: str = ""
) -> dict[str, dict]:
    """Trains to `config.num_steps`, from the newest checkpoint if there is one.

    Every process of a run calls it, with the same arguments and one work directory.

    Args:
      config: the run's.
      workdir: its folder.
      profile: steps to trace to `profile/` there (profiler.parse_steps); "": none.

    Returns:
      In the main process the last evaluation's metrics of each of
      `dataset.eval_splits`.

    Raises:
      InputError: the configuration, the data or the work directory is wrong.
      FloatingPointError: the loss is not finite; names the range of steps.
      PreemptedError: the run was told to stop, and has saved a checkpoint.
    """
    mesh = mesh_lib.make_mesh(config.mesh)
    validate.check(config, TASKS, mesh.size)
    evaluate.check_splits(tuple(config.dataset.eval_splits))
    config = init_from_lib.resolve_normalization(config, workdir)
    task_class = TASKS[config.task]
    data = task_class.open(config)
    classes = metadata.Classes(data.train.class_names, data.train.category_ids)
    task = task_class(config, len(classes.class_names))
    # What does not fit is refused before a work directory is made of it.
    shapes = abstract_state(task, config, mesh)
    if config.init_from and not metadata.has_checkpoints(workdir):
        init_from_lib.start_from(
            config, classes, shapes.variables, checkpoints.variable_shapes
        )
    workdir = metadata.prepare(
        workdir, config, classes, data.boxes, write=processes.is_main_process()
    )
    compilation_cache.keep_in(workdir, write=processes.is_main_process())
    run = Run(config, workdir, task, mesh, data.train, data.eval_sets, profile)
    try:
        return run.go()
    finally:
        run.close()


class Run:
    """One run in its work directory: the loop, and what happens between its steps."""

    def __init__(self, config, workdir, task, mesh, train_split, eval_sets, profile=""):
        self.config = config
        self.workdir = workdir
        self.task = task
        self.mesh = mesh
        self.train_split = train_split
        self.eval_sets = eval_sets
        main = processes.is_main_process()
        self.log = RunLog(config, workdir, task) if main else SilentLog()
        self.checkpoints = checkpoints.Checkpoints(
            workdir,
            every=config.checkpoint_every,
            keep=config.keep_checkpoints,
            preempted=lambda: self.preemption.requested,
        )
        self.state = self._initial_state()
        self.start = int(self.state.step)
        self.profiler = profiler.make_profiler(profile, self.start, workdir)
        self.log.begin(self.start, self.state.params, train_split)
        self.train_step = make_train_step(task, config, mesh)
        self.predict = evaluate.make_predict(task, mesh)
        self.schedule = make_schedule(config)
        self.unchecked = []  # (step, metrics on the device) since the last check.
        self.unlogged = []  # Metrics that passed it, since the last line.
        self.metrics = {}
        self.compared = {}  # Metrics that splits give together.
        # Last: what goes wrong before leaves the signal as it was.
        self.preemption = Preemption()

    def _initial_state(self) -> TrainState:
        if self.checkpoints.latest_step is not None:
            # Shapes are enough: values would be compiled and drawn to be dropped.
            abstract = abstract_state(self.task, self.config, self.mesh)
            fields = self.checkpoints.restore(vars(abstract), self.log.line)
            self.log.line(f"resuming at step {int(fields['step'])}")
            return TrainState(**fields)
        state = draw_state(self.task, self.config)
        if self.config.init_from:
            state = self._initialize(state)
        elif processes.is_main_process():  # Of a start that reached no checkpoint.
            (self.workdir / "initialization.json").unlink(missing_ok=True)
        return place(state, self.mesh)

    def _initialize(self, state: TrainState) -> TrainState:
        split = self.train_split
        classes = metadata.Classes(split.class_names, split.category_ids)
        begun = init_from_lib.start_from(self.config, classes, state.variables)
        self.log.line(begun.describe())
        if processes.is_main_process():
            record = self.workdir / "initialization.json"
            metadata.write_json(record, begun.record())
        averages = begun.variables["params"] if state.ema_params else {}
        return dataclasses.replace(state, **begun.variables, ema_params=averages)

    def go(self) -> dict[str, dict]:
        """Trains to the last step and evaluates there."""
        try:
            self._go()
        except PreemptedError:
            self._save(int(self.state.step))
            raise
        return self.metrics

    def _go(self):
        if not self.config.num_steps and self.checkpoints.latest_step is None:
            self.checkpoints.save(0, vars(self.state), force=True)
        if self.start or not self.config.num_steps:
            self._catch_up()
        batches = self.task.train_batches(
            self.train_split, self.start, jax.process_index(), jax.process_count()
        )
        with contextlib.closing(batches):
            self._train(batches)
        self.log.report(self.eval_sets, self.metrics, self.compared)

    def _catch_up(self):
        """Evaluates what a run lacks that was stopped after its checkpoint.

        Or that has no step to make: it evaluates the parameters that it starts from.
        """
        if self.start < self.config.num_steps and self.start % self.config.eval_every:
            return
        paths = {
            s.split.name: evaluate.metrics_path(self.workdir, s.split.name, self.start)
            for s in self.eval_sets
        }
        compared = evaluate.metrics_path(self.workdir, evaluate.COMPARISON, self.start)
        exists = [path.exists() for path in (*paths.values(), compared)]
        # The others may look when the main process has begun to write.
        *exists, is_compared = processes.from_main_process(np.array(exists))
        for eval_set, done in zip(self.eval_sets, exists, strict=True):
            split = eval_set.split.name
            if done:
                self.metrics[split] = evaluate.read_metrics(paths[split])
            else:
                self._evaluate(eval_set, self.start)
        if is_compared and all(exists):
            self.compared = evaluate.read_metrics(compared)
        else:
            self._compare(self.start)

    def _train(self, batches):
        timer = StepTimer()
        running = collections.deque()
        for step in range(self.start + 1, self.config.num_steps + 1):
            with timer.waiting():
                batch = mesh_lib.put_batch(next(batches), self.mesh)
            running.append(self._one_step(step, batch))
            if len(running) > STEPS_AHEAD:
                jax.block_until_ready(running.popleft())
            last = step == self.config.num_steps
            if last or step % self.config.log_every == 0:
                self._log(step, timer, batches.counts)
            if last or self.checkpoints.due(step):
                self._save(step, force=last)
            if last or step % self.config.eval_every == 0:
                with timer.paused():
                    for eval_set in self.eval_sets:
                        self._evaluate(eval_set, step)
                    self._compare(step)
                self.log.flush()
            self.log.advance(step)
            self.preemption.poll()

    def _one_step(self, step, batch):
        self.profiler.before(step)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            self.state, metrics = self.train_step(self.state, batch)
        self.unchecked.append((step, metrics))
        self.profiler.after(step, metrics)
        return metrics

    def _save(self, step, force=False):
        self._check_finite()
        self.checkpoints.save(step, vars(self.state), force=force)
        self.log.flush()  # A run that goes on from here writes no line again.

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

    def _log(self, step, timer, counts):
        self._check_finite()
        values, self.unlogged = self.unlogged, []
        means = {name: float(np.mean([v[name] for v in values])) for name in values[0]}
        means["learning_rate"] = float(self.schedule(step - 1))
        means |= timer.metrics(len(values), self.config.batch_size)
        means |= memory_metrics()
        # Boxes that were cut or mended while loading, where there were any.
        means |= {f"data/{name}": count for name, count in counts.items() if count}
        self.log.training(step, means)

    def _evaluate(self, eval_set, step):
        metrics, pictures = evaluate.evaluate(
            self.task,
            self.predict,
            self.state.eval_variables,
            eval_set,
            self.mesh,
            self.workdir,
            step,
            after_batch=self.preemption.poll,
        )
        self.metrics[eval_set.split.name] = metrics
        self.log.evaluation(step, eval_set.split, metrics, pictures)

    def _compare(self, step):
        if processes.is_main_process():
            self.compared = evaluate.compare(
                self.task, self.eval_sets, self.workdir, step
            )
            self.log.comparison(step, self.compared)

    def close(self) -> None:
        """Waits for checkpoints and metrics to reach the disk."""
        self.profiler.close()
        self.checkpoints.close()
        self.log.close()
        self.preemption.close()
