"""Fresh processes that work beside this one and end with it; a fork would copy threads of libraries as they are."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import Any

from orchestrator.signals import terminated_as_interrupted


@contextmanager
def process_pool(number: int, begin: Callable[..., None] | None = None, *given: Any) -> Iterator[ProcessPoolExecutor]:  # noqa: ANN401
    """So many processes; where the block is interrupted, also by SIGTERM, they end at once and without a word.

    They end, too, where this one is killed and can end nothing.

    Args:
        number: of processes.
        begin: what each does first.
        given: its arguments.
    """
    with (
        terminated_as_interrupted(),
        ProcessPoolExecutor(number, get_context("spawn"), initializer=_begin, initargs=(begin, given)) as pool,
    ):
        try:
            yield pool
        except KeyboardInterrupt:
            for process in list(pool._processes.values()):  # else they would be waited for
                process.terminate()
            raise


def _begin(begin: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends all processes; the first one says so
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()
    if begin is not None:
        begin(*given)


def _end_with(parent: BaseProcess | None) -> None:
    if parent is not None:
        parent.join()
        os._exit(1)
