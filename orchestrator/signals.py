"""What ends this process from outside: SIGTERM, of a supervisor, as Ctrl-C."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

INTERRUPTED = 130
"""Exit code of what was stopped."""

_GRACE_SECONDS = 2.0
# Ray ends a driver that has learnt of its node's end within 0.1 s, at the next look for lost objects; its server takes
# no calls some 0.02 s after SIGTERM.
_LOOK_SECONDS = 0.005
_last_words: list[Callable[[], None]] = []


def _interrupt(_number: int, _frame: object) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell starts in the background
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def terminated_as_interrupted(*others: signal.Signals) -> Iterator[None]:
    """Have SIGTERM do in the block what Ctrl-C does; outside the main thread nothing is changed.

    Args:
        others: signals that do so too, unless whoever started the process had it ignore them, as `nohup` does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heeded = [number for number in others if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, *heeded)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def last_words(speak: Callable[[], None]) -> Iterator[None]:
    """Have `speak` called if `ended_with` ends this process in the block, where nobody catches an interrupt."""
    _last_words.append(speak)
    try:
        yield
    finally:
        _last_words.remove(speak)


@contextlib.contextmanager
def ended_with(is_lost: Callable[[], bool]) -> Iterator[None]:
    """End this process if SIGTERM has ended what it works with as well; outside the main thread nothing is changed.

    A supervisor may send SIGTERM to all processes at once. Who asks a Ray that is gone waits for a minute, and is
    ended by it without a word. So a thread looks, says the last words, and ends with `INTERRUPTED`, as after a kill.

    Args:
        is_lost: whether what the block works with has ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, told = socket.socketpair()
    told.settimeout(0.0)
    over = threading.Event()
    before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)  # written to while the main thread waits
    threading.Thread(target=_listen, args=(heard, is_lost, over), daemon=True).start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        told.close()


def _listen(heard: socket.socket, is_lost: Callable[[], bool], over: threading.Event) -> None:
    with heard:
        while numbers := heard.recv(64):
            if signal.SIGTERM in numbers:
                _end_if(is_lost, over)


def _end_if(is_lost: Callable[[], bool], over: threading.Event) -> None:
    """End if that is so, or becomes so in a moment."""
    until = time.monotonic() + _GRACE_SECONDS
    while not is_lost():
        if time.monotonic() >= until or over.wait(_LOOK_SECONDS):
            return
    if over.is_set():
        return
    for speak in reversed(_last_words):
        speak()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)
