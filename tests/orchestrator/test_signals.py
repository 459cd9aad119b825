"""SIGTERM is taken as Ctrl-C, also where Ctrl-C itself is ignored."""

import signal

import pytest

from orchestrator.signals import terminated_as_interrupted


@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN])
def test_sigterm_interrupts(ctrl_c):
    taken_before, terminated_before = signal.signal(signal.SIGINT, ctrl_c), signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, taken_before)
    assert signal.getsignal(signal.SIGTERM) == terminated_before
