"""Artifacts of a storage folder that was moved or renamed: MLflow's database holds where they lay.

Locations there are absolute: as they are, artifacts of old runs would be looked for in the folder that is gone, and
those of new ones would bring it back.
"""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from orchestrator.addresses import database_file
from orchestrator.searches.folder import folders_with
from orchestrator.searches.layout import ARTIFACTS

_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_OURS = re.compile(rf"(file://.*/{ARTIFACTS})(/\d+)?")  # with a number where MLflow's own pages made the experiment
_BUSY_SECONDS = 20.0


def follow_move(storage: Path) -> bool:
    """Put locations right that were in this storage folder when it had another place; whether there were any.

    Only where a run's artifacts are here, and no longer there or where this user may not write, as a colleague's are
    of whom the folder was copied; another copy goes on with those of the original. Nothing is
    touched while a search or study runs here, to which the folder may be under another path that works: in a
    container, say, or where machines mount it in different places.

    Args:
        storage: folder of the searches, with its own database in it.

    Raises:
        sqlite3.Error: if the database is damaged, or is being written to for long.
    """
    file = database_file(storage)
    here = file.parent / ARTIFACTS
    if not (file.is_file() and here.is_dir()) or _is_busy(storage):
        return False
    with closing(sqlite3.connect(file, timeout=_BUSY_SECONDS)) as database, database:
        places = _places(database) - {here.as_uri()}
        old_places = [old for old in places if _came_along(database, old, here)]
        for old in old_places:
            for table, column in _LOCATIONS:
                database.execute(
                    f"UPDATE {table} SET {column} = :here || substr({column}, length(:old) + 1) "
                    f"WHERE {column} = :old OR {_within(column)}",
                    {"here": here.as_uri(), "old": old},
                )
    return bool(old_places)


def _places(database: sqlite3.Connection) -> set[str]:
    """Folders of artifacts as a storage folder has one, that experiments are said to be in."""
    locations = database.execute("SELECT DISTINCT artifact_location FROM experiments")
    return {found[1] for (location,) in locations if (found := _OURS.fullmatch(location or ""))}


def _is_busy(storage: Path) -> bool:
    try:
        return any(folder.is_locked for folder in folders_with(storage, "lock"))
    except PermissionError:  # somebody else's, which may run
        return True


def _came_along(database: sqlite3.Connection, old: str, here: Path) -> bool:
    there = _path(urlsplit(old).path)
    runs: Iterator[tuple[str]] = database.execute(
        f"SELECT artifact_uri FROM runs WHERE {_within('artifact_uri')}", {"old": old}
    )
    is_closed = _is_closed(there, here)
    of_runs = (_path(location[len(old) + 1 :]) for (location,) in runs)
    return any((here / of_run).exists() and (is_closed or _is_gone(there / of_run)) for of_run in of_runs)


def _is_closed(there: Path, here: Path) -> bool:
    """Whether this user cannot write to a folder that is there; this one under another path does not count."""
    if os.access(there, os.W_OK | os.X_OK):
        return False
    try:
        return not there.samefile(here)
    except PermissionError:  # of one above it
        return True
    except OSError:  # it is gone, or it may be there
        return False


def _is_gone(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # it may be there
        return False
    return False


def _within(column: str) -> str:
    return f"substr({column}, 1, length(:old) + 1) = :old || '/'"


def _path(quoted: str) -> Path:
    return Path(unquote(quoted))
