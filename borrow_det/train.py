"""The training loop, the same for every task: a run's start, its steps, its end."""

import collections
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from borrow_det import evaluate
from borrow_det.config import run_length, validate
from borrow_det.data import pipeline
from borrow_det.distributed import mesh as mesh_lib
from borrow_det.distributed import processes
from borrow_det.distributed.preemption import Preemption
from borrow_det.errors import PreemptedError
from borrow_det.evaluation.best_step import BestStep, make_criterion
from borrow_det.io import paths
from borrow_det.optimizer import make_schedule, rate_at
from borrow_det.reporting import loggers, profiler
from borrow_det.reporting.metric_window import MetricWindow
from borrow_det.reporting.run_log import RunLog, SilentLog
from borrow_det.reporting.step_timer import StepTimer, memory_metrics
from borrow_det.tasks import TASKS, open_data
from borrow_det.tasks.task import Evaluator, Task
from borrow_det.train_step import (
    TrainState,
    abstract_state,
    draw_state,
    make_train_step,
    shard_state,
    with_variables,
)
from borrow_det.weights import named
from borrow_det.workdir import (
    compilation_cache,
    extension,
    init_from,
    metadata,
    operating_points,
)
from borrow_det.workdir.checkpoints import Checkpoints

# Steps that the host may be ahead of the device: enough to keep it busy and to have its
# next batches on it in time, and few enough for a checkpoint within seconds of a notice
# of preemption.
STEPS_AHEAD = 2


class Run(NamedTuple):
    """Everything that the loop needs, made once by `prepare_run`.

    Attributes:
      config: the configuration, with the pixel statistics of init_from.
      mesh: the devices.
      workdir: the work directory.
      task: the task.
      train_split: the training split.
      evaluators: one for each of dataset.eval_splits.
      log: the console and the files of metrics.
      checkpoints: the checkpoints in the work directory.
      best: the best of its evaluations.
      profiler: traces the steps that --profile names.
      state: the state to start from; the first step donates it.
    """

    config: ml_collections.ConfigDict
    mesh: Mesh
    workdir: paths.Path
    task: Task
    train_split: Any
    evaluators: list[Evaluator]
    log: RunLog | SilentLog
    checkpoints: Checkpoints
    best: BestStep
    profiler: profiler.Profiler
    state: TrainState

    def close(self) -> None:
        """Waits until checkpoints and metrics are on the disk."""
        self.profiler.close()
        self.checkpoints.close()
        self.log.close()


class BatchIterator(Protocol):
    """Batches of training without end; see `pipeline.Batches`."""

    counts: collections.Counter[str]

    def __next__(self) -> Mapping[str, Any]:
        """Returns the next batch."""

    def close(self) -> None:
        """Ends the iteration."""


class Steps(NamedTuple):
    """The step of a run's loop and its batches.

    Attributes:
      step: (state, batch) -> (state, metrics); the state is donated.
      batches: the batch of each step from the run's first one on.
    """

    step: Callable[[TrainState, dict], tuple[TrainState, dict[str, jax.Array]]]
    batches: BatchIterator


def make_steps(run: Run, poll: Callable[[], None]) -> Steps:
    """Makes the training steps of a run: on augmented images of its split.

    Args:
      run: the run, with the state to start from.
      poll: raises if the run is told to stop; for what takes long.
    """
    del poll
    batches = pipeline.train_batches(
        run.train_split,
        run.config,
        int(run.state.step),
        jax.process_index(),
        jax.process_count(),
        make_row=run.task.train_row(run.train_split),
    )
    return Steps(make_train_step(run.task, run.mesh, run.state), batches)


MakeSteps = Callable[[Run, Callable[[], None]], Steps]


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    profile: str = "",
    make_steps: MakeSteps = make_steps,
) -> dict[str, dict[str, float]]:
    """Trains to `config.num_steps`, from the latest checkpoint if there is one.

    Every process of a run calls it with the same arguments and one work directory.

    Args:
      config: the configuration.
      workdir: the work directory.
      profile: steps to trace to `profile/` there (profiler.parse_steps); "" for none.
      make_steps: makes the training steps; a benchmark has others.

    Returns:
      In the main process the metrics of the last evaluation, by split.

    Raises:
      InputError: the configuration, the data or the work directory is wrong.
      FloatingPointError: the loss is not finite; names the range of steps.
      PreemptedError: the run was told to stop, and has saved a checkpoint.
    """
    steps = sys.modules[make_steps.__module__]
    # A program's own module is called __main__.
    name = steps.__spec__.name if steps.__spec__ else steps.__name__
    run = prepare_run(config, workdir, profile, name)
    preemption = Preemption()
    try:
        return _train(run, preemption, make_steps)
    finally:
        run.close()
        preemption.close()


def prepare_run(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike,
    profile: str = "",
    steps: str = metadata.STEPS,
) -> Run:
    """Makes everything that a run needs: configuration, data, work directory, state.

    Whatever does not fit is refused before the work directory is made.

    Args:
      config: see `train_and_evaluate`.
      workdir: see there.
      profile: see there.
      steps: name of the module that makes the training steps, to be recorded.

    Raises:
      InputError: see `train_and_evaluate`.
    """
    # Configuration.
    paths.check_utf8(workdir)
    mesh = mesh_lib.make_mesh(config.mesh)
    validate.check(config, TASKS, mesh.size)
    loggers.check(config.report.loggers)
    evaluate.check_splits(tuple(config.dataset.eval_splits))
    weights = named.load_for_start(config, workdir)
    config = init_from.resolve_pixel_statistics(config, workdir, weights)

    # Data.
    resumes = metadata.has_checkpoints(workdir)
    data = open_data(config, metadata.load_classes(workdir) if resumes else None)
    classes = metadata.Classes(data.train.class_names, data.train.category_ids)
    criterion = make_criterion(
        config.checkpoint_best,
        data.evaluators[0].default_metric,
        {e.split.name: e.choosing_metrics for e in data.evaluators},
        config.stop_after,
    )

    # Length and schedule.
    config = run_length.with_steps(config, len(data.train))
    change = ""
    if resumes:
        config, change = extension.with_restarts(config, workdir, rate_at)

    # Network: its shapes and, in a fresh run, the parameters that it starts from.
    task = TASKS[config.task](mesh_lib.resolve_layout(config), len(classes.class_names))
    shapes = abstract_state(task, mesh)
    start = None
    if config.init_from and not resumes:
        start = init_from.start_from(config, classes, shapes.variables, weights)
    if not resumes:
        init_from.check_frozen(start, task.stages[: config.model.frozen])
        init_from.check_statistics(start, config.model.norm)

    # Work directory.
    main = processes.is_main_process()
    workdir = metadata.prepare(
        workdir, config, classes, data.boxes, data.folds, main, steps
    )
    compilation_cache.keep_in(workdir, write=main)
    log = RunLog(config, workdir, data.evaluators) if main else SilentLog()
    length = run_length.describe(config, len(data.train))
    for notice in filter(None, (*data.notices, length, change)):
        log.line(notice)
    checkpoints = Checkpoints(
        workdir, every=config.checkpoint_every, keep=config.keep_checkpoints
    )

    # State.
    if resumes:  # Shapes suffice: values would be drawn only to be dropped.
        state = TrainState(**checkpoints.restore(vars(shapes), log.line))
        log.line(f"resuming at step {int(state.step)}")
    else:
        state = shard_state(_fresh_state(task, start, workdir, log), mesh)
    step = int(state.step)
    tracer = profiler.make_profiler(profile, step, workdir)
    log.begin(step, state.params, task.frozen, data.train)
    best = BestStep(criterion, workdir, step, checkpoints.steps)
    best.write()
    operating_points.drop_from(workdir, step + 1 if resumes else 0, write=main)
    checkpoints.keep_best(best.step)
    return Run(
        config,
        mesh,
        workdir,
        task,
        data.train,
        data.evaluators,
        log,
        checkpoints,
        best,
        tracer,
        state,
    )


def _fresh_state(
    task: Task,
    start: init_from.Start | None,
    workdir: paths.Path,
    log: RunLog | SilentLog,
) -> TrainState:
    """Draws a state, with the parameters that `start` gives."""
    state = draw_state(task)
    record = workdir / "initialization.json"
    if start is None:
        if processes.is_main_process():  # Of a start that reached no checkpoint.
            record.unlink(missing_ok=True)
        return state
    log.line(start.describe())
    if processes.is_main_process():
        metadata.write_json(record, start.record())
    return with_variables(task, state, start.fill(state.variables))


def _train(
    run: Run, preemption: Preemption, make_steps: MakeSteps
) -> dict[str, dict[str, float]]:
    """Trains and evaluates; returns the metrics of the last evaluation, by split."""
    config, log, checkpoints, state = run.config, run.log, run.checkpoints, run.state
    best = run.best
    first, num_steps = int(state.step), config.num_steps
    schedule = make_schedule(config)
    evaluations = _Evaluations(run, preemption.poll)
    window = MetricWindow()

    def save(step: int, force: bool = False) -> None:
        window.check(checkpoints.latest_step)
        checkpoints.save(step, vars(state), force=force)
        log.flush()  # A run that resumes here writes no line again.

    def choose(step: int) -> None:
        """Keeps the checkpoint of this step if its evaluation is the best so far."""
        if best.add(step, evaluations.metrics):
            save(step, force=True)
            checkpoints.wait()
            best.write()
            checkpoints.keep_best(step)
            log.best(best.record)

    try:
        # Evaluations that an earlier start has not reached. A run of no steps evaluates
        # the parameters that it starts from.
        if first == num_steps == 0:
            save(0, force=True)
        ends = first >= num_steps or best.stalled(config.stop_after)
        if ends or (first and first % config.eval_every == 0):
            evaluations.catch_up(state.eval_variables, first)
            choose(first)
        end = first if best.stalled(config.stop_after) else num_steps

        # Steps.
        if first < end:
            train_step, batches = make_steps(run, preemption.poll)
            log.compiling(first)
            with contextlib.closing(batches):
                timer = StepTimer()

                def log_steps(step: int) -> None:
                    means = window.means(checkpoints.latest_step)
                    means["learning_rate"] = float(schedule(step - 1))
                    means |= timer.metrics(window.length, config.batch_size)
                    means |= memory_metrics() | _counts(batches)
                    log.training(step, means)

                running: collections.deque[dict[str, jax.Array]] = collections.deque()
                for step in range(first + 1, end + 1):
                    with timer.waiting():
                        batch = mesh_lib.put_batch(next(batches), run.mesh)
                    run.profiler.before(step)
                    with jax.profiler.StepTraceAnnotation("train", step_num=step):
                        state, metrics = train_step(state, batch)
                    run.profiler.after(step, metrics)
                    window.add(step, metrics)
                    running.append(metrics)
                    if len(running) > STEPS_AHEAD:
                        log.finished(jax.block_until_ready(running.popleft()))
                    log.advance(step)

                    last = step == num_steps
                    evaluates = last or step % config.eval_every == 0
                    # A run that resumes at the best evaluation writes the same lines.
                    if evaluates or step % config.log_every == 0:
                        log_steps(step)
                    if last or checkpoints.due(step):
                        save(step, force=last)
                    preemption.poll()
                    if evaluates:
                        with timer.paused():
                            evaluations.evaluate(state.eval_variables, step)
                            choose(step)
                        log.flush()
                        if best.stalled(config.stop_after):
                            save(step, force=True)
                            break
    except PreemptedError:
        save(int(state.step), force=True)
        raise

    step = int(state.step)
    evaluations.keep_operating_points({step, best.step or step})
    if step < num_steps:
        log.line(best.describe_stop(step, num_steps))
    log.report(step, evaluations.metrics, evaluations.compared, best.record)
    return evaluations.metrics


def _counts(batches: BatchIterator) -> dict[str, int]:
    """Returns the boxes that loading has cut or changed, if there were any."""
    return {f"data/{name}": count for name, count in batches.counts.items() if count}


class _Evaluations:
    """The evaluations of a run.

    Attributes:
      metrics: the latest metrics by split.
      compared: the latest metrics that compare splits.
    """

    def __init__(self, run: Run, poll: Callable[[], None]):
        """`poll` is called after each batch; it raises to stop the run."""
        self.metrics: dict[str, dict[str, float]] = {}
        self.compared: dict[str, float] = {}
        self._run = run
        self._poll = poll
        self._predictor = evaluate.Predictor(run.task, run.mesh)

    def evaluate(self, variables: dict, step: int) -> None:
        """Evaluates all splits."""
        for evaluator in self._run.evaluators:
            self._evaluate(evaluator, variables, step)
        self._compare(step)

    def catch_up(self, variables: dict, step: int) -> None:
        """Evaluates the splits that an earlier start did not reach after this step."""
        run = self._run
        files = [
            evaluate.metrics_path(run.workdir, evaluator.split.name, step)
            for evaluator in run.evaluators
        ]
        comparison = evaluate.metrics_path(run.workdir, evaluate.COMPARISON, step)
        exists = [path.exists() for path in (*files, comparison)]
        # The other processes may look when the main process has begun to write.
        *exists, is_compared = processes.from_main_process(np.array(exists))
        for evaluator, path, done in zip(run.evaluators, files, exists, strict=True):
            if done:
                metrics = evaluate.read_metrics(path)
                self.metrics[evaluator.split.name] = metrics
                run.log.evaluated_before(step, evaluator.split, metrics)
            else:
                self._evaluate(evaluator, variables, step)
        if is_compared and all(exists):
            self.compared = evaluate.read_metrics(comparison)
        else:
            self._compare(step)

    def keep_operating_points(self, steps: Iterable[int]) -> None:
        """Stores the operating points of steps on the first split, and prints them."""
        if not processes.is_main_process():
            return
        run, split = self._run, self._run.evaluators[0].split.name
        for step in sorted(steps):
            points = evaluate.keep_operating_points(run.workdir, split, step)
            for name, point in points.items():
                run.log.line(f"step {step}, {operating_points.describe(name, point)}")

    def _evaluate(self, evaluator: Evaluator, variables: dict, step: int) -> None:
        run, split = self._run, evaluator.split
        with run.log.evaluating(split) as show:

            def after_batch(images: int) -> None:
                show(images)
                self._poll()

            metrics, pictures = evaluate.evaluate(
                self._predictor,
                variables,
                evaluator,
                evaluate.metrics_path(run.workdir, split.name, step),
                after_batch,
            )
        self.metrics[split.name] = metrics
        run.log.evaluation(step, split, metrics, pictures)

    def _compare(self, step: int) -> None:
        if processes.is_main_process():
            run = self._run
            self.compared = evaluate.compare(run.evaluators, run.workdir, step)
            run.log.comparison(step, self.compared)
