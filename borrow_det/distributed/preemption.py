"""Notice of preemption: SIGTERM, which clusters send before SIGKILL, and Ctrl-C.

One process takes the signals itself. Of several processes only some may be told, and
all must stop after the same step: JAX's preemption service, which listens for SIGTERM
from `jax.distributed.initialize` on, notifies all of them and chooses the step.
"""

import os
import signal
import sys
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

from borrow_det.distributed import processes
from borrow_det.errors import PreemptedError

# Exit status of a process that Ctrl-C has ended.
INTERRUPTED = 130


class Preemption:
    """Watches for the notice; only one may be open.

    The first Ctrl-C counts as a notice. The second ends the process at once, even while
    it compiles.

    Attributes:
      requested: whether the run is to stop; once True it stays so.
    """

    def __init__(self) -> None:
        self.requested = False
        self._polls = 0
        self._shared = jax.distributed.is_initialized()
        self._watcher: threading.Thread | None = None
        # Python takes signals in its main thread only; elsewhere they act as before.
        if threading.current_thread() is not threading.main_thread():
            return
        self._earlier = {}
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._earlier_descriptor = signal.set_wakeup_fd(
            self._writer, warn_on_full_buffer=False
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            # A background job of a script ignores Ctrl-C. SIGTERM of several processes
            # is JAX's.
            ignored = signal.getsignal(number) == signal.SIG_IGN
            if not ignored and not (self._shared and number == signal.SIGTERM):
                self._earlier[number] = signal.signal(number, self._take)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def _take(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.requested = not self._shared  # Several processes agree in `poll`.

    def _watch(self) -> None:
        """Counts Ctrl-C in a separate thread.

        Python's signal handlers wait for the main thread, which may compile for
        minutes; the bytes of the pipe come at once.
        """
        interrupts = 0
        while numbers := os.read(self._reader, 1):
            if numbers[0] != signal.SIGINT:
                continue
            interrupts += 1
            if interrupts > 1:
                _say("interrupted twice: no checkpoint of this step is saved")
                processes.end(INTERRUPTED)
            _say("interrupted: saving a checkpoint; press Ctrl-C again to exit at once")
            if self._shared:  # JAX tells the other processes.
                os.kill(os.getpid(), signal.SIGTERM)

    def poll(self) -> None:
        """Stops the run if there was a notice.

        Every process must call it at the same moments, at least every few seconds.

        Raises:
          PreemptedError: there was a notice; in all processes at the same call.
        """
        self._polls += 1
        if self._shared and not self.requested:
            # The service wants numbers that grow; steps would not in an evaluation.
            self.requested = multihost_utils.reached_preemption_sync_point(self._polls)
        if self.requested:
            raise PreemptedError

    def close(self) -> None:
        """Restores the signal handlers."""
        if self._watcher is None:
            return
        for number, handler in self._earlier.items():
            if handler is not None:  # A handler that C code installed.
                signal.signal(number, handler)
        signal.set_wakeup_fd(self._earlier_descriptor)
        os.close(self._writer)  # Ends the watcher.
        self._watcher.join()
        os.close(self._reader)
        self._watcher = None


def _say(text: str) -> None:
    print(f"\n{text}", file=sys.stderr, flush=True)
