"""Folders that appear in one step: written out of sight beside their place, and moved there once they are finished."""

import errno
import fcntl
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Literal

from safetensors import SafetensorError

from trainables.errors import InputError

Existing = Literal["keep", "replace"]
"""Whether what is there already is kept, which is an error, or replaced."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""How the system says that a disk, or what a user may have of it, is full."""
_NO_ROOM = (*DISK_FULL, errno.EFBIG)
_FULL = 2**20  # bytes left on a disk at which whatever failed has failed for want of room
_IN_USE = ".in-use"
_REPLACED = "replaced"
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:")


def require_local(destination: Path) -> None:
    """Refuse an address, which as a path would be a folder here.

    Raises:
        InputError: naming it.
    """
    if _SCHEME.fullmatch(destination.parts[0] if destination.parts else ""):
        raise InputError(f"{destination} is an address, but must be a folder; mount it, or copy from a folder there")


def require_place(destination: Path, existing: Existing, *, mark: str, what: str, mend: str) -> None:
    """Check that a folder can be made, or that what is there may be replaced.

    Args:
        destination: its place.
        existing: whether what is there already may be replaced.
        mark: a file that folders have which may be replaced.
        what: such a folder is, for messages.
        mend: how to name another place, for messages.

    Raises:
        InputError: naming what is there.
    """
    if not os.path.lexists(destination) or (destination.is_dir() and not any(destination.iterdir())):
        return
    if existing == "keep":
        raise InputError(f"{destination} is there already; {mend}, or replace it with --overwrite")
    if not (destination / mark).is_file():
        raise InputError(f"{destination} is no {what} (it has no {mark}) and is not replaced; {mend}")


@contextmanager
def staging(destination: Path, *, name: str | None = None, mend: str = "choose another place") -> Iterator[Path]:
    """A hidden folder beside the destination, gone afterwards: from there a finished folder moves in one step.

    What processes of this machine that were killed have left of theirs, beside it and of the same name, goes too.

    Args:
        destination: its place.
        name: what the hidden folder's begins with, for destinations that share theirs; `None` for the destination's.
        mend: how to name another place, for messages.

    Raises:
        InputError: if nothing can be made there.
    """
    name = destination.name if name is None else name
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(destination.parent, name)
        folder = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=destination.parent))
        mark = _mark(folder)
    except OSError as error:
        raise InputError(f"{destination} cannot be made ({error.strerror}); {mend}") from error
    try:
        with mark:
            yield folder
    finally:
        _remove(folder)


def _mark(folder: Path) -> IO[str]:
    """Say that a folder is in use, for as long as the file is open."""
    with ExitStack() as undone:
        undone.callback(shutil.rmtree, folder, ignore_errors=True)
        mark = undone.enter_context((folder / f"{_IN_USE}.new").open("w", encoding="utf-8"))
        with suppress(OSError):  # on a disk that knows no locks others cannot take it, either
            fcntl.flock(mark, fcntl.LOCK_EX)
        mark.write(platform.node())  # some disks know no locks of other machines
        mark.flush()
        Path(mark.name).rename(folder / _IN_USE)  # locked before anybody sees it
        undone.pop_all()
    return mark


def _remove_left(parent: Path, name: str) -> None:
    """Remove folders of `staging` that nobody holds, unless they have what was about to be replaced."""
    own = re.compile(rf"\.{re.escape(name)}-[a-z0-9_]+")
    beside: list[Path] = []
    with suppress(OSError):  # a folder that may be written to, but not listed
        beside = [path for path in parent.iterdir() if own.fullmatch(path.name)]
    for folder in beside:
        with suppress(OSError), (folder / _IN_USE).open("r+", encoding="utf-8") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if mark.read() == platform.node() and not any(folder.rglob(_REPLACED)):
                _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder of `staging`, the mark at last: what is left if that is broken off can be found by it."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != _IN_USE:
                path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def no_room(said: str) -> OSError | None:
    """The system's error if nothing more fits on a disk, which writers repeat in errors of their own; else `None`.

    Args:
        said: by an error, in whatever words.
    """
    return next((OSError(number, os.strerror(number)) for number in _NO_ROOM if os.strerror(number) in said), None)


@contextmanager
def disk_full(folder: Path, *, mend: str = "make room, or choose another place") -> Iterator[None]:
    """Say that the disk is full where that is why something failed: each writer says it in words of its own.

    Args:
        folder: that is written to, and is there.
        mend: what helps.

    Raises:
        OSError: naming the folder around it, and the mend; what was asked for was right.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        full = isinstance(error, OSError) and error.errno in DISK_FULL
        if full or shutil.disk_usage(folder).free < _FULL:
            raise OSError(f"the disk of {folder.parent} is full; {mend}") from error
        raise


def move(package: Path, destination: Path, *, mark: str | None) -> None:
    """Move a finished folder to its place, over an empty folder too; what it replaces stays until then.

    Args:
        package: in a folder of `staging`.
        destination: its place.
        mark: a file that folders have which may be replaced; `None` replaces none.

    Raises:
        OSError: if something else is there.
    """
    old = package.with_name(_REPLACED)
    try:
        if mark is not None and (destination / mark).is_file():
            destination.rename(old)
        package.rename(destination)
    except BaseException:  # a Ctrl-C in between, too: what is left in the staging folder goes
        if old.is_dir() and not os.path.lexists(destination):
            old.rename(destination)
        raise
