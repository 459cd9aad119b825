"""Records that wait for MLflow: an append-only file of JSON lines, and how far it has been sent to each address.

One process appends, one sends. A line that a kill has cut in two is no record.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from orchestrator.searches.layout import SPOOL
from orchestrator.storage.lines import append_lines
from orchestrator.storage.whole_files import remove_left, write_atomically

_RETRY_SECONDS = 1.0
Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Spooled:
    """A record as it lies in the spool.

    Attributes:
        start: offset of its line, in bytes.
        end: offset of the next one's.
        record: what it says.
    """

    start: int
    end: int
    record: Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a spool has been sent to one address.

    Attributes:
        offset: all that begins before this byte has been sent, refused or set aside.
        aside: offsets of records that are to be tried again, as only the store of artifacts did not take them.
    """

    offset: int = 0
    aside: tuple[int, ...] = field(default=())


class Spool:
    """The records of one search, in a folder of its own."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Say where; the folder is made by the first record.

        Args:
            folder: `tracking` in the search's folder.
            clock: seconds, by which writing is tried again.
        """
        self.folder = folder
        self.path = folder / PurePath(SPOOL).name
        self._unwritten: list[bytes] = []
        self._clock, self._next_try = clock, 0.0

    def append(self, *records: Record) -> None:
        """Write records down, all or none if we are killed; where that cannot be, they are written with later ones.

        Raises:
            OSError: if it could not be written now, as the disk is full say; not again within a second.
        """
        self._unwritten += [json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records]
        if self._clock() >= self._next_try:
            self._write()

    def close(self) -> None:
        """Write what is in memory still, if that can be."""
        if self._unwritten:
            with contextlib.suppress(OSError):
                self._write()

    def _write(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            append_lines(self.path, b"".join(self._unwritten))
        except OSError:
            self._next_try = self._clock() + _RETRY_SECONDS  # all that waits is written at once, which takes its time
            raise
        self._unwritten = []

    def read(self, offset: int = 0, *, most: int | None = None) -> tuple[list[Spooled], int]:
        """Records from an offset on.

        Args:
            offset: where a line begins; beyond the end of the file it is taken for its end.
            most: records to read; all there are if left out.

        Returns:
            The records, and the offset from which to read on.
        """
        found: list[Spooled] = []
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return [], offset
        with file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n") or (most is not None and len(found) >= most):
                    break
                start, offset = offset, offset + len(line)
                with contextlib.suppress(ValueError):
                    record = json.loads(line)
                    if isinstance(record, dict):
                        found.append(Spooled(start=start, end=offset, record=record))
        return found, offset

    def make_durable(self) -> None:
        """See to it that a crash of the machine leaves all that can be read now, or it would be told twice."""
        with contextlib.suppress(OSError):
            file = os.open(self.path, os.O_RDWR)
            try:
                os.fsync(file)
            finally:
                os.close(file)

    def progress(self, address: str) -> Progress:
        """How far it has been sent to an address; a damaged note counts as none, since sending again does no harm."""
        try:
            plain = json.loads(self._note(address).read_text(encoding="utf-8"))
            offset, aside = int(plain["offset"]), tuple(map(int, plain["aside"]))
            size = self.path.stat().st_size
        except (OSError, ValueError, KeyError, TypeError):
            return Progress()
        # After a crash of the machine the note may know more than the file.
        return Progress(offset=min(offset, size), aside=tuple(start for start in aside if start < size))

    def note_progress(self, address: str, progress: Progress) -> None:
        """Remember how far it has been sent to an address.

        Raises:
            OSError: if that cannot be written.
        """
        content = {"address": address, "offset": progress.offset, "aside": list(progress.aside)}
        write_atomically(self._note(address), (json.dumps(content) + "\n").encode())

    def num_waiting(self, address: str) -> int:
        """Records that have not been sent to an address."""
        progress = self.progress(address)
        return len(self.read(progress.offset)[0]) + len(progress.aside)

    def _note(self, address: str) -> Path:
        return self.folder / f"sent-{hashlib.sha256(address.encode()).hexdigest()[:12]}.json"

    @contextlib.contextmanager
    def sending(self) -> Iterator[None]:
        """Keep a second sender out; waits for one that is there, and removes what one that was killed left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            remove_left(self.folder)
            yield
