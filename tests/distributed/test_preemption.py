"""The notice of preemption in one process (tests/test_processes.py: in several)."""

import os
import signal
import threading

import pytest

from borrow_det.distributed.preemption import Preemption
from borrow_det.errors import PreemptedError


def test_the_signal_stops_at_the_next_poll_and_is_given_back():
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


def test_outside_of_the_main_thread_signals_act_as_before():
    earlier = signal.getsignal(signal.SIGTERM)
    watched = []
    thread = threading.Thread(target=lambda: watched.append(Preemption()))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == earlier
    watched[0].poll()
    watched[0].close()
