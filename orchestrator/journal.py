"""What a killed driver may leave of a study's journal, and its mending."""

import json
import os
from pathlib import Path

_LOCK_SUFFIX = ".lock"


def mend(path: Path) -> None:
    """Make a journal usable again; only for whoever is the only one to write to it.

    A process that is killed while it writes leaves its lock, on which the next one would wait for half a minute (and
    for ever where the folder was moved, as the lock names a file that is not there). A disk that is full or a machine
    that stops leaves half a record, which could not be read any more once another one stood behind it.

    Args:
        path: the journal; one that does not exist is left so.
    """
    for lock in path.parent.glob(f"{path.name}{_LOCK_SUFFIX}*"):
        lock.unlink(missing_ok=True)
    if not path.exists():
        return
    content = path.read_bytes()
    end = whole = len(content)
    while whole and not _is_record(content, whole):
        whole = content.rfind(b"\n", 0, whole - 1) + 1
    if whole < end:
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())


def _is_record(content: bytes, end: int) -> bool:
    """Whether the last line before `end` is a whole record."""
    line = content[content.rfind(b"\n", 0, end - 1) + 1 : end]
    if not line.endswith(b"\n"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
