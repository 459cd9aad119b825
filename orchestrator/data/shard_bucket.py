"""Shards in a bucket: a machine fetches the files that it needs, each once, and compares them with their checksums.

Who trains needs training and validation images, who exports test images; who only divides a set up needs its labels.
What a fetch that was broken off has brought is not brought again.
"""

import hashlib
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from orchestrator.data.shard_cache import bringing, hold, keeping, make_room, set_folder
from orchestrator.data.shard_files import check_file
from orchestrator.data.shards import FILE, Shard, ShardSet
from orchestrator.storage.bucket import Bucket
from trainables.errors import InputError, MachineError, first_line

_THREADS = 8  # files that are fetched at a time


def say_nothing(_text: str) -> None:
    """Tell nobody."""


class BucketPlace:
    """A set in a bucket, and what of it is on this machine.

    Attributes:
        address: of the set in the bucket.
        key: SHA-256 of its `shards.json`.
    """

    def __init__(self, address: str, key: str, say: Callable[[str], None] = say_nothing) -> None:
        """Fetch nothing yet.

        Args:
            address: of the set.
            key: of the set.
            say: told of each fetch.
        """
        self.address, self.key = address, key
        self._say = say
        self._lock: BinaryIO | None = None

    def __reduce__(self) -> tuple[type["BucketPlace"], tuple[str, str]]:
        return BucketPlace, (self.address, self.key)  # another process holds the lock itself

    @classmethod
    def find(cls, address: str, say: Callable[[str], None] = say_nothing) -> "BucketPlace":
        """The set that is at an address now.

        Raises:
            InputError: if there is none, or the bucket cannot be read.
        """
        bucket = _bucket(address)
        return cls(bucket.address, _digest(_manifest(bucket)), say)

    def found(self) -> ShardSet:
        """What the set holds, once each of its files was found in the bucket with its size.

        Raises:
            InputError: if the set is damaged, was replaced, or cannot be read.
        """
        bucket = _bucket(self.address)
        with self._looking(bucket):
            found = self._read_set(bucket)
            _check_there(bucket, [shard for shard, _ in found.files()])
        return found

    def holding(self, files: Sequence[Shard]) -> Path:
        """The folder of the set on this machine, in which these files are; it stays for as long as this object does.

        Raises:
            InputError: if the set is damaged, was replaced, or cannot be read or kept.
        """
        folder = set_folder(self.key)
        if self._lock is None:
            self._lock = hold(folder)
            weakref.finalize(self, self._lock.close)
        if _lacking(folder, files):
            with bringing(folder):
                self._fetch(folder, _lacking(folder, files))
        return folder

    def _fetch(self, folder: Path, files: Sequence[Shard]) -> None:
        if not files:
            return  # somebody else has brought them
        bucket = _bucket(self.address)
        with self._looking(bucket):
            schemas = {shard.file: schema for shard, schema in self._read_set(bucket).files()}
            _check_there(bucket, files)
            size = sum(shard.num_bytes for shard in files)
            make_room(folder, size)
            self._say(
                f"{len(files)} {'file of images is' if len(files) == 1 else 'files of images are'} fetched from "
                f"{bucket.shown} into {folder}, {size / 1e6:,.1f} MB"
            )
            pool = ThreadPoolExecutor(max_workers=_THREADS)
            try:
                deque(pool.map(lambda shard: _bring(bucket, shard, folder, schemas), files), maxlen=0)
            finally:
                pool.shutdown(cancel_futures=True)

    def _read_set(self, bucket: Bucket) -> ShardSet:
        manifest = _manifest(bucket)
        self._require_same(bucket, manifest)
        try:
            return ShardSet.from_json(manifest.decode())
        except ValueError as error:
            raise InputError(
                f"{FILE} in {bucket.shown} cannot be read ({first_line(error)}); copy the set there again"
            ) from error

    def _require_same(self, bucket: Bucket, manifest: bytes) -> None:
        there = _digest(manifest)
        if there != self.key:
            raise MachineError(
                f"the images in {bucket.shown} were replaced since the search began: SHA-256 of {FILE} is "
                f"{there[:16]}… there now, but was {self.key[:16]}…; put those images back, or search the new ones "
                "under another --name"
            )

    @contextmanager
    def _looking(self, bucket: Bucket) -> Iterator[None]:
        """Say that the set was replaced, where that is why a file is not what it should be."""
        try:
            yield
        except MachineError:
            raise
        except InputError as error:
            self._require_same(bucket, _manifest(bucket))
            raise MachineError(str(error)) from error


def _bucket(address: str) -> Bucket:
    try:
        return Bucket(address)
    except InputError as error:
        raise MachineError(f"data.path: {error}") from error


def _digest(manifest: bytes) -> str:
    return hashlib.sha256(manifest).hexdigest()


@contextmanager
def _reading(bucket: Bucket) -> Iterator[None]:
    """Say that the bucket cannot be read."""
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"data.path is {bucket.shown}, which cannot be read: {first_line(error)}; look at the bucket's name and "
            "permissions, and at the keys in the environment"
        ) from error


def _manifest(bucket: Bucket) -> bytes:
    with _reading(bucket):
        manifest = bucket.read(FILE)
    if manifest is None:
        raise MachineError(
            f"data.path is {bucket.shown}, but there is no {FILE} there, or no such bucket; look at the name, or make "
            "a set with `cascade data`"
        )
    return manifest


def _check_there(bucket: Bucket, files: Sequence[Shard]) -> None:
    """See that each file is there with its size, before any is fetched."""
    with _reading(bucket):
        sizes = bucket.sizes()
    for shard in files:
        if shard.file not in sizes:
            raise InputError(f"{shard.file} is missing in {bucket.shown}, but {FILE} names it; copy it there again")
        if sizes[shard.file] != shard.num_bytes:
            raise InputError(
                f"{shard.file} in {bucket.shown} has {sizes[shard.file]:,} bytes, but {FILE} says "
                f"{shard.num_bytes:,}; copy it there again"
            )


def _lacking(folder: Path, files: Sequence[Shard]) -> list[Shard]:
    """Files that are not on this machine; what has its name there is whole."""
    there = {path.name for path in folder.iterdir()}
    return list({shard.file: shard for shard in files if shard.file not in there}.values())


def _bring(bucket: Bucket, shard: Shard, folder: Path, schemas: Mapping[str, Any]) -> None:
    sums = hashlib.sha256()
    pieces = bucket.pieces(shard.file)
    aside = folder / f".{shard.file}"
    with keeping(folder.parent), aside.open("wb") as file:
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
    check_file(aside, shard, schemas[shard.file])
    aside.replace(folder / shard.file)
