"""A folder in which one process of a machine works at a time, by the lock on a file in it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainables.errors import InputError

_FILE = "lock"


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Keep a second process out of a folder, which is made if it is not there.

    Args:
        folder: to work in.
        what: it holds, for people, such as `search`.

    Raises:
        InputError: if a process works in it already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{what} {folder.name!r} is running in another process; wait for it or stop it") from error
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process of this machine works in a folder."""
    try:
        with (folder / _FILE).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
