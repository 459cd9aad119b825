"""Memory of the machine that this process runs on, and whether decoded images fit into it."""

import os
from collections.abc import Sequence
from pathlib import Path

from trainables.errors import InputError

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def machine_bytes(limits: Sequence[Path] = _CGROUP_LIMITS) -> int:
    """Memory of this machine, or of the container that this process runs in.

    Args:
        limits: files that may hold the container's limit in bytes.
    """
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in limits:
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdecimal():  # `max` where there is none
            found.append(int(text))
    return min(found)


def gigabytes(number: float) -> str:
    """Bytes as people read them."""
    return f"{number / 2**30:.3g} GiB"


def require_room_for_images(num_images: int, *, channels: int, size: int) -> None:
    """Check that images fit into memory before any of it is taken.

    Args:
        num_images: that are held at the same time, one byte a value.
        channels: of each.
        size: height and width in pixels.

    Raises:
        InputError: saying what they take and what there is.
    """
    needed, there = num_images * channels * size**2, machine_bytes()
    if needed > there:
        raise InputError(
            f"data.image_size is {size}, at which {num_images} images take {gigabytes(needed)} of memory decoded, but "
            f"this machine has {gigabytes(there)}; lower it, or stream them as shards, which `cascade data` makes"
        )
