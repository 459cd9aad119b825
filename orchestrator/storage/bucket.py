"""Object stores (S3, Google Cloud, Azure) through pyarrow: what is read from one is whole, or is not there.

An object appears in one step, a folder of several objects with its manifest, which is written last and holds the
checksum of each. Whoever reads takes what the manifest names and looks at the checksums.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from orchestrator.storage.addresses import mend, require_address, shown, with_option
from orchestrator.storage.answers import answered, getting_on, seconds_for, seconds_for_unseen
from trainables.errors import InputError, first_line
from trainables.files.whole import unfinished
from trainables.plain import at_home

MANIFEST = "objects.json"
_PIECE_BYTES = 10 * 2**20  # Arrow sends more in parts of so much, and less in one request


def cache_folder() -> Path:
    """This machine's folder of what lies in buckets too.

    Raises:
        InputError: if none is named and the user has no home, as in some containers.
    """
    named = os.environ.get("CASCADE_CACHE")
    if named:
        return Path(at_home(named)).absolute()
    try:
        return Path.home().absolute() / ".cache" / "cascade"
    except RuntimeError as error:
        raise InputError(
            "this user has no home folder for copies of what lies in buckets; name a folder by CASCADE_CACHE"
        ) from error


def is_bucket(address: str) -> bool:
    """Whether this is the address of an object store rather than the path of a folder."""
    return "://" in address


class Bucket:
    """A place in an object store, in which objects have names with slashes."""

    def __init__(self, address: str) -> None:
        """Find the store; S3 is asked where the bucket is unless the address says so.

        Args:
            address: such as `s3://BUCKET/PREFIX`, with pyarrow's options after a `?`. Keys and passwords come from the
                environment, as the store's own tools take them.

        Raises:
            InputError: if it is no address of a store that is known, or holds a password.
        """
        require_address(address)
        opened = with_option(address, "allow_delayed_open", "true")  # a small object takes one request, not three
        try:
            self.filesystem, self.root = pafs.FileSystem.from_uri(opened)
        except (pa.ArrowException, ValueError) as error:
            reason = first_line(error).replace(opened, shown(address))  # options may be keys, misspelt
            raise InputError(
                f"the storage's address {shown(address)!r} cannot be understood: {reason}{mend(address)}"
            ) from error
        except OSError as error:
            raise InputError(
                f"{shown(address)} cannot be reached: {first_line(error)}; look at the bucket's name and the network, "
                "or say where it is with ?region=REGION"
            ) from error
        self.address = address
        if urlsplit(address).scheme == "s3":  # said from now on, so that nobody who is handed the place asks again
            self.address = with_option(address, "region", self.filesystem.region)

    def __reduce__(self) -> tuple[type["Bucket"], tuple[str]]:
        return Bucket, (self.address,)

    @property
    def shown(self) -> str:
        """Its address without options, for people."""
        return shown(self.address)

    def within(self, name: str) -> "Bucket":
        """The place of all objects whose names begin with `NAME/`."""
        parts = urlsplit(self.address)
        return Bucket(parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl())

    @property
    def parent(self) -> "Bucket":
        """The place that this one is within."""
        parts = urlsplit(self.address)
        return Bucket(parts._replace(path=parts.path.rpartition("/")[0]).geturl())

    def require_usable(self) -> None:
        """See that objects can be written, read and removed.

        Raises:
            InputError: saying what could not be done, and why.
        """
        name = f".shared-{os.getpid()}-{os.urandom(4).hex()}"
        done = "written to"
        try:
            self.write(name, b"whole")
            done = "read"
            if self.read(name) != b"whole":
                raise OSError("what was written did not come back")
            done = "removed from"
            self.remove(name)
        except OSError as error:
            raise InputError(
                f"{self.address} cannot be {done}: {first_line(error)}; look at the bucket's name and permissions, and "
                "at the keys in the environment"
            ) from error

    def read(self, name: str) -> bytes | None:
        """An object, or `None` where there is none.

        Raises:
            OSError: if the store does not answer or refuses, as of all that follows.
        """
        path = self._path(name)
        while True:
            try:
                file = answered(lambda: self.filesystem.open_input_file(path))
                content = b"".join(_pieces(file))
                # A piece is of what was there when it was asked for, up to the length of what was opened.
                if _version(answered(lambda: self.filesystem.open_input_file(path))) == _version(file):
                    return content
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Make an object, or replace it, in one step; given up once it does not get on."""
        limit = seconds_for if self._piece_bytes == _PIECE_BYTES else seconds_for_unseen
        seconds = limit(min(len(content), self._piece_bytes))
        getting_on(lambda told: self._write(name, content, told), seconds=seconds)

    def write_for_certain(self, name: str, content: bytes) -> None:
        """The same, but waits for as long as it takes: what was given up may still arrive, behind what came later."""
        answered(lambda: self._write(name, content), seconds=None)

    def _write(self, name: str, content: bytes, told: Callable[[], None] = lambda: None) -> None:
        # In a thread, which no Ctrl-C gets into: a stream that is broken off would be closed, and leave half an object.
        with self._store_for(len(content)).open_output_stream(self._path(name)) as file:
            for start in range(0, len(content), self._piece_bytes):
                file.write(memoryview(content)[start : start + self._piece_bytes])
                if len(content) > self._piece_bytes:
                    file.flush()  # until then it is only about to be sent
                told()

    @property
    def _piece_bytes(self) -> int:
        """How much is sent at a time: with Azure all of it, where to flush is to make an object of what is there."""
        return _PIECE_BYTES if urlsplit(self.address).scheme == "s3" else sys.maxsize

    def _store_for(self, num_bytes: int) -> Any:  # noqa: ANN401 - Arrow's
        """The store as an object of so many bytes is to be written to it.

        One in parts is begun when it is opened: where a delayed beginning fails, closing the stream would still put
        what it holds in the object's place.
        """
        address = with_option(self.address, "allow_delayed_open", "false")
        if num_bytes < _PIECE_BYTES or address == self.address:
            return self.filesystem
        return pafs.FileSystem.from_uri(address)[0]

    def remove(self, name: str) -> None:
        """Remove an object, or a folder with all that is in it; one that is not there is nothing to remove."""
        answered(lambda: self._remove(self._path(name)))

    def _remove(self, path: str) -> None:
        found = self.filesystem.get_file_info(path)
        if found.type == pafs.FileType.Directory:
            # The manifest first, so that nobody takes what is left for whole.
            manifest = f"{path}/{MANIFEST}"
            if self.filesystem.get_file_info(manifest).type == pafs.FileType.File:
                self.filesystem.delete_file(manifest)
            self.filesystem.delete_dir(path)
        elif found.type == pafs.FileType.File:
            self.filesystem.delete_file(path)

    def names(self, folder: str = "") -> list[str]:
        """What lies directly in a folder, objects and folders, by name."""
        selector = pafs.FileSelector(self._path(folder), allow_not_found=True)
        found = answered(lambda: self.filesystem.get_file_info(selector))
        return sorted(PurePosixPath(info.path).name for info in found)

    def sizes(self) -> dict[str, int]:
        """Bytes of the objects that lie directly here, by name."""
        selector = pafs.FileSelector(self._path(""), allow_not_found=True)
        found = answered(lambda: self.filesystem.get_file_info(selector))
        return {PurePosixPath(info.path).name: info.size for info in found if info.type == pafs.FileType.File}

    def pieces(self, name: str) -> Iterator[bytes]:
        """An object's content, piece by piece, for one that is large."""
        yield from _pieces(answered(lambda: self.filesystem.open_input_file(self._path(name))))

    def push(self, folder: Path, name: str) -> None:
        """Copy the files of a folder; readers see them together, once all are there.

        Args:
            folder: on this machine.
            name: of the folder in the bucket.
        """
        self._push(folder, name, self.write)

    def push_for_certain(self, folder: Path, name: str) -> None:
        """The same, but waits for as long as it takes: who begins again does so beside no upload that still runs."""
        self._push(folder, name, self.write_for_certain)

    def _push(self, folder: Path, name: str, write: Callable[[str, bytes], None]) -> None:
        found: dict[str, str] = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            content = path.read_bytes()
            relative = path.relative_to(folder).as_posix()
            found[relative] = hashlib.sha256(content).hexdigest()
            write(f"{name}/{relative}", content)
        write(f"{name}/{MANIFEST}", (json.dumps(found, indent=1) + "\n").encode())

    def pull(self, name: str, folder: Path) -> bool:
        """Copy a folder to this machine, where it appears whole or not at all.

        Args:
            name: of the folder in the bucket.
            folder: on this machine, which is not there.

        Returns:
            Whether it was there, whole and undamaged.
        """
        manifest = self.read(f"{name}/{MANIFEST}")
        if manifest is None:
            return False
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f"{unfinished(folder)}-", dir=folder.parent))
        try:
            aside.chmod(0o755)
            for relative, checksum in _named(manifest):
                content = self.read(f"{name}/{relative}")
                if content is None or hashlib.sha256(content).hexdigest() != checksum:
                    return False
                path = aside / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            try:
                aside.rename(folder)
            except OSError:
                if not folder.is_dir():  # as another process has brought it here meanwhile
                    raise
            return True
        except (ValueError, AttributeError, TypeError):
            return False
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _path(self, name: str) -> str:
        return "/".join(part for part in (self.root.rstrip("/"), name) if part)


def check_address(address: str) -> None:
    """See that a place can be named so, without asking any store.

    Raises:
        InputError: as `Bucket`, but for one that cannot be reached.
    """
    Bucket(with_option(address, "region", "any"))


def _pieces(file: pa.NativeFile) -> Iterator[bytes]:
    """An object's content, piece by piece, each waited for by itself."""
    seconds = seconds_for(min(file.size(), _PIECE_BYTES))
    while piece := answered(lambda: file.read(_PIECE_BYTES), seconds=seconds):
        yield piece


def _version(file: pa.NativeFile) -> tuple[int, bytes | None]:
    """What differs once an object is replaced; Google's, which lacks this tag, is read as it was when it was opened."""
    return file.size(), file.metadata().get("ETag")


def _named(manifest: bytes) -> Iterator[tuple[str, str]]:
    """Files and checksums of a manifest.

    Raises:
        ValueError: if it is damaged, or names a file outside of its folder.
    """
    for relative, checksum in json.loads(manifest).items():
        path = PurePosixPath(relative)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(relative)
        yield relative, checksum
