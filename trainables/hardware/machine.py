"""The machine that this process runs on: its memory, whether decoded images fit into it, and names of what computes."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

from trainables.errors import InputError

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_CPU_INFO = Path("/proc/cpuinfo")


def machine_bytes(limits: Sequence[Path] = _CGROUP_LIMITS) -> int:
    """Memory of this machine, or of the container that this process runs in.

    Args:
        limits: files that may hold the container's limit in bytes.
    """
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in limits:
        text = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
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


def gpu_name() -> str | None:
    """Name of the GPU that torch sees, such as `NVIDIA H100 80GB HBM3`; `None` without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def processor_name() -> str:
    """The processor's name as the system gives it, such as `Intel(R) Xeon(R) CPU @ 2.20GHz`."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next((name for name in names if name), platform.processor() or platform.machine())
