"""Files that are whole whenever they are read, even if the machine stops while one is written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def unfinished(path: Path) -> str:
    """What lies beside a file or folder until it is whole is called, or begins with: it tells which process writes it.

    Args:
        path: of the file or folder.
    """
    return f".{path.name}.{os.getpid()}"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A hidden place beside a file, to be written to in the block; it is on the disk before it becomes the file.

    Args:
        path: the file; its folder is made if it is not there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(unfinished(path))
    try:
        yield aside
        settle(aside)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def settle(path: Path) -> None:
    """Wait until a file, or what a folder says of its files, is on the disk: a new name may arrive there sooner."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
