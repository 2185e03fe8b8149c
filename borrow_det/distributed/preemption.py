"""Notice of preemption: SIGTERM, which clusters send some time before they kill.

One process takes the signal itself. Of several, only some may be told, and all must
stop after the same step: JAX's preemption service, which listens for the signal from
`jax.distributed.initialize` on, carries the notice to all and chooses the step.
"""

import signal
import threading

import jax
from jax.experimental import multihost_utils

from borrow_det.errors import PreemptedError


class Preemption:
    """Watches for the notice; use one at a time.

    Attributes:
      requested: whether the run is to stop. From then on it stays True.
    """

    def __init__(self):
        self.requested = False
        self._polls = 0
        self._shared = jax.distributed.is_initialized()
        self._earlier = None
        # Python takes signals in its main thread alone; elsewhere they act as before.
        if not self._shared and threading.current_thread() is threading.main_thread():
            self._earlier = signal.signal(signal.SIGTERM, self._take)

    def _take(self, *_):
        self.requested = True

    def poll(self) -> None:
        """To be called at the same moments by every process, at least every seconds.

        Raises:
          PreemptedError: there was a notice; in all processes at the same call.
        """
        self._polls += 1
        if self._shared and not self.requested:
            # It wants numbers that grow; steps would stand still in an evaluation.
            self.requested = multihost_utils.reached_preemption_sync_point(self._polls)
        if self.requested:
            raise PreemptedError

    def close(self) -> None:
        """Gives the signal back."""
        if self._earlier is not None:
            signal.signal(signal.SIGTERM, self._earlier)
