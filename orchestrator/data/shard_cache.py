"""Sets of shards on this machine's disk, of which each has the files that were fetched so far.

A set lies in `data` of the machine's cache under the checksum of its `shards.json`, so that a set that changes is
another one. A file appears in it once it is whole. Who uses a set holds its lock together with others, who removes it
holds it alone; one at a time brings files. Sets that nobody uses make room, the one that was not used longest first.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from orchestrator.storage.bucket import cache_folder
from trainables.errors import MachineError

_MARGIN_BYTES = 2**28  # that stay free on the disk


def set_folder(key: str) -> Path:
    """Where a set lies that has this checksum."""
    return cache_folder() / "data" / key


def hold(folder: Path) -> BinaryIO:
    """Make the folder of a set, which stays until what is returned is closed.

    Raises:
        MachineError: if the disk takes nothing.
    """
    with keeping(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = _open_lock(folder)
        try:
            fcntl.flock(lock, fcntl.LOCK_SH)
            os.utime(lock.fileno())
            folder.mkdir(exist_ok=True)
        except BaseException:
            lock.close()
            raise
    return lock


@contextmanager
def bringing(folder: Path) -> Iterator[None]:
    """Be the only one that brings files into a set; waits for another to be done."""
    with keeping(folder.parent):
        lock = folder.with_name(f"{folder.name}.bringing").open("a+b")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def keeping(folder: Path) -> Iterator[None]:
    """Say that the disk takes nothing."""
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"shards cannot be kept in {folder}: {error.strerror or error}; make room or mend its permissions, or "
            "choose another folder by CASCADE_CACHE"
        ) from error


def make_room(folder: Path, num_bytes: int) -> None:
    """Remove sets that nobody uses, until a set has room for so many bytes more.

    Raises:
        MachineError: if there is too little.
    """

    def last_used(lock: Path) -> float:
        return lock.stat().st_mtime

    needed = num_bytes + _MARGIN_BYTES
    for lock in sorted(folder.parent.glob("*.lock"), key=last_used):
        if shutil.disk_usage(folder.parent).free >= needed:
            return
        if lock.stem != folder.name:
            _remove_unused(lock.with_suffix(""))
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise MachineError(
            f"the disk of {folder.parent} has {free / 1e6:,.0f} MB left, but the shards take {num_bytes / 1e6:,.0f} MB "
            "more; make room, or choose another folder by CASCADE_CACHE"
        )


def _remove_unused(folder: Path) -> None:
    with _open_lock(folder) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(folder, ignore_errors=True)


def _open_lock(folder: Path) -> BinaryIO:
    return folder.with_name(f"{folder.name}.lock").open("a+b")
