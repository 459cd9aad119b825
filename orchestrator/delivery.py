"""Where exports go: a destination is checked, its disk too, and a finished folder appears there in one step."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError

from orchestrator.formats import CARD_FILE, Format
from trainables.datasets.images import ImageSet
from trainables.errors import InputError

Existing = Literal["keep", "replace"]
"""Whether an export that is there already is kept, which is an error, or replaced."""

_FULL = 2**20  # bytes left on a disk at which whatever failed has failed for want of room
_BYTES_A_PARAM = {"native": 4, "onnx": 4, "pt2": 4, "int8": 1}
_MARGIN = 32 * 2**20
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:")


def require_local(destination: Path) -> None:
    """Refuse an address, which as a path would be a folder here.

    Raises:
        InputError: naming it.
    """
    if _SCHEME.fullmatch(destination.parts[0] if destination.parts else ""):
        raise InputError(f"{destination} is an address, but must be a folder; mount it, or copy from a folder there")


def check_destination(destination: Path, existing: Existing) -> None:
    """Check that a folder can be made, or that what is there may be replaced.

    Raises:
        InputError: naming what is there, or an address.
    """
    require_local(destination)
    if not os.path.lexists(destination) or (destination.is_dir() and not any(destination.iterdir())):
        return
    if existing == "keep":
        raise InputError(
            f"{destination} is there already; choose another place with --out, or replace it with --overwrite"
        )
    if not (destination / CARD_FILE).is_file():
        raise InputError(
            f"{destination} is no export (it has no {CARD_FILE}) and is not replaced; choose another --out"
        )


def check_room(
    destination: Path, formats: Sequence[Format], params: Sequence[int], teacher_params: int, images: ImageSet
) -> None:
    """Check that the disk has room for exports, and for what is written on the way.

    Args:
        destination: somewhere on the disk.
        formats: of every export.
        params: parameters of each.
        teacher_params: of the teacher, whose ONNX file is measured.
        images: test images, which another process reads.

    Raises:
        InputError: with what is free and what is needed.
    """
    folder = destination
    while not folder.is_dir():
        folder = folder.parent
    a_param = sum(_BYTES_A_PARAM[format] for format in formats)
    scratch = 4 * (teacher_params + max(params)) + images.images_NCHW.numel()
    needed = sum(params) * a_param + scratch + _MARGIN
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"the disk of {folder} has {free / 1e6:,.0f} MB left, but the export takes about {needed / 1e6:,.0f} MB; "
            "make room, or choose another place with --out"
        )


@contextmanager
def staging(destination: Path) -> Iterator[Path]:
    """A hidden folder beside the destination, gone afterwards: from there a finished folder moves in one step."""
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=destination.parent))
    except OSError as error:
        raise InputError(f"{destination} cannot be made ({error.strerror}); choose another place") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def disk_full(folder: Path) -> Iterator[None]:
    """Say that the disk is full where that is why something failed: each writer says it in words of its own."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or (not isinstance(error, InputError) and shutil.disk_usage(folder).free < _FULL):
            raise InputError(f"the disk of {folder.parent} is full; make room, or choose another place") from error
        raise


def deliver(package: Path, destination: Path, existing: Existing) -> None:
    """Move a finished folder to its destination; what is replaced stays until then.

    Raises:
        InputError: if the destination was taken meanwhile.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        move(package, destination, mark=CARD_FILE if existing == "replace" else None)
    except OSError as error:
        raise InputError(f"{destination} was taken while the export ran; choose another place") from error


def move(package: Path, destination: Path, *, mark: str | None) -> None:
    """Move a finished folder to its place, over an empty folder too; what it replaces stays until then.

    Args:
        package: in a folder of `staging`.
        destination: its place.
        mark: a file that folders have which may be replaced; `None` replaces none.

    Raises:
        OSError: if something else is there.
    """
    old = package.with_name("replaced")
    try:
        if mark is not None and (destination / mark).is_file():
            destination.rename(old)
        package.rename(destination)
    except BaseException:  # a Ctrl-C in between, too: what is left in the staging folder goes
        if old.is_dir() and not os.path.lexists(destination):
            old.rename(destination)
        raise
