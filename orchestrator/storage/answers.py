"""Calls to a store that may not answer: given up in time, or made again and again."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import NoReturn, TypeVar

from trainables.errors import first_line

# A server that takes a request and says nothing is waited for by S3's own client for minutes. A line may be slow, and
# several trials share it; but a large object of which no progress is seen would hold a trial for an hour at that rate.
_ANSWER_SECONDS, _SLOWEST_BYTES_A_SECOND, _SLOWEST_UNSEEN_BYTES_A_SECOND = 30.0, 1e5, 1e6
_RETRY_SECONDS = 5.0
_REQUEST = "request to a store"
_LAST_SECONDS = 1.0

_Answer = TypeVar("_Answer")
_log = logging.getLogger(__name__)


def insist(work: Callable[[], _Answer], *, what: str) -> _Answer:
    """Do what must not be given up again and again, until the store answers.

    Args:
        work: what to do; it may be done twice. It gives up no upload, as that would go on beside the next one.
        what: is done, for the log.
    """
    pause = threading.Event()
    while True:
        try:
            return work()
        except OSError as error:
            _log.warning("%s is tried again: %s", what, first_line(error))
            pause.wait(_RETRY_SECONDS)


def seconds_for(num_bytes: int) -> float:
    """How long so much may take on a slow line."""
    return _ANSWER_SECONDS + num_bytes / _SLOWEST_BYTES_A_SECOND


def seconds_for_unseen(num_bytes: int) -> float:
    """The same in one call that shows no progress, however much it is."""
    return _ANSWER_SECONDS + num_bytes / _SLOWEST_UNSEEN_BYTES_A_SECOND


def answered(work: Callable[[], _Answer], *, seconds: float | None = _ANSWER_SECONDS) -> _Answer:
    """What a call to the store gives, if that comes in time; `None` waits for as long as it takes.

    Raises:
        TimeoutError: if it does not; the call may still succeed later.
    """
    return getting_on(lambda _told: work(), seconds=seconds)


def getting_on(work: Callable[[Callable[[], None]], _Answer], *, seconds: float | None) -> _Answer:
    """The same for a call that gets on piece by piece, each of which is waited for so long.

    Args:
        work: given what it calls after each piece.
        seconds: for a piece; `None` for as long as it takes.

    Raises:
        TimeoutError: if a piece takes longer; the call goes on, and may still succeed later.
    """
    answer: SimpleQueue[Callable[[], _Answer] | None] = SimpleQueue()

    def ask() -> None:
        try:
            given = work(lambda: answer.put(None))
        except BaseException as error:
            answer.put(partial(_raise, error))
        else:
            answer.put(lambda: given)

    threading.Thread(target=ask, name=_REQUEST, daemon=True).start()
    try:
        while (found := answer.get(timeout=seconds)) is None:
            pass
    except Empty:
        raise TimeoutError(f"no answer in {seconds:.0f} s") from None
    return found()


def is_unanswered() -> bool:
    """Whether a request of this process has no answer yet; waits for a moment, as one usually comes.

    S3's own client waits for it at the end of the process, for minutes and deaf to Ctrl-C.
    """
    until = time.monotonic() + _LAST_SECONDS
    requests = [thread for thread in threading.enumerate() if thread.name == _REQUEST]
    for request in requests:
        request.join(max(0.0, until - time.monotonic()))
    return any(request.is_alive() for request in requests)


def _raise(error: BaseException) -> NoReturn:
    raise error
