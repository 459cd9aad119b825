"""Where searches are: in a folder, or in a bucket of which each machine has a working copy in a folder of its own."""

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.layout import TEACHER, TEACHER_NETWORK, TEACHER_RESULT
from orchestrator.searches.lease import LEASE
from orchestrator.searches.snapshot import OBJECTS, fetch, read_note, read_state
from orchestrator.storage.addresses import SCHEMES
from orchestrator.storage.bucket import Bucket, cache_folder, is_bucket
from orchestrator.storage.staging import DISK_FULL
from orchestrator.storage.whole_files import write_atomically
from trainables.errors import InputError, first_line

Storage = str | Path
"""What `--storage` says: a folder, or the address of a place in a bucket."""
# What a search that was killed as it began may have left.
_BEGUN = {LEASE, OBJECTS}


def storage_folder(storage: Storage) -> Path:
    """The folder of all searches: the one that was named, or this machine's working copy of a bucket.

    Args:
        storage: what `--storage` says.
    """
    if not is_bucket(str(storage)):
        return Path(storage)
    return cache_folder() / hashlib.sha256(str(storage).rstrip("/").encode()).hexdigest()[:16]


def study_folder(storage: Storage) -> Path:
    """The folder of all studies, which cannot be kept in a bucket.

    Args:
        storage: what `--storage` says.

    Raises:
        InputError: if it is a bucket.
    """
    if is_bucket(str(storage)):
        raise InputError(f"--storage is {storage}, but a study needs a folder; give one that all machines mount")
    return Path(storage)


def open_search(storage: Storage, name: str) -> SearchFolder:
    """The place of a search, whether it is there or not; of one in a bucket the working copy is brought up to date.

    Args:
        storage: what `--storage` says.
        name: of the search.

    Raises:
        InputError: if the name or the address cannot be, the bucket cannot be read, or holds something else there.
    """
    scheme, colon, _ = str(storage).partition(":")
    if not is_bucket(str(storage)):
        if colon and scheme in SCHEMES:
            raise InputError(f"--storage is {storage}, which lacks a slash: an address begins with {scheme}://")
        return SearchFolder(storage=Path(storage), name=name)
    SearchFolder(storage=Path(), name=name)  # before a name with slashes leads elsewhere
    bucket = Bucket(str(storage)).within(name)
    folder = SearchFolder(storage=storage_folder(storage), name=name, bucket=bucket)
    try:
        _bring_up_to_date(folder, bucket)
    except OSError as error:
        if error.filename is not None or error.errno in DISK_FULL:  # this machine's, as stores name no file
            raise InputError(
                f"{error.filename or folder.storage} cannot be written ({error.strerror}); search {name!r} is copied "
                "there from the bucket: make room, change permissions, or name another folder by CASCADE_CACHE"
            ) from error
        raise InputError(
            f"--storage is {storage}, which cannot be read: {first_line(error)}; look at the bucket's name and "
            "permissions, and at the keys in the environment"
        ) from error
    return folder


def _bring_up_to_date(folder: SearchFolder, bucket: Bucket) -> None:
    state = read_state(bucket)
    if state is None:
        if read_note(folder.path).ids and folder.exists:
            raise InputError(
                f"{bucket.address} no longer holds search {folder.name!r}, of which {folder.path} is a working copy; "
                "bring it back there, or remove that folder to begin anew"
            )
        # What begins with a dot was tried there, by who could not remove it.
        others = sorted(name for name in bucket.names() if name not in _BEGUN and not name.startswith("."))
        if others:
            raise InputError(f"{bucket.address} holds {others[0]}, but no search; choose another --name or --storage")
        return
    with folder.fetching():
        if folder.is_locked:  # its driver runs here
            return
        if state.id not in read_note(folder.path).ids:
            fetch(bucket, folder.path)
        fetch_teacher(bucket.within(TEACHER), folder.teacher)


def fetch_teacher(bucket: Bucket, folder: Path) -> None:
    """Bring a finished teacher from a bucket into a folder, whole or not at all; nothing where there is none.

    Args:
        bucket: its place there.
        folder: to hold it; one that has a finished teacher is left as it is.

    Raises:
        OSError: if the bucket does not answer, or the disk is full.
    """
    if (folder / TEACHER_RESULT).exists():
        return
    result = bucket.read(TEACHER_RESULT)
    if result is not None:
        shutil.rmtree(folder / TEACHER_NETWORK, ignore_errors=True)
        if bucket.pull(TEACHER_NETWORK, folder / TEACHER_NETWORK):
            write_atomically(folder / TEACHER_RESULT, result)


def fetch_networks(folder: SearchFolder, networks: Iterable[str]) -> None:
    """Bring networks of candidates to this machine that are not here, where the search is in a bucket.

    Args:
        folder: of the search.
        networks: their folders, relative to the search's.

    Raises:
        InputError: if one is damaged or not in the bucket, or the bucket does not answer.
    """
    if folder.bucket is None:
        return
    for network in networks:
        path = PurePosixPath(network)
        if path.is_absolute() or ".." in path.parts:
            raise InputError(f"the archive in {folder.bucket.address} names the network {network!r}; it is damaged")
        try:
            there = (folder.path / network).is_dir() or folder.bucket.pull(network, folder.path / network)
        except OSError as error:
            raise InputError(f"{folder.bucket.address}/… cannot be read: {first_line(error)}") from error
        if not there:
            raise InputError(f"{network} in {folder.bucket.address} is missing or damaged; bring it back")


def fetch_sources(names: Iterable[str], storage: Storage) -> None:
    """Bring searches to this machine that another one learns from, where they lie beside it in a bucket.

    Args:
        names: as `study.warm_start` says; those that are no names of searches there are left to others.
        storage: what `--storage` says.

    Raises:
        InputError: as `open_search`.
    """
    if not is_bucket(str(storage)):
        return
    there = set(Bucket(str(storage)).names())
    for name in names:
        if name in there:
            open_search(storage, name)
