"""Journal files of studies: how they are locked, and mended after a driver or a machine died."""

import time
from pathlib import Path

from optuna.storages.journal import JournalFileSymlinkLock

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
        self._patience_seconds = patience_seconds

    def acquire(self) -> bool:
        """Take the lock.

        Raises:
            InputError: if another process keeps it.
        """
        begun = time.monotonic()
        while True:
            try:
                self._lock.symlink_to(_target(self._path))
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
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _target(path: Path) -> Path:
    return Path("..", path.resolve().parent.name, path.name)
