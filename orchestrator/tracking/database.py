"""The tracking database of a storage folder: made whole or not at all, and what to do where it does not open."""

import fcntl
import os
import re
import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from orchestrator.addresses import database_file, database_uri
from orchestrator.searches.layout import ARTIFACTS
from orchestrator.tracking.faults import FULL, cause_of, root_of

_ASIDE = ".mlflow.db-"
_BESIDE = ("", "-journal", "-wal", "-shm")  # what SQLite keeps next to a database
# What is wrong with the file, as its own message says it, and the mend.
_MENDS: Mapping[str, str] = MappingProxyType(
    {
        FULL: "make room on its disk, and start again",
        "is locked": "end the process that keeps it locked, or start again once that is done",
        "readonly|unable to open|denied|not permitted|Read-only": "change the permissions of the file and its folder",
        "I/O error": "see whether its disk works and has room",
        "out-of-date database schema|locate revision": "it was made by another version of MLflow: install that, or "
        "keep a copy of the file and run `mlflow db upgrade {uri}`",
    }
)


def make_database(storage: Path) -> None:
    """Make the database of a storage folder if it is not there; one that has its name is whole.

    MLflow makes one in dozens of steps, and cannot go on with one that was left between two of them. So it is made in
    a folder aside, which the next process removes if this one is killed.

    Args:
        storage: folder of the searches.

    Raises:
        Exception: whatever MLflow or the file system raises; nothing is left then.
    """
    file = database_file(storage)
    if os.path.lexists(file) and not any(storage.glob(f"{_ASIDE}*")):
        return
    with (storage / ".mlflow.db.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in storage.glob(f"{_ASIDE}*"):
            shutil.rmtree(left, ignore_errors=True)
        if os.path.lexists(file):
            return
        with TemporaryDirectory(prefix=_ASIDE, dir=storage, ignore_cleanup_errors=True) as aside:
            _put(_made(Path(aside), artifacts=file.parent / ARTIFACTS), file)


def _made(folder: Path, *, artifacts: Path) -> Path:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(database_uri(folder), artifacts.as_uri()).engine.dispose()
    return database_file(folder)


def _put(made: Path, file: Path) -> None:
    for beside in _BESIDE[1:]:  # of a database that is gone; SQLite would roll it back into the new one
        Path(f"{file}{beside}").unlink(missing_ok=True)
    try:
        os.link(made, file)  # which, unlike renaming, does not replace what has come meanwhile
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        made.rename(file)


def refusal(error: Exception, storage: Path) -> str:
    """Why the database of a storage folder does not work, and the mend.

    Args:
        error: what was raised.
        storage: folder of the searches.
    """
    file, cause = database_file(storage), cause_of(error)
    for sign, mend in _MENDS.items():
        if re.search(sign, cause, re.IGNORECASE):
            return f"{file} does not work: {cause}; {mend.format(uri=database_uri(storage))}"
    if not isinstance(root_of(error), sqlite3.Error):
        return f"tracking in {file} does not work: {cause}; tracking.uri or MLFLOW_TRACKING_URI name another place"
    damaged = [name for beside in _BESIDE if Path(name := f"{file}{beside}").exists()]
    return (
        f"{file} is damaged or was left half made: {cause}; move {' and '.join(damaged)} aside and start again, which "
        "makes a new one; `cascade sync NAME --again` sends it what an earlier search had recorded"
    )


def is_full(error: Exception) -> bool:
    """Whether a database file could not be written for want of room."""
    return isinstance(root_of(error), sqlite3.Error) and re.search(FULL, cause_of(error)) is not None
