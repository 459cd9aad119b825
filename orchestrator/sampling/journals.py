"""Journal files of studies: how they are locked and written, and mended after a driver or a machine died."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from orchestrator.storage.lines import append_lines, drop_half_line
from trainables.errors import InputError


class JournalLock(JournalFileSymlinkLock):
    """Optuna's lock of a journal, a symbolic link beside it, which other tools respect too; but it waits only so long.

    Optuna's own takes a lock by force after half a minute, from the living as from the dead.
    """

    def __init__(self, path: Path, *, patience_seconds: float = 10.0) -> None:
        """Name the journal.

        Args:
            path: the journal file.
            patience_seconds: how long another process may hold the lock; a write takes milliseconds.
        """
        super().__init__(str(path))
        self._path = path
        self._lock = _lock_of(path)
        self._target = _target(path)  # once, as a trial takes the lock ten times
        self._patience_seconds = patience_seconds

    def acquire(self) -> bool:
        """Take the lock.

        Raises:
            InputError: if another process keeps it.
        """
        begun = time.monotonic()
        while True:
            try:
                self._lock.symlink_to(self._target)
            except FileExistsError:
                if time.monotonic() - begun > self._patience_seconds:
                    raise InputError(
                        f"{self._path} is locked by another process; end what writes to it, or remove {self._lock} "
                        "if nothing does"
                    ) from None
                time.sleep(0.001)
            else:
                return True

    def release(self) -> None:
        """Give the lock back."""
        self._lock.unlink()


class JournalFile(JournalFileBackend):
    """Optuna's journal file, whose lines can be forced to the disk together.

    Optuna forces each line, of which a trial has ten, and a disk takes milliseconds for it.
    """

    def __init__(self, path: Path) -> None:
        """Name the file, which is made if it is not there."""
        super().__init__(str(path), lock_obj=JournalLock(path))
        self._path = path
        self._holds = 0
        self._is_behind = False

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines, which every process sees at once; on the disk when this returns, or when `together` ends."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._lock.acquire()
        try:
            append_lines(self._path, lines.encode())
        finally:
            self._lock.release()
        self._is_behind = True
        self._force()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Force what is written within once, at the end."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._force()

    def _force(self) -> None:
        if self._is_behind and not self._holds:
            with self._path.open("ab") as file:
                os.fsync(file.fileno())
            self._is_behind = False


def mend_journal(path: Path) -> None:
    """Undo what a writer that died has left: its lock, and the half of a line.

    Only for whoever is certain to be the only driver of the study.

    Args:
        path: the journal file; one that does not exist needs nothing.
    """
    lock = _lock_of(path)
    # Links of other tools say where the journal is in another way, and those tools may be alive.
    if lock.is_symlink() and lock.readlink() == _target(path):
        lock.unlink()
    if path.exists():
        drop_half_line(path)


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _target(path: Path) -> Path:
    return Path("..", path.resolve().parent.name, path.name)
