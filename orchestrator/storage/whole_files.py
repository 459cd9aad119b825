"""Files that are whole whenever they are read, even if the machine stops while one is written; and what tells so."""

import hashlib
from pathlib import Path

from trainables.errors import InputError, first_line
from trainables.files.whole import written_whole


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that, even if the machine stops, it holds all of the old content or all of the new.

    Args:
        path: the file; its folder is made if it is not there.
        content: all of it.
    """
    with written_whole(path) as aside:
        aside.write_bytes(content)


def read_whole(path: Path) -> bytes:
    """All of a file that is there; what is in it is the reader's business.

    Raises:
        InputError: naming the file and the system's reason, if it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise InputError(f"{path} cannot be read ({reason}); see to its permissions and its disk") from error


def checksum_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
