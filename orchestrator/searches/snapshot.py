"""What a search knows as one state in a bucket: all files of one moment, or those of the moment before.

Files lie under their checksums, and `state.json`, written last, says which of them make up the state. A working copy
on a machine remembers which state it was brought to, or has brought there itself. Where the bucket has gone beyond it,
it is brought up to date, and what only it holds of results is put aside.
"""

import hashlib
import json
import logging
import shutil
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Self

from orchestrator.searches.layout import (
    CARRIED,
    CARRIED_FOLDERS,
    EXPORTS,
    JOURNAL,
    RESULTS,
    SEARCH_ID,
    SPOOL,
    STATE,
    TRACKING,
)
from orchestrator.storage.bucket import Bucket
from orchestrator.storage.whole_files import checksum_of, write_atomically
from trainables.errors import InputError

OBJECTS = "state"
FORMAT_VERSION = 1
_NOTE = ".bucket"
_ASIDE = ".aside"
# Of a working copy, what stays where it is when the rest is put aside.
_STAYS = ("lock", EXPORTS, _NOTE, _ASIDE, SEARCH_ID)
_MOST_LOOKS = 50
_READS = 3
_READERS = 16

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """One state of a search.

    Attributes:
        id: tells it from others.
        files: checksum of each file, by its path in the search's folder.
    """

    id: str
    files: Mapping[str, str]

    @classmethod
    def of(cls, files: Mapping[str, str]) -> Self:
        """A new state of these files."""
        return cls(id=uuid.uuid4().hex, files=dict(files))

    def to_json(self) -> bytes:
        """As it is written down."""
        plain = {"format": FORMAT_VERSION, "id": self.id, "files": dict(self.files)}
        return (json.dumps(plain, indent=1) + "\n").encode()


@dataclass(frozen=True, kw_only=True, slots=True)
class _File:
    version: tuple[int, int, int]
    checksum: str
    content: bytes | None


class Snapshots:
    """Reads all files of a search at one moment, while the search writes them."""

    def __init__(self, folder: Path) -> None:
        """Name the search's folder."""
        self._folder = folder
        self._known: dict[str, _File] = {}

    def take(self) -> tuple[dict[str, str], dict[str, bytes]]:
        """Checksum of each file, and the content by checksum of those that changed since the last time.

        A search that is killed at that very moment would leave the same files, and goes on from them.

        Raises:
            OSError: if files changed each time while they were read.
        """
        for _ in range(_MOST_LOOKS):
            versions = self._versions()
            found: dict[str, _File] = {}
            try:
                for name, version in versions.items():
                    known = self._known.get(name)
                    found[name] = known if known and known.version == version else self._read(name, version)
            except FileNotFoundError:
                continue
            if versions == self._versions():
                self._known = {name: _forgotten(file) for name, file in found.items()}
                changed = {file.checksum: file.content for file in found.values() if file.content is not None}
                return {name: file.checksum for name, file in found.items()}, changed
        raise OSError("the search writes faster than its files are read")

    def forget(self) -> None:
        """Read all files again the next time, as what was read did not arrive."""
        self._known = {}

    def _versions(self) -> dict[str, tuple[int, int, int]]:
        paths = [self._folder / name for name in CARRIED]
        for folder in CARRIED_FOLDERS:
            paths += sorted(path for path in (self._folder / folder).rglob("*") if not path.name.startswith("."))
        found = {}
        for path in paths:
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            if path.is_file():
                version = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
                found[path.relative_to(self._folder).as_posix()] = version
        return found

    def _read(self, name: str, version: tuple[int, int, int]) -> _File:
        content = (self._folder / name).read_bytes()
        return _File(version=version, checksum=hashlib.sha256(content).hexdigest(), content=content)


def _forgotten(file: _File) -> _File:
    return _File(version=file.version, checksum=file.checksum, content=None)


def read_state(bucket: Bucket) -> State | None:
    """The state that a bucket has of a search, or `None` where there is none.

    Args:
        bucket: the search's place.

    Raises:
        InputError: if it is damaged, or of a newer version.
        OSError: if the bucket does not answer.
    """
    content = bucket.read(STATE)
    if content is None:
        return None
    try:
        plain = json.loads(content)
        version, state = plain["format"], State(id=plain["id"], files=dict(plain["files"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{STATE} in {bucket.address} is damaged; bring it back, or remove the search there"
        ) from error
    if version != FORMAT_VERSION:
        raise InputError(
            f"{STATE} in {bucket.address} has format version {version}, but this version of the program reads "
            f"{FORMAT_VERSION}; upgrade the program"
        )
    for name in state.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not (name in CARRIED or path.parts[0] in CARRIED_FOLDERS):
            raise InputError(f"{STATE} in {bucket.address} names {name!r}, which is no file of a search; it is damaged")
    return state


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """What a working copy remembers of the bucket.

    Attributes:
        ids: of states, one of which the bucket has, unless the search has gone on elsewhere.
        results: checksums of files with results, by name, that the bucket has taken or given.
    """

    ids: tuple[str, ...] = ()
    results: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, state: State) -> Self:
        """That the bucket has this state, and the working copy too."""
        results = {name: state.files[name] for name in RESULTS if name in state.files}
        return cls(ids=(state.id,), results=results)


def read_note(folder: Path) -> Note:
    """What a working copy remembers; nothing where that is lost."""
    try:
        plain = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
        return Note(ids=tuple(plain["ids"]), results=dict(plain["results"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Note()


def write_note(folder: Path, note: Note) -> None:
    """Remember it."""
    write_atomically(folder / _NOTE, json.dumps({"ids": note.ids, "results": dict(note.results)}).encode())


def fetch(bucket: Bucket, folder: Path) -> None:
    """Bring a working copy to the state that the bucket has. Only while nobody works in it.

    Results that it holds and the bucket never took, as the search went on elsewhere, are kept in a folder beside it.

    Args:
        bucket: the search's place.
        folder: the working copy; made if it is not there.

    Raises:
        InputError: if the state is damaged.
        OSError: if the bucket does not answer, or the disk is full.
    """
    for _ in range(_READS):
        state = read_state(bucket)
        if state is None:
            return
        is_ahead = _is_ahead(folder, state)
        contents = _contents(bucket, None if is_ahead else folder, state)
        if contents is not None:
            if is_ahead:
                _put_aside(folder)
            _put(folder, state, contents)
            return
    raise InputError(f"the state of the search in {bucket.address} lacks objects; bring them back under {OBJECTS}/")


def _is_ahead(folder: Path, state: State) -> bool:
    """Whether a working copy holds results that neither the bucket had of it, nor a state has.

    Or held them, and was killed while they were put aside.
    """
    if (folder / _ASIDE).exists():
        return True
    known = read_note(folder).results
    return any(
        (folder / name).is_file() and checksum_of(folder / name) not in (known.get(name), state.files.get(name))
        for name in RESULTS
    )


def _contents(bucket: Bucket, folder: Path | None, state: State) -> dict[str, bytes] | None:
    """Each file that the working copy has otherwise or not; `None` if the state was replaced meanwhile."""
    wanted = {
        name: checksum
        for name, checksum in state.files.items()
        if folder is None or not (folder / name).is_file() or checksum_of(folder / name) != checksum
    }
    with ThreadPoolExecutor(_READERS) as readers:
        found = readers.map(lambda checksum: bucket.read(f"{OBJECTS}/{checksum}"), wanted.values())
        contents = dict(zip(wanted, found, strict=True))
    for name, content in contents.items():
        if content is not None and hashlib.sha256(content).hexdigest() != wanted[name]:
            raise InputError(f"{OBJECTS}/{wanted[name]} in {bucket.address} is damaged; bring it back")
    there = {name: content for name, content in contents.items() if content is not None}
    return there if len(there) == len(contents) else None


def _put_aside(folder: Path) -> None:
    # All that is done before the last step, which makes a search of it, may be done again after a kill.
    aside = folder / _ASIDE
    aside.mkdir(exist_ok=True)
    # Runs in MLflow are those of the search that went on: what is put aside is not to change or end them, nor is what
    # comes of it where somebody goes on with it.
    if not (aside / SEARCH_ID).exists():
        write_atomically(aside / SEARCH_ID, uuid.uuid4().hex.encode())
    own_id = (aside / SEARCH_ID).read_bytes()
    for path in folder.iterdir():
        if path.name not in _STAYS:
            path.rename(aside / (f"{path.name}.kept" if path.name == TRACKING else path.name))
    journal = aside / JOURNAL
    if journal.exists() and (folder / SEARCH_ID).exists():  # which says whose study it is
        write_atomically(journal, journal.read_bytes().replace((folder / SEARCH_ID).read_bytes().strip(), own_id))
    (folder / SEARCH_ID).unlink(missing_ok=True)
    kept = folder.with_name(f"{folder.name}.kept-{own_id.decode()[:8]}")
    aside.rename(kept)
    _log.warning(
        "search %r went on elsewhere without results of this machine, which are kept: "
        "`cascade front %s --storage %s` shows them",
        folder.name,
        kept.name,
        kept.parent,
    )


def _put(folder: Path, state: State, contents: Mapping[str, bytes]) -> None:
    # From here on until the end it is no state at all, should we be killed.
    write_note(folder, replace(read_note(folder), ids=()))
    if SEARCH_ID in contents and (folder / SEARCH_ID).exists():  # another search of this name was here
        for path in folder.iterdir():
            if path.is_dir() and path.name != EXPORTS:
                shutil.rmtree(path)
    for name in Snapshots(folder).take()[0]:
        if name not in state.files:
            (folder / name).unlink()
    spool = folder / SPOOL
    if spool.exists() and not contents.get(SPOOL, spool.read_bytes()).startswith(spool.read_bytes()):
        for note in spool.parent.glob("sent-*"):  # how far another spool has been sent to MLflow
            note.unlink()
    for name, content in contents.items():
        write_atomically(folder / name, content)
    write_note(folder, Note.of(state))
