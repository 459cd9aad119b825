"""Puts a set of shards into a bucket, where there is none for readers until it is whole."""

from pathlib import Path

from orchestrator.data.shards import FILE, is_file_name
from orchestrator.storage.bucket import Bucket
from orchestrator.storage.staging import Existing
from trainables.errors import InputError, first_line


def check_out(bucket: Bucket, existing: Existing) -> None:
    """Check that a set can be put at a place, or may replace the one that is there.

    Raises:
        InputError: naming what is there, or why nothing can be put there.
    """
    bucket.require_usable()
    try:
        there = bucket.sizes()
    except OSError as error:
        raise InputError(f"{bucket.shown} cannot be read: {first_line(error)}; look at its permissions") from error
    if FILE in there and existing == "keep":
        raise InputError(f"{bucket.shown} holds a set already; choose another place, or replace it with --overwrite")
    others = [name for name in there if not is_file_name(name)]
    if FILE not in there and others:
        raise InputError(
            f"{bucket.shown} holds {min(others)}, but no set of shards; choose another place, or remove what is there"
        )
    if FILE not in there and there and existing == "keep":
        raise InputError(
            f"{bucket.shown} holds {min(there)}, but no {FILE}: part of a set that did not arrive; choose another "
            "place, or replace it with --overwrite"
        )


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
        raise InputError(
            f"{bucket.shown} cannot be written to: {first_line(error)}; begin again, with --overwrite"
        ) from error
