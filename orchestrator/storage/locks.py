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
        InputError: if a process works in it already, or there can be no folder there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileNotFoundError, NotADirectoryError, FileExistsError) as error:
        raise InputError(f"{folder} cannot be made ({error.strerror}); choose another place") from error
    with (folder / _FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _runs(folder, what) from error
        yield


def require_free(folder: Path, what: str) -> None:
    """See early that no other process works in a folder; one may begin to until `locked` keeps it out.

    Args:
        folder: to work in.
        what: it holds, for people, such as `search`.

    Raises:
        InputError: if a process works in it already.
    """
    if is_locked(folder):
        raise _runs(folder, what)


def _runs(folder: Path, what: str) -> InputError:
    return InputError(f"{what} {folder.name!r} is running in another process; wait for it or stop it")


def is_locked(folder: Path) -> bool:
    """Whether a process of this machine works in a folder."""
    try:
        with (folder / _FILE).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    return False
