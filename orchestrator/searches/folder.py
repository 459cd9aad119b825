"""A search's folder: where its parts lie, who works in it, and what it was made for."""

import fcntl
import json
import os
import re
import shlex
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from orchestrator.addresses import DEFAULT_STORAGE
from orchestrator.experiment.config import Experiment, parse_experiment
from orchestrator.experiment.yaml_text import what_is_wrong
from orchestrator.front.archive import Archive
from orchestrator.searches.layout import (
    ARCHIVE,
    ARTIFACTS,
    DATA_DIGEST,
    EXPERIMENT,
    JOURNAL,
    RUNGS,
    SEARCH_ID,
    STAGES,
    STATE,
    TEACHER,
    TEACHER_RESULT,
    WRITTEN,
)
from orchestrator.storage.bucket import Bucket
from orchestrator.storage.locks import is_locked, locked, require_free
from orchestrator.storage.whole_files import remove_left, write_atomically
from trainables.errors import InputError, first_line, shown
from trainables.results import TeacherResult

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MOST_LETTERS = 200  # of a name, of the 255 bytes that a folder's may have
# What all searches of a storage folder share.
_SHARED = (STAGES, ARTIFACTS, "mlflow.db")


def read_teacher_result(path: Path) -> TeacherResult:
    """The teacher's figures from their file.

    Raises:
        InputError: if it is damaged.
    """
    try:
        return TeacherResult.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path} is damaged ({first_line(error)}), and what candidates lose is told by the teacher's figures; put "
            "it back from a copy, or search under another --name"
        ) from error


def require_name(name: str, *, mend: str) -> None:
    """Check that a name could be a folder's.

    Raises:
        InputError: if it could not, with what is to be done.
    """
    if not _may_be(name):
        raise InputError(
            f"the name is {shown(name)}, but must be up to {_MOST_LETTERS} letters a to z, digits, dots, dashes and "
            f"underscores, the first of them a letter or a digit; {mend}"
        )


def _may_be(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and len(name) <= _MOST_LETTERS


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchFolder:
    """`storage/name` and what lies in it.

    Attributes:
        storage: folder of all searches; holds the MLflow store too.
        name: of the search.
        bucket: the place of the search in a bucket, of which the folder is this machine's working copy; `None` where
            the folder is the search.
    """

    storage: Path
    name: str
    bucket: Bucket | None = None

    def __post_init__(self) -> None:
        """Check the name.

        Raises:
            InputError: if it could not be a folder's name.
        """
        alone = Path(self.name).name
        such_as = f" ({alone})" if _may_be(alone) else ""
        require_name(self.name, mend=f"give the search's name alone{such_as}, and its folder's place by --storage")
        if self.name.casefold() in _SHARED:  # the same folder on a file system that ignores case, as macOS has
            raise InputError(f"the name is {self.name!r}, which all searches share; give another")

    @property
    def path(self) -> Path:
        """The folder itself, absolute."""
        return self.storage.resolve() / self.name

    @property
    def archive(self) -> Archive:
        """Its candidates."""
        return Archive(self.path / ARCHIVE)

    @property
    def study_file(self) -> Path:
        """Its Optuna journal."""
        return self.path / JOURNAL

    @property
    def rungs_file(self) -> Path:
        """What early stopping has seen and decided."""
        return self.path / RUNGS

    @property
    def teacher(self) -> Path:
        """Its teacher's folder."""
        return self.path / TEACHER

    @property
    def stages(self) -> Path:
        """Finished stages, of this search and its neighbours."""
        return self.storage.resolve() / STAGES

    @property
    def exists(self) -> bool:
        """Whether a search was begun here.

        Raises:
            InputError: if the folder forbids looking.
        """
        try:
            return (self.path / EXPERIMENT).exists()
        except PermissionError as error:
            raise InputError(
                f"{self.path} cannot be looked into ({error.strerror}); change its permissions, or give another place"
            ) from error

    @property
    def search_id(self) -> str:
        """What tells this search from every other."""
        return (self.path / SEARCH_ID).read_text(encoding="utf-8").strip()

    def experiment(self) -> Experiment:
        """What it searches.

        Raises:
            InputError: if there is no search here, or its file is damaged.
        """
        if not self.exists:
            searches = self.neighbours()
            there = f"there are {', '.join(searches)}" if searches else "there is none"
            raise InputError(f"there is no search {self.name!r} in {self.storage_place}; {there}")
        try:
            values = yaml.safe_load((self.path / EXPERIMENT).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise InputError(
                f"{self.path / EXPERIMENT} is damaged ({what_is_wrong(error)}); put a copy back, or mend that line"
            ) from error
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path / EXPERIMENT} is damaged ({error}); put a copy back") from error
        if not isinstance(values, dict):
            raise InputError(f"{self.path / EXPERIMENT} is damaged (it holds no keys); put a copy back")
        return parse_experiment(values)

    @property
    def storage_place(self) -> str:
        """Where all searches are, for people."""
        return str(self.storage) if self.bucket is None else self.bucket.parent.address

    def neighbours(self) -> list[str]:
        """Names of all searches where this one is.

        Raises:
            OSError: if a bucket does not answer.
        """
        if self.bucket is None:
            return [folder.name for folder in folders_with(self.storage, EXPERIMENT)]
        storage = self.bucket.parent
        return [name for name in storage.names() if storage.read(f"{name}/{STATE}") is not None]

    def teacher_result(self) -> TeacherResult:
        """The teacher's figures.

        Raises:
            InputError: if the search has not got so far, or the file is damaged.
        """
        path = self.teacher / TEACHER_RESULT
        if not path.exists():
            raise InputError(f"search {self.name!r} has no teacher yet; let it run, or go on with --resume")
        return read_teacher_result(path)

    def require_writable(self) -> None:
        """Check that files can be made.

        Raises:
            InputError: naming the folder that forbids it.
        """
        existing = self.path
        while not os.path.lexists(existing):
            existing = existing.parent
        choose = "choose another --storage" if self.bucket is None else "name another folder by CASCADE_CACHE"
        if not existing.is_dir():
            raise InputError(f"{existing} is a file, but must be a folder; {choose}")
        if not os.access(existing, os.W_OK | os.X_OK):
            is_begun = self.exists and self.bucket is None
            mend = "work on a copy of it in another --storage" if is_begun else choose
            raise InputError(f"{existing} cannot be written to; {mend}, or change its permissions")

    def begin(self, experiment: Experiment, *, data: str = "") -> None:
        """Make the folder, or note what this start changes.

        Args:
            experiment: what is searched.
            data: digest of its images.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self.sweep()
        if not (self.path / SEARCH_ID).exists():
            write_atomically(self.path / SEARCH_ID, uuid.uuid4().hex.encode())
        write_atomically(self.path / DATA_DIGEST, data.encode())
        write_atomically(self.path / EXPERIMENT, experiment.without_secrets().to_yaml().encode())

    def sweep(self) -> None:
        """Remove what a driver that was killed, or its trials, had half written; before the next one works."""
        for written in WRITTEN:
            remove_left(self.path / written)

    @property
    def place(self) -> str:
        """Where the search is, for people."""
        return str(self.path) if self.bucket is None else self.bucket.address

    def command(self, *words: str) -> str:
        """What people type to do something with what lies here, from any folder but one with other `runs`.

        Args:
            words: such as `front` and the search's name; `--storage` follows where it must.
        """
        if self.bucket is not None:
            words += ("--storage", self.bucket.parent.address)
        elif self.storage.resolve() != Path(DEFAULT_STORAGE).resolve():
            words += ("--storage", str(self.storage.resolve()))
        return shlex.join(["cascade", *words])

    def export_command(self, how: str) -> str:
        """What exports a network, by its label or a way to pick it."""
        return self.command("export", self.name, "--pick", how)

    @property
    def sync_command(self) -> str:
        """What sends MLflow what it did not take, as people type it where the search was started."""
        return shlex.join(["cascade", "sync", self.name, "--storage", self.storage_place])

    @property
    def is_locked(self) -> bool:
        """Whether a process of this machine works in it."""
        return is_locked(self.path)

    def require_free(self) -> None:
        """See early that no second driver runs; raises as `locked` does."""
        require_free(self.path, "search")

    def locked(self) -> AbstractContextManager[None]:
        """Keep a second driver out; entering it raises an `InputError` if one runs already."""
        return locked(self.path, "search")

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """Bring the working copy of a bucket up to date, while no other process of this machine does; waits for one."""
        self.storage.mkdir(parents=True, exist_ok=True)
        with (self.storage / f".{self.name}.fetching").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def folders_with(storage: Path, file: str) -> list[SearchFolder]:
    """Folders of searches and studies that hold a file, by name; passes over those that none could have made.

    Args:
        storage: folder of the searches; anything else may lie in it too, such as `demo copy`.
        file: its path within each.
    """
    found = []
    for name in sorted(path.relative_to(storage).parts[0] for path in storage.glob(f"*/{file}")):
        with suppress(InputError):
            found.append(SearchFolder(storage=storage, name=name))
    return found
