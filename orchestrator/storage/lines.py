"""Files of lines that only grow: each line is whole, whatever a kill or a full disk did. One writer at a time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

_BLOCK = 4096


def append_lines(path: Path, lines: bytes) -> None:
    """Append lines, all or none, for every process to see; the system brings them to the disk when it likes.

    What is left of a line that a kill cut off goes first, so that it does not swallow the next one.

    Args:
        path: the file; it is made if it is not there.
        lines: one or more, each with its end.

    Raises:
        OSError: if they cannot be written, as the disk is full say; the file holds what it held.
    """
    with _growing(path) as file:
        _write(file, lines)


def append_lines_durably(path: Path, lines: bytes) -> None:
    """Append lines as `append_lines` does; they are on the disk when this returns."""
    with _growing(path) as file:
        _write(file, lines)
        os.fsync(file.fileno())


def drop_half_line(path: Path) -> None:
    """Remove what is left of a line that a kill cut off, for readers and writers that would stumble over it.

    Args:
        path: the file; it is made if it is not there.
    """
    with _growing(path):
        pass


@contextmanager
def _growing(path: Path) -> Iterator[FileIO]:
    """A file of whole lines to append to; what was appended goes if anything fails."""
    # Without a buffer, whose rest would be written when the file is closed.
    with path.open("a+b", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        whole = _whole_length(file, length)
        if whole < length:
            file.truncate(whole)
        try:
            yield file
        except BaseException:
            with suppress(OSError):  # the error before is the one to tell
                file.truncate(whole)
            raise


def _whole_length(file: FileIO, length: int) -> int:
    """Bytes that whole lines take."""
    end = length
    while end:
        start = max(0, end - _BLOCK)
        file.seek(start)
        last = file.read(end - start).rfind(b"\n")
        if last >= 0:
            return start + last + 1
        end = start
    return 0


def _write(file: FileIO, lines: bytes) -> None:
    rest = memoryview(lines)
    while rest:  # a disk that is nearly full takes a part, and says so when asked for the rest
        rest = rest[file.write(rest) :]
