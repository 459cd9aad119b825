"""The courier itself: takes records from a search's spool to MLflow in their order, each until it has arrived.

A record that MLflow refuses is told and left out. One that did not arrive while the server answers, as a proxy or the
store of artifacts does not take it, is set aside and tried again later, and so is what has to wait for it. While the
server is down, takes none of some records that follow one another, or its database cannot be written, everything waits.
"""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import sleep
from typing import Any, Protocol

from orchestrator.addresses import without_credentials
from orchestrator.tracking.batches import held, identity, is_artifact, is_page, steps
from orchestrator.tracking.faults import cause_of, fault_of
from orchestrator.tracking.ledger import Ledger
from orchestrator.tracking.spool import Progress, Spool, Spooled
from orchestrator.tracking.store import MlflowStore, RunGone, SearchIdentity

WINDOW = 200  # records that are sent together
_PAUSES = (0.0, 1.0, 2.0, 4.0)  # seconds before a record is tried again; after the first one where that may help
_MOST_FAILURES = 3  # in a row, until the server is taken for one that takes nothing now


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
            told: hears how many records were sent; of 0 while they are, as something was or the server answers.
            sync: command that sends what waits, as people type it.
        """
        self._store, self._spool, self._search, self._pages = store, spool, search, pages
        self._warn, self._told, self._sync = warn, told, sync
        self._warned: set[str] = set()
        self._progress = spool.progress(store.place)
        self._cause: str | None = None
        self._begun: set[str] = set()  # runs, as far as they were begun here
        self._num_failed = 0  # records in a row, but for artifacts, that were set aside as they did not arrive
        self.num_left_out = 0
        """Records that were not sent and do not wait, as MLflow refused them or has no run for them."""
        self._records: dict[int, list[Spooled]] = {}  # what was set aside, as far as it was looked at
        store.follow(search)

    @property
    def num_waiting(self) -> int:
        """Records that are still to be sent."""
        return len(self._spool.read(self._progress.offset)[0]) + len(self._progress.aside)

    def rewind(self) -> None:
        """Send everything again; what is there is recognised."""
        self._progress = Progress()

    def send(self, *, windows: float = math.inf, most_failures: float = _MOST_FAILURES) -> bool:
        """Send what there is now, or some windows; false where the server is down or so many records in a row fail."""
        while windows > 0:
            window, end = self._spool.read(self._progress.offset, most=WINDOW)
            if not window:
                break
            self._spool.make_durable()
            if not (self._send_together(window, end) or all(self._send_one(one, most_failures) for one in window)):
                return False
            windows -= 1
        return True

    def send_aside(self) -> bool:
        """Try again what was set aside or put off; whether nothing of it is left.

        What fails is the last to be tried the next time, so that it holds up nothing else.
        """
        num_failed = 0
        waits: set[int] = set()
        for start in self._progress.aside:
            if start in waits:
                continue
            window = self._aside(start)
            cause = self._attempt(window)
            if cause is not None and not self._answers():
                return False
            if cause is not None and self._keeps(window[0], cause):
                last = (start, *(other.start for other in held(self._asides(after=start), window, self._begun)))
                waits.update(last)  # after all that it waits for, here as ever
                self._note_aside((*(other for other in self._progress.aside if other not in last), *last))
                num_failed += 1
                if num_failed == _MOST_FAILURES:
                    return False
                continue
            self._note_aside(tuple(other for other in self._progress.aside if other != start))
            if cause is None:
                num_failed = 0
                self._told(1)
        return not self._progress.aside

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
        later = {one.start: one for one in (*held(window, self._asides(), self._begun), *put_off)}
        now = [one for one in window if one.start not in later]
        if self._attempt(now) is not None:  # it is told of the record that it is about
            return False
        if now:
            self._num_failed = 0
        last = {identity(one.record) if is_artifact(one.record) else start: start for start, one in later.items()}
        done = {identity(one.record) for one in window if is_artifact(one.record)}
        self._advance(end, done, tuple(sorted(last.values())))
        self._told(len(now))
        return True

    def _send_one(self, one: Spooled, most_failures: float) -> bool:
        """Send a record, set it aside or leave it out; false where the server takes nothing now."""
        done = {identity(one.record)} if is_artifact(one.record) else set()
        if held([one], self._asides(), self._begun):
            self._advance(one.end, done, (one.start,))
            return True
        cause = self._attempt([one])
        pauses = _PAUSES if not done and self._num_failed < _MOST_FAILURES else _PAUSES[:1]
        for pause in pauses:
            if cause is None or (pause and fault_of(cause) != "passing"):
                break
            if not self._answers():
                return False
            sleep(pause)
            cause = self._attempt([one])
        if cause is None:
            self._num_failed = self._num_failed if done else 0
            self._advance(one.end, done)
            self._told(1)
            return True
        if not self._answers():
            return False
        if not done and fault_of(cause) == "unwritable":  # where there is no room for a record there may be for a probe
            self._note_fault(cause)
            return False
        if not self._keeps(one, cause):
            self._advance(one.end, set())
            return True
        self._advance(one.end, done, (one.start,))
        self._num_failed += not done
        return bool(done) or self._num_failed < most_failures

    def _attempt(self, window: Sequence[Spooled]) -> Exception | None:
        """Send records; what came between."""
        try:
            self._apply(window)
        except Exception as error:
            self._store.forget()
            return error
        return None

    def _keeps(self, one: Spooled, cause: Exception) -> bool:
        """Whether a record that was not taken is to be tried again; if not it is left out. Either is told."""
        if isinstance(cause, RunGone):
            self._warn_once(
                f"the run of {one.record['run']} was deleted there or never begun; what comes of it is left out, and "
                f"`{self._sync} --again` records it anew"
            )
        elif is_artifact(one.record):
            self._note_artifact_fault(cause)
            return True
        elif fault_of(cause) in ("passing", "unwritable"):
            self._note_fault(cause)
            return True
        else:
            self._warn_once(f"a record was refused: {self._said(cause)}")
        self.num_left_out += 1
        return False

    def _apply(self, window: Sequence[Spooled]) -> None:
        store = self._store
        for kind, record, batch in steps(window):
            assert record is not None
            run = record["run"]
            if batch:
                store.log(run, metrics=batch.metrics, params=batch.params, tags=batch.tags)
            if kind == "open":
                store.open(record)
                self._begun.add(run)
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
        self._told(0)  # all tries of a record take longer than one waits without news
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
        window = self._aside(start)
        return identity(window[0].record) if window else ()

    def _aside(self, start: int) -> list[Spooled]:
        """What was set aside there; none where the spool does not have it any more."""
        if start not in self._records:
            self._records[start], _ = self._spool.read(start, most=1)
        return self._records[start]

    def _asides(self, *, after: int = -1) -> list[Spooled]:
        """All that was set aside after a place in the spool, in its order."""
        return [one for start in sorted(self._progress.aside) if start > after for one in self._aside(start)]

    def _note_aside(self, aside: tuple[int, ...]) -> None:
        self._note(Progress(offset=self._progress.offset, aside=aside))

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
