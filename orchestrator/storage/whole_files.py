"""Files that are whole whenever they are read, even if the machine stops while one is written; and what tells so."""

import hashlib
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from trainables.errors import InputError, first_line
from trainables.files.whole import written_whole

# What is not whole yet, as `unfinished` says, and the process that writes it.
_ASIDE = re.compile(r"\..+\.([0-9]+)(-[a-z0-9_]{8})?")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that, even if the machine stops, it holds all of the old content or all of the new.

    Args:
        path: the file; its folder is made if it is not there.
        content: all of it.
    """
    with written_whole(path) as aside:
        aside.write_bytes(content)


def remove_left(folder: Path) -> None:
    """Remove files and folders that processes were about to write into a folder, and no longer live to.

    Args:
        folder: into which this process writes nothing now; it need not be there.
    """
    with suppress(OSError):  # what stays is removed the next time
        for path in folder.iterdir():
            aside = _ASIDE.fullmatch(path.name)
            if aside is None or _is_alive(int(aside[1])):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    """Whether another process of this machine has this number."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


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
