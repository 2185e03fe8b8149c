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


def test_ctrl_c_is_a_notice_too(capsys):
    earlier = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    preemption = Preemption()
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(PreemptedError):
        preemption.poll()
    preemption.close()
    preemption.close()
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    signal.signal(signal.SIGINT, earlier)
    assert "press Ctrl-C again to exit at once" in capsys.readouterr().err


def test_ignored_ctrl_c_stays_ignored():
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    preemption = Preemption()
    os.kill(os.getpid(), signal.SIGINT)
    preemption.poll()
    preemption.close()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    signal.signal(signal.SIGINT, earlier)
