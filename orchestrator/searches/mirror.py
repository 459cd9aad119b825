"""The driver's side of a search whose storage is a bucket: what it writes into its working copy is carried there.

The search never waits for it. A bucket that does not answer is asked again and again, and told of once; what the search
finishes meanwhile waits in the working copy, and if the search ends before, that is said with where it waits.
"""

import _thread
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.layout import FOR_PEOPLE, STATE
from orchestrator.searches.lease import Lease, LeaseLostError
from orchestrator.searches.snapshot import OBJECTS, Note, Snapshots, State, fetch, read_note, read_state, write_note
from orchestrator.searches.trial_bucket import TrialBucket
from orchestrator.storage.answers import seconds_for
from orchestrator.storage.bucket import Bucket
from trainables.errors import first_line

CARRY_SECONDS = 5.0
# Rest after carrying, against the time that it took: a large search is carried less often.
_REST = 4.0
_LAST_TRIES, _LAST_SECONDS = 3, 30.0


@contextmanager
def driving(folder: SearchFolder, say: Callable[[str], None]) -> Iterator["Mirror | None"]:
    """Be the one driver of a search whose storage is a bucket, and carry there what it writes; else do nothing.

    Args:
        folder: of the search, which no other process of this machine works in.
        say: takes a line for people.

    Raises:
        InputError: if the search has a driver.
        OSError: if the bucket does not answer, or in the end lacks what the search came to.
    """
    if folder.bucket is None:
        yield None
        return
    lease = Lease(folder.bucket)
    lease.take(say)
    mirror = Mirror(folder.bucket, folder.path, lease, say)
    try:
        with folder.fetching():
            state = read_state(folder.bucket)
            if state is not None and state.id not in read_note(folder.path).ids:
                fetch(folder.bucket, folder.path)  # it went on elsewhere, since we looked
        yield mirror
    except BaseException:
        lacking = _ended(mirror, lease)
        if lacking is not None:
            say(lacking)
        raise
    lacking = _ended(mirror, lease)
    if lacking is not None:
        raise OSError(lacking)


def _ended(mirror: "Mirror", lease: Lease) -> str | None:
    """Carry the last of it and let others drive; what the bucket lacks, for people, if anything."""
    mirror.close()
    if mirror.lacking is None:
        lease.release()
    else:
        lease.leave()
    return mirror.lacking


class Mirror:
    """Carries the state of one search into a bucket, in a thread of its own."""

    def __init__(
        self, bucket: Bucket, folder: Path, lease: Lease, say: Callable[[str], None], *, seconds: float = CARRY_SECONDS
    ) -> None:
        """Take the parts; nothing is carried before `begin`.

        Args:
            bucket: the search's place.
            folder: its working copy.
            lease: held by this driver.
            say: told once of each time that the bucket does not answer.
            seconds: between looks at what is new.
        """
        self.behind: str | None = None
        self._is_lost = False
        self._bucket = bucket
        self._folder = folder
        self._lease = lease
        self._say = say
        self._seconds = seconds
        self._snapshots = Snapshots(folder)
        self._state = State(id="", files={})
        self._stale: set[str] = set()
        self._ended: list[int] = []
        self._num_sent = self._num_bytes = 0  # objects that have arrived, and the size of the one that is on its way
        self._trials = TrialBucket(bucket, folder)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Carry what is there now, and from then on what is new.

        Raises:
            OSError: if the bucket does not take it.
        """
        state = read_state(self._bucket)
        if state is not None:
            self._state = state
        self._stale = set(self._bucket.names(OBJECTS)) - set(self._state.files.values())
        self.carry()
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)
        self._thread.start()

    def ended(self, number: int) -> None:
        """A trial has ended: what it only needed to go on goes, once the bucket knows that."""
        self._ended.append(number)

    def sweep(self, unfinished: frozenset[int]) -> None:
        """Remove what trials left that have ended.

        Args:
            unfinished: numbers of those that have not.
        """
        with suppress(OSError):
            self._ended += [number for number in self._trials.numbers() if number not in unfinished]

    def carry(self) -> None:
        """Bring the bucket to what the search knows now.

        Raises:
            LeaseLostError: if another driver has the search.
            OSError: if the bucket does not take it; it has the state before, then.
        """
        ended = self._ended[:]
        self._lease.keep()
        try:
            files, changed = self._snapshots.take()
            if files != self._state.files:
                there = set(self._state.files.values())
                for checksum, content in changed.items():
                    if checksum not in there:
                        self._send(self._bucket.write, f"{OBJECTS}/{checksum}", content)
                self._lease.keep()
                self._commit(State.of(files))
        except BaseException:
            self._snapshots.forget()
            raise
        self._trials.remove(ended)
        del self._ended[: len(ended)]

    def _send(self, write: Callable[[str, bytes], None], name: str, content: bytes) -> None:
        self._num_bytes = len(content)
        write(name, content)
        self._num_sent += 1

    def _commit(self, state: State) -> None:
        note, there = read_note(self._folder), read_state(self._bucket)
        if there is not None and there.id not in note.ids:  # by one who took our lease for left, or we another's
            raise LeaseLostError("the search has gone on elsewhere")
        # Noted before it is there, so that a kill in between, or an answer that is lost, leaves a working copy that
        # knows of it; and with those before it, of which the bucket may have any.
        write_note(self._folder, replace(note, ids=(*note.ids, state.id)))
        self._send(self._bucket.write_for_certain, STATE, state.to_json())
        write_note(self._folder, Note.of(state))
        before, self._state = set(self._state.files.values()), state
        kept = set(state.files.values())
        # Who reads the state before now is left its objects until the next one.
        gone, self._stale = self._stale - kept, before - kept
        with suppress(OSError):  # what stays is removed by the next start
            for checksum in gone:
                self._bucket.remove(f"{OBJECTS}/{checksum}")

    def _run(self) -> None:
        pause = self._seconds
        while not self._closing.wait(pause):
            started = time.monotonic()
            if not self._carried():
                return
            pause = max(self._seconds, _REST * (time.monotonic() - started))
        # Where it did not answer before, it is asked once more.
        for _ in range(_LAST_TRIES if self.behind is None else 1):
            if not self._carried():
                return
            if self.behind is None:
                self._show()
                return

    def _carried(self) -> bool:
        """Carry, and say so when that fails or works again; whether the search is still ours."""
        try:
            self.carry()
        except LeaseLostError as error:
            self.behind, self._is_lost = str(error), True
            self._say(f"{self.behind}; this process ends")
            _thread.interrupt_main()
            return False
        except Exception as error:  # whatever it is, the search is not to end with its bucket left behind unheard
            if self.behind is None:
                self._say(
                    f"{self._bucket.shown} does not take what the search writes ({first_line(error)}); the search "
                    "goes on, and it is tried again"
                )
            self.behind = first_line(error)
        else:
            if self.behind is not None:
                self._say(f"{self._bucket.shown} has all that the search wrote")
            self.behind = None
        return True

    def _show(self) -> None:
        """Put what people look for under its own name as well."""
        with suppress(OSError):
            for name in FOR_PEOPLE:
                if (self._folder / name).is_file():
                    self._bucket.write(name, (self._folder / name).read_bytes())

    @property
    def lacking(self) -> str | None:
        """What people are to know if the bucket lacks the last of it."""
        if self.behind is None:
            return None
        where = f"{self._bucket.shown} lacks the last of what this process came to ({self.behind}); it is kept in "
        if self._is_lost:
            return f"{where}{self._folder}, and put beside it when this machine next opens the search"
        return f"{where}{self._folder}, and --resume on this machine takes it there"

    def close(self) -> None:
        """Carry the last of it, for as long as the bucket takes anything; `lacking` then says what kept it."""
        if self._thread is None:
            return
        self._closing.set()
        num_sent = -1
        while self._thread.is_alive() and num_sent != self._num_sent:
            num_sent = self._num_sent
            self._thread.join(timeout=_LAST_SECONDS + seconds_for(self._num_bytes))
        if self._thread.is_alive():
            self.behind = self.behind or "it does not answer"
