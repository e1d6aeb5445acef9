"""SIGTERM is handled like Ctrl-C while a command runs."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from hallo3_core.cli.interruption import Terminated, sigterm_raises

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there SIGTERM cannot be sent")


def test_it_raises_and_the_handler_of_before_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as stopped, sigterm_raises():
        os.kill(os.getpid(), signal.SIGTERM)
    assert isinstance(stopped.value, Terminated)
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_another_thread_nothing_changes():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def run() -> None:
        with sigterm_raises():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
