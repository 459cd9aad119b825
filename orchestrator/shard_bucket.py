"""Shards in a bucket: a machine fetches a set once, whole and compared with its checksums, for all who train on it.

Sets lie in `data` of the machine's cache under the checksum of their `shards.json`, so that a set that changes is
another one. Who uses a set holds its lock together with others; who fetches or removes one holds it alone. What a fetch
that was broken off has brought is not brought again. Sets that nobody uses make room for new ones, the one that was not
used for longest first.
"""

import fcntl
import hashlib
import os
import shutil
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from orchestrator.bucket import Bucket, cache_folder
from orchestrator.delivery import Existing
from orchestrator.shards import FILE, Shard, ShardSet
from trainables.errors import InputError, first_line

_THREADS = 8  # files that are fetched at a time
_MARGIN_BYTES = 2**28  # that stay free on the disk


class BucketPlace:
    """A set in a bucket, with the folder on this machine that it is fetched into when that is first asked for.

    Attributes:
        address: of the set in the bucket.
        key: SHA-256 of its `shards.json`.
    """

    def __init__(self, address: str, key: str) -> None:
        """Fetch nothing yet; arguments are the attributes."""
        self.address, self.key = address, key
        self._lock: BinaryIO | None = None

    def __reduce__(self) -> tuple[type["BucketPlace"], tuple[str, str]]:
        return BucketPlace, (self.address, self.key)  # another process holds the lock itself

    @classmethod
    def find(cls, address: str) -> "BucketPlace":
        """The set that is at an address now.

        Raises:
            InputError: if there is none, or the bucket cannot be read.
        """
        bucket = _bucket(address)
        return cls(bucket.address, hashlib.sha256(_manifest(bucket)).hexdigest())

    def here(self) -> Path:
        """The folder with all of the set on this machine; it stays for as long as this object is there.

        Raises:
            InputError: if the set is damaged, was replaced, or cannot be read or kept.
        """
        folder = _sets() / self.key
        if self._lock is None:
            with _keeping(folder.parent):
                folder.parent.mkdir(parents=True, exist_ok=True)
                lock = _open_lock(folder)
            try:
                self._hold(lock, folder)
            except BaseException:
                lock.close()
                raise
            self._lock = lock
            weakref.finalize(self, lock.close)
        return folder

    def _hold(self, lock: BinaryIO, folder: Path) -> None:
        while True:
            fcntl.flock(lock, fcntl.LOCK_SH)
            if folder.is_dir():
                os.utime(lock.fileno())
                return
            fcntl.flock(lock, fcntl.LOCK_EX)  # gives the other one up first, so that two do not wait for one another
            if not folder.is_dir():
                self._fetch(folder)

    def _fetch(self, folder: Path) -> None:
        bucket = _bucket(self.address)
        manifest = _manifest(bucket)
        if hashlib.sha256(manifest).hexdigest() != self.key:
            raise InputError(
                f"the set in {bucket.shown} is no longer the one that was begun with; put it back, or begin anew"
            )
        shards = _all_shards(bucket, manifest)
        _check_there(bucket, shards)
        begun = _begun(folder)
        with _keeping(folder.parent):
            begun.mkdir(exist_ok=True)
            lacking = [shard for shard in shards if not _is_whole(begun / shard.file, shard)]
        _make_room(folder, sum(shard.num_bytes for shard in lacking))
        pool = ThreadPoolExecutor(max_workers=_THREADS)
        try:
            deque(pool.map(lambda shard: _bring(bucket, shard, begun / shard.file), lacking), maxlen=0)
        finally:
            pool.shutdown(cancel_futures=True)
        with _keeping(folder.parent):
            (begun / FILE).write_bytes(manifest)
            begun.rename(folder)


def fetch_note(address: str) -> str | None:
    """What has to be fetched to this machine, for people to read; `None` if the set is here.

    Raises:
        InputError: as `BucketPlace.find`.
    """
    bucket = _bucket(address)
    manifest = _manifest(bucket)
    folder = _sets() / hashlib.sha256(manifest).hexdigest()
    if folder.is_dir():
        return None
    size = sum(shard.num_bytes for shard in _all_shards(bucket, manifest))
    return f"images are fetched from {bucket.shown} into {folder}, {size / 1e6:,.0f} MB"


def check_out(bucket: Bucket, existing: Existing) -> None:
    """Check that a set can be put at a place, or may replace the one that is there.

    Raises:
        InputError: naming what is there, or why nothing can be put there.
    """
    bucket.require_usable()
    with _reading(bucket):
        there = bucket.sizes()
    if FILE in there and existing == "keep":
        raise InputError(f"{bucket.shown} holds a set already; choose another place, or replace it with --overwrite")
    if there and FILE not in there:
        raise InputError(f"{bucket.shown} holds {min(there)}, but no set of shards; choose another place")


def put(folder: Path, bucket: Bucket) -> None:
    """Copy a set into a bucket, where there is none as long as it is not whole.

    Args:
        folder: of the set.
        bucket: its place there; the set that it has is removed first.

    Raises:
        InputError: if the bucket cannot be written to.
    """
    try:
        bucket.remove(FILE)
        for name in bucket.sizes():
            bucket.remove(name)
        for path in sorted(folder.iterdir(), key=lambda path: (path.name == FILE, path.name)):
            bucket.write(path.name, path.read_bytes())
    except OSError as error:
        raise InputError(f"{bucket.shown} cannot be written to: {first_line(error)}; begin again") from error


def _sets() -> Path:
    return cache_folder() / "data"


def _begun(folder: Path) -> Path:
    """Where a set lies that is not whole."""
    return folder.with_name(f".{folder.name}")


def _open_lock(folder: Path) -> BinaryIO:
    return folder.with_name(f"{folder.name}.lock").open("a+b")


def _bucket(address: str) -> Bucket:
    try:
        return Bucket(address)
    except InputError as error:
        raise InputError(f"data.path: {error}") from error


@contextmanager
def _reading(bucket: Bucket) -> Iterator[None]:
    """Say that the bucket cannot be read."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"data.path is {bucket.shown}, which cannot be read: {first_line(error)}; look at the bucket's name and "
            "permissions, and at the keys in the environment"
        ) from error


@contextmanager
def _keeping(folder: Path) -> Iterator[None]:
    """Say that the disk takes nothing."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"shards cannot be kept in {folder}: {error.strerror or error}; make room or mend its permissions, or "
            "choose another folder by CASCADE_CACHE"
        ) from error


def _manifest(bucket: Bucket) -> bytes:
    with _reading(bucket):
        manifest = bucket.read(FILE)
    if manifest is None:
        raise InputError(
            f"data.path is {bucket.shown}, but there is no {FILE} there, or no such bucket; look at the name, or make "
            "a set with `cascade data`"
        )
    return manifest


def _all_shards(bucket: Bucket, manifest: bytes) -> list[Shard]:
    try:
        found = ShardSet.from_json(manifest.decode())
    except ValueError as error:
        raise InputError(
            f"{FILE} in {bucket.shown} cannot be read ({first_line(error)}); copy the set there again"
        ) from error
    return [shard for part in found.parts.values() for shard in part.shards]


def _check_there(bucket: Bucket, shards: Sequence[Shard]) -> None:
    """See that each file is there with its size, before any is fetched."""
    with _reading(bucket):
        sizes = bucket.sizes()
    for shard in shards:
        if shard.file not in sizes:
            raise InputError(f"{shard.file} is missing in {bucket.shown}, but {FILE} names it; copy it there again")
        if sizes[shard.file] != shard.num_bytes:
            raise InputError(
                f"{shard.file} in {bucket.shown} has {sizes[shard.file]:,} bytes, but {FILE} says "
                f"{shard.num_bytes:,}; copy it there again"
            )


def _is_whole(path: Path, shard: Shard) -> bool:
    if not path.is_file() or path.stat().st_size != shard.num_bytes:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256


def _bring(bucket: Bucket, shard: Shard, path: Path) -> None:
    sums = hashlib.sha256()
    pieces = bucket.pieces(shard.file)
    with _keeping(path.parents[1]), path.open("wb") as file:
        while True:
            with _reading(bucket):
                piece = next(pieces, None)
            if piece is None:
                break
            sums.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    if sums.hexdigest() != shard.sha256:
        raise InputError(f"{shard.file} in {bucket.shown} is not what {FILE} says (its SHA-256 differs); copy it again")


def _make_room(folder: Path, num_bytes: int) -> None:
    """Remove sets that nobody uses, until there is room for one."""

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
        raise InputError(
            f"the disk of {folder.parent} has {free / 1e6:,.0f} MB left, but the shards take {num_bytes / 1e6:,.0f} MB "
            "more; make room, or choose another folder by CASCADE_CACHE"
        )


def _remove_unused(folder: Path) -> None:
    with _open_lock(folder) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        begun = _begun(folder)
        shutil.rmtree(begun, ignore_errors=True)
        if folder.is_dir():
            folder.rename(begun)  # so that it is never taken for whole
            shutil.rmtree(begun, ignore_errors=True)
