"""SIGTERM is taken as Ctrl-C, also where Ctrl-C itself is ignored; where it ends Ray too, the search ends at once."""

import signal
import subprocess
import sys

import pytest

from orchestrator.signals import INTERRUPTED, terminated_as_interrupted

# As a search that waits for Ray: `kill` says after which seconds Ray takes no calls any more.
WAITING = """
import sys, threading, time
from orchestrator.signals import ended_with, last_words, terminated_as_interrupted

after, ended = float(sys.argv[1]), []
try:
    with last_words(lambda: print("last words")), terminated_as_interrupted(), ended_with(lambda: bool(ended)):
        try:
            print("waits", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            threading.Thread(target=lambda: (time.sleep(after), ended.append(1)), daemon=True).start()
            time.sleep(4)
            raise
except KeyboardInterrupt:
    print("caught")
"""


@pytest.mark.parametrize("ctrl_c", [signal.default_int_handler, signal.SIG_IGN])
def test_sigterm_interrupts(ctrl_c):
    taken_before, terminated_before = signal.signal(signal.SIGINT, ctrl_c), signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt), terminated_as_interrupted():
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGINT, taken_before)
    assert signal.getsignal(signal.SIGTERM) == terminated_before


def test_a_hangup_interrupts_where_it_is_asked_for_and_nobody_had_it_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that `nohup` runs have it ignored
    try:
        with pytest.raises(KeyboardInterrupt), terminated_as_interrupted(signal.SIGHUP):
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
        with terminated_as_interrupted(signal.SIGHUP):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("after", "says", "code"), [(0.2, "last words", INTERRUPTED), (60, "caught", 0)])
def test_who_works_with_what_sigterm_ended_too_ends_at_once_with_last_words(after, says, code):
    waiting = subprocess.Popen([sys.executable, "-c", WAITING, str(after)], stdout=subprocess.PIPE, text=True)
    assert waiting.stdout.readline() == "waits\n"
    waiting.send_signal(signal.SIGTERM)
    said, _ = waiting.communicate(timeout=30)
    assert said == f"{says}\n"
    assert waiting.returncode == code
