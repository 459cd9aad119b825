"""The courier's process: `python -m orchestrator.tracking`, started by `Courier` and spoken to in lines of JSON."""

import contextlib
import json
import math
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

from orchestrator.searches.layout import TRACKING
from orchestrator.tracking.backoff import Backoff
from orchestrator.tracking.connecting import load_client
from orchestrator.tracking.pages import SearchPages
from orchestrator.tracking.sender import WINDOW, Sender
from orchestrator.tracking.spool import Spool
from orchestrator.tracking.store import MlflowStore, SearchIdentity
from orchestrator.words import counted
from trainables.errors import InputError

_POLL_SECONDS = 0.5
_NICENESS = 5
# Even niced, it slows trials that share its core's other half or wait for the disk: so it rests for some times as long
# as a window took, while trials run. Where these take more than seconds it never has a whole window to send.
_REST, _LONGEST_REST_SECONDS = 3.0, 10.0


class Input:
    """Orders on standard input, waited for no longer than is asked."""

    def __init__(self, file: int) -> None:
        """Take a file descriptor."""
        self._file, self._rest, self.has_ended = file, b"", False

    def orders(self, timeout_seconds: float | None) -> list[dict[str, Any]]:
        """Orders that have come; `has_ended` says whether others can."""
        if self.has_ended or not select.select([self._file], [], [], timeout_seconds)[0]:
            return []
        read = os.read(self._file, 65536)
        self.has_ended = not read
        *lines, self._rest = (self._rest + read).split(b"\n")
        return [json.loads(line) for line in lines if line]


def say(**news: object) -> None:
    """Tell the driver; it may be gone."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(json.dumps(news) + "\n")
        sys.stdout.flush()


def main() -> None:
    """Connect once we are to begin, then send until the driver has ended and all is sent."""
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    # It ends the driver, of which MLflow is then to be told; what is started here does not inherit that, and is ended.
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    orders = Input(sys.stdin.fileno())
    come: list[dict[str, Any]] = []
    order = _next(orders, come)
    if order is None:
        return
    store = MlflowStore(uri=order["uri"], storage=Path(order["storage"]), experiment=order["experiment"])
    with contextlib.suppress(Exception):  # what is wrong shows when it connects
        load_client(order["uri"])
    begin = _next(orders, come)  # what is refused before leaves nothing behind
    if begin is None:
        return
    try:
        store.require()
    except InputError as error:
        say(refusal=str(error))
        return
    say(ready=True)
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)  # trials come first
    search = begin if "search_id" in begin else _next(orders, come)
    if search is not None:
        folder = Path(order["storage"]) / search["name"]
        identity = SearchIdentity(name=search["name"], search_id=search["search_id"], folder=folder)
        spool = Spool(folder / TRACKING)
        with spool.sending():
            sender = Sender(
                store,
                spool,
                identity,
                pages=SearchPages(lambda text: say(warning=text)),
                warn=lambda text: say(warning=text),
                told=lambda num: say(sent=num),
                sync=order["sync"],
            )
            follow(sender, orders, sync=order["sync"])


def _next(orders: Input, come: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first of the orders that have come, which is taken off them; waits for it, if others can come."""
    while not come and not orders.has_ended:
        come += orders.orders(None)
    return come.pop(0) if come else None


def follow(sender: Sender, orders: Input, *, sync: str) -> None:
    """Send what a spool gets, until the driver ends.

    Args:
        sender: of the spool.
        orders: whose end is the driver's.
        sync: command that sends what waits, as people type it.
    """
    backoff, aside = Backoff(), Backoff()
    rest = _POLL_SECONDS
    while not orders.has_ended:
        orders.orders(rest)
        if not backoff.is_over:
            continue
        started = time.monotonic()
        if not sender.send(windows=1):
            backoff.failed()
            continue
        backoff.worked()
        rest = max(_POLL_SECONDS, min(_REST * (time.monotonic() - started), _LONGEST_REST_SECONDS))
        if aside.is_over and not sender.send_aside():
            aside.failed()
    if (num_waiting := sender.num_waiting) > WINDOW:
        say(waiting=num_waiting)
    if sender.send(most_failures=math.inf):  # for what is behind records that do not arrive nobody comes round again
        sender.send_aside()
        sender.interrupt()
    left = sender.left()
    if left.num_waiting:
        waiting = counted(left.num_waiting, "record")
        say(warning=f"{waiting} left in the search's folder ({left.cause}); `{sync}` sends what is there")


if __name__ == "__main__":
    main()
