"""What ends this process from outside: SIGTERM, of a supervisor, as Ctrl-C."""

import contextlib
import signal
import threading
from collections.abc import Iterator


def _interrupt(_number: int, _frame: object) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in what a shell starts in the background
        raise KeyboardInterrupt
    signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Have SIGTERM do in the block what Ctrl-C does; outside the main thread nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
