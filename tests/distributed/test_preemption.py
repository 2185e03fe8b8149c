"""The notice of preemption in one process; test_several_processes.py has several."""

import os
import signal
import threading

import pytest

from borrow_det.distributed.preemption import Preemption
from borrow_det.errors import PreemptedError


def test_sigterm_stops_the_next_poll_and_close_restores_the_handler():
    earlier = signal.getsignal(signal.SIGTERM)
    preemption = Preemption()
    preemption.poll()
    os.kill(os.getpid(), signal.SIGTERM)
    assert preemption.requested
    for _ in range(2):
        with pytest.raises(PreemptedError):
            preemption.poll()
    preemption.close()
    assert signal.getsignal(signal.SIGTERM) == earlier


def test_outside_the_main_thread_signals_keep_their_handlers():
    earlier = signal.getsignal(signal.SIGTERM)
    watched = []
    thread = threading.Thread(target=lambda: watched.append(Preemption()))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == earlier
    watched[0].poll()
    watched[0].close()
