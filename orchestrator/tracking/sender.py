"""The courier itself: takes records from a search's spool to MLflow in their order, each until it has arrived.

A record that is refused while others are taken is told and left out. One that only the store of artifacts does not take
is set aside and tried again later. While the server is down, or its database cannot be written, everything waits.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.addresses import without_credentials
from orchestrator.tracking.batches import identity, is_artifact, is_page, steps
from orchestrator.tracking.faults import cause_of, fault_of
from orchestrator.tracking.ledger import Ledger
from orchestrator.tracking.spool import Progress, Spool, Spooled
from orchestrator.tracking.store import MlflowStore, RunGone, SearchIdentity

WINDOW = 200  # records that are sent together


class Pages(Protocol):
    """What is made of a search beside its figures."""

    def draw(self, store: MlflowStore, search: SearchIdentity) -> None:
        """Draw the overview and keep it with the search."""

    def register(self, store: MlflowStore, search: SearchIdentity, record: dict[str, Any]) -> None:
        """Register networks, and move aliases."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """What came of sending.

    Attributes:
        num_waiting: records that are still to be sent.
        cause: why; `None` where nothing waits.
    """

    num_waiting: int
    cause: str | None = None


class Sender:
    """Sends one spool to one store. One at a time, which `Spool.sending` sees to."""

    def __init__(
        self,
        store: MlflowStore,
        spool: Spool,
        search: SearchIdentity,
        *,
        pages: Pages,
        warn: Callable[[str], None],
        told: Callable[[int], None] = lambda _num: None,
        sync: str = "cascade sync",
    ) -> None:
        """Take the parts.

        Args:
            store: where to.
            spool: where from.
            search: which one it is of.
            pages: draws and registers.
            warn: takes a line for people; each text once.
            told: hears of each window how many records were sent, and within one that something was, as of 0 records.
            sync: command that sends what waits, as people type it.
        """
        self._store, self._spool, self._search, self._pages = store, spool, search, pages
        self._warn, self._told, self._sync = warn, told, sync
        self._warned: set[str] = set()
        self._progress = spool.progress(store.place)
        self._cause: str | None = None
        store.follow(search)

    @property
    def num_waiting(self) -> int:
        """Records that are still to be sent."""
        return len(self._spool.read(self._progress.offset)[0]) + len(self._progress.aside)

    def rewind(self) -> None:
        """Send everything again; what is there is recognised."""
        self._progress = Progress()

    def send(self, *, windows: float = math.inf) -> bool:
        """Send what there is now, or so many windows of it; whether the server took it, or at least answered."""
        num_sent = 0
        while num_sent < windows:
            window, end = self._spool.read(self._progress.offset, most=WINDOW)
            if not window:
                break
            self._spool.make_durable()
            if not (self._send_together(window, end) or all(self._send_one(one) for one in window)):
                return False
            self._told(len(window))
            num_sent += 1
        return True

    def send_aside(self) -> bool:
        """Try again what was set aside or put off; whether nothing of it is left."""
        for start in self._progress.aside:
            window, _ = self._spool.read(start, most=1)
            try:
                self._apply(window)
            except Exception as error:
                self._note_artifact_fault(error)
                return False
            left = tuple(other for other in self._progress.aside if other != start)
            self._note(Progress(offset=self._progress.offset, aside=left))
            self._told(1)
        return True

    def left(self) -> Left:
        """What is still to be sent, and why."""
        waiting = self.num_waiting
        return Left(num_waiting=waiting, cause=self._cause if waiting else None)

    def interrupt(self) -> None:
        """Close runs that the spool has open, as their driver has died."""
        ledger = Ledger(one.record for one in self._spool.read()[0])
        with contextlib.suppress(Exception):
            self._store.interrupt(ledger.open_runs())

    def _send_together(self, window: Sequence[Spooled], end: int) -> bool:
        # While much is left, pages would only be drawn to be replaced.
        put_off = [one for one in window if len(window) == WINDOW and is_page(one.record)]
        try:
            self._apply([one for one in window if one not in put_off])
        except Exception:  # it is told of the record that it is about
            self._store.forget()
            return False
        last = {identity(one.record): one.start for one in put_off}
        self._advance(
            end, {identity(one.record) for one in window if is_artifact(one.record)}, tuple(sorted(last.values()))
        )
        return True

    def _send_one(self, one: Spooled) -> bool:
        """Send a record, set it aside or leave it out; false where the server takes nothing now."""
        for _attempt in (1, 2):
            try:
                self._apply([one])
            except Exception as error:
                cause = error
                self._store.forget()
            else:
                self._advance(one.end, {identity(one.record)} if is_artifact(one.record) else set())
                return True
            if not self._answers():
                return False
        aside: tuple[int, ...] = ()
        if isinstance(cause, RunGone):
            self._warn_once(
                f"the run of {one.record['run']} was deleted there; what comes of it is left out, and "
                f"`{self._sync} --again` records it anew"
            )
        elif is_artifact(one.record):
            self._note_artifact_fault(cause)
            aside = (one.start,)
        elif fault_of(cause) == "unwritable":  # where there is no room for a record there may be some for a probe
            self._note_fault(cause)
            return False
        else:
            self._warn_once(f"a record was refused: {self._said(cause)}")
        self._advance(one.end, {identity(one.record)} if aside else set(), aside)
        return True

    def _apply(self, window: Sequence[Spooled]) -> None:
        store = self._store
        for kind, record, batch in steps(window):
            assert record is not None
            run = record["run"]
            if batch:
                store.log(run, metrics=batch.metrics, params=batch.params, tags=batch.tags)
            if kind == "open":
                store.open(record)
            elif kind == "close":
                store.close(run, record["status"], record["time"], tags=record["tags"])
            elif kind == "text":
                store.write(run, record["path"], record["text"])
            elif kind == "file":
                store.copy(run, self._search.folder / record["source"], record["folder"])
            elif kind == "data":
                store.read(run, record["sets"])
            elif kind == "overview":
                self._pages.draw(store, self._search)
            elif kind == "register":
                self._pages.register(store, self._search, record)
            self._told(0)  # a window takes a slow server long

    def _answers(self) -> bool:
        try:
            self._store.probe()
        except Exception as error:
            self._note_fault(error)
            return False
        return True

    def _note_fault(self, error: BaseException) -> None:
        self._cause = self._said(error)
        how = "lets us write no more" if fault_of(error) == "denied" else "takes no records now"
        self._warn_once(f"it {how} ({self._cause}); records are kept and sent when it does again")

    def _note_artifact_fault(self, error: BaseException) -> None:
        self._cause = self._said(error)
        text = f"it takes figures, but no files ({self._cause}); these are kept and sent when it does again"
        self._warn_once(text, about="files")  # the cause may name each file

    def _advance(self, offset: int, done: set[tuple[str, ...]], aside: tuple[int, ...] = ()) -> None:
        """Note how far records are sent; what was set aside and has been replaced since is not sent any more."""
        kept = tuple(start for start in self._progress.aside if not done or self._identity(start) not in done)
        self._note(Progress(offset=offset, aside=kept + aside))

    def _identity(self, start: int) -> tuple[str, ...]:
        window, _ = self._spool.read(start, most=1)
        return identity(window[0].record) if window else ()

    def _note(self, progress: Progress) -> None:
        self._progress = progress
        try:
            self._spool.note_progress(self._store.place, progress)
        except OSError as error:  # then it is sent again some time, which changes nothing
            self._warn_once(f"{self._spool.folder} cannot be written ({error.strerror})")

    def _said(self, error: BaseException) -> str:
        return without_credentials(cause_of(error), self._store._uri)

    def _warn_once(self, text: str, *, about: str | None = None) -> None:
        if (about or text) not in self._warned:
            self._warned.add(about or text)
            self._warn(text)
