"""The metrics of the steps between two lines of the log."""

from collections.abc import Mapping

import jax
import numpy as np


class MetricWindow:
    """The metrics of the steps since the last line of the log.

    They stay on the device until they are checked: at a line, and before a checkpoint.

    Attributes:
      length: the number of steps in the last line.
    """

    def __init__(self) -> None:
        self.length = 0
        self._unchecked: list[tuple[int, Mapping[str, jax.Array]]] = []
        self._checked: list[Mapping[str, np.ndarray]] = []

    def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Adds the metrics of a step."""
        self._unchecked.append((step, metrics))

    def check(self, saved: int | None) -> None:
        """Reads the metrics from the device.

        The gradient's norm is checked, too: a step with a finite loss and an
        infinite gradient has already spoilt the parameters.

        Args:
          saved: the step of the latest checkpoint.

        Raises:
          FloatingPointError: the run has diverged.
        """
        steps = [step for step, _ in self._unchecked]
        values = jax.device_get([metrics for _, metrics in self._unchecked])
        self._unchecked = []
        for step, metrics in zip(steps, values, strict=True):
            for name in ("loss", "gradient_norm"):
                if not np.isfinite(metrics[name]):
                    raise FloatingPointError(
                        f"{name} is {metrics[name]} at step {step} (checked steps "
                        f"{steps[0]} to {steps[-1]}); the newest checkpoint is "
                        f"{'none yet' if saved is None else f'of step {saved}'}. "
                        "Lower optimizer.learning_rate or set optimizer.clip_norm, "
                        "and start again."
                    )
        self._checked += values

    def means(self, saved: int | None) -> dict[str, float]:
        """Returns the means over the window, and starts the next; see `check`."""
        self.check(saved)
        window, self._checked = self._checked, []
        self.length = len(window)
        return {n: float(np.mean([v[n] for v in window])) for n in window[0]}
