"""What training asks of a process: so many threads, memory that stays with it, and its share of a card.

Every step of training takes as much memory as the one before and frees it. By itself glibc gives blocks of 32 MiB and
more back to the system at once, and others when enough of them are free, so that the next step waits while the system
fills every page with zeros anew.
"""

import ctypes
import os
from collections.abc import Callable

import torch

from trainables.hardware.branches import Branches

# `malloc.h` of glibc.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = -1

_VARIABLES = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
_TUNABLES = "glibc.malloc."


def prepare(num_threads: int | None, *, share_of_card: float = 1.0) -> None:
    """Make this process one that trains.

    Args:
        num_threads: that an operation is computed with; `None` leaves torch its own choice.
        share_of_card: that it may fill where it trains on one; more than 1 counts as 1.
    """
    Branches.share_of_card = min(1.0, share_of_card)
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    keep_memory()


def keep_memory() -> bool:
    """Have this process keep the memory that it frees, for what it computes next, until `return_memory`.

    Returns:
        Whether it does: not where the C library is another than glibc, or the environment says how memory is kept.
    """
    mallopt = _found("mallopt")
    if mallopt is None or _said_by_the_user():
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, _NEVER))


def return_memory() -> None:
    """Give what is free back to the system: from here on less is needed."""
    trim = _found("malloc_trim")
    if trim is not None:
        trim(0)


def _said_by_the_user() -> bool:
    return _TUNABLES in os.environ.get("GLIBC_TUNABLES", "") or any(name in os.environ for name in _VARIABLES)


def _found(function: str) -> Callable[..., int] | None:
    """A function of glibc's; `None` where the C library has none of that name."""
    return getattr(ctypes.CDLL(None), function, None) if os.name == "posix" else None
