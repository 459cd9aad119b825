"""Who drives a search whose storage is a bucket: an object that its driver renews, as a bucket knows no locks."""

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.storage.bucket import Bucket
from trainables.errors import InputError

LEASE = "driver.json"
LEASE_SECONDS = 60.0
"""A lease that has not been renewed for so long is nobody's; clocks of different machines are not compared."""
_RENEW_SECONDS = 10.0  # between renewals, whatever else the driver does


class LeaseLostError(OSError):
    """Another driver has taken the search over, as this one could not renew its lease."""


class Lease:
    """The right to drive one search."""

    def __init__(self, bucket: Bucket) -> None:
        """Name the search's place in the bucket; nothing is taken yet."""
        self._bucket = bucket
        self._holder = {"owner": secrets.token_hex(8), "host": platform.node(), "boot": _boot(), "pid": os.getpid()}
        self._renewals = 0
        self._left = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self, say: Callable[[str], None], *, seconds: float = LEASE_SECONDS) -> None:
        """Take it, and renew it from then on; waits for that of a driver that does not renew its own any more.

        Args:
            say: told once that it waits.
            seconds: after which a lease that is not renewed counts as left.

        Raises:
            InputError: if the search has a driver.
            OSError: if the bucket does not answer.
        """
        seen = self._bucket.read(LEASE)
        if seen is not None and not _is_left(seen):
            say(
                f"the search was driven from {_host(seen)}, and not ended there; it is taken over if nothing is heard "
                f"of that within {seconds:.0f} s"
            )
            self._outwait(seen, seconds)
        self._write()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def _outwait(self, seen: bytes, seconds: float) -> None:
        pause, until = threading.Event(), time.monotonic() + seconds
        while time.monotonic() < until:
            pause.wait(1.0)
            now = self._bucket.read(LEASE)
            if now is None:
                return
            if now != seen:
                raise InputError(f"the search is driven by a process on {_host(now)}; wait for it or stop it")

    def keep(self) -> None:
        """See that it is still held.

        Raises:
            LeaseLostError: if another driver has it.
            OSError: if the bucket does not answer.
        """
        now = self._bucket.read(LEASE)
        if now is not None and not self._is_own(now):
            raise LeaseLostError(f"the search is driven from {_host(now)} now")

    def leave(self) -> None:
        """Renew it no more: others have it after a while."""
        self._left.set()

    def release(self) -> None:
        """Let others have it at once; where the bucket does not answer they wait."""
        self.leave()
        if self._thread is not None:
            self._thread.join()
        with suppress(OSError):
            now = self._bucket.read(LEASE)
            if now is not None and self._is_own(now):
                self._bucket.remove(LEASE)

    def _renew(self) -> None:
        while not self._left.wait(_RENEW_SECONDS):
            try:
                self.keep()
                self._write()
            except LeaseLostError:
                return  # which the driver sees before it carries anything
            except Exception:  # whatever it is, a driver that lives is not to be taken for dead
                continue

    def _write(self) -> None:
        self._renewals += 1
        self._bucket.write(LEASE, json.dumps(self._holder | {"renewals": self._renewals}).encode())

    def _is_own(self, lease: bytes) -> bool:
        return _read(lease).get("owner") == self._holder["owner"]


def is_driven(bucket: Bucket) -> bool:
    """Whether a search may have a driver: a lease is there that is not of a process of this machine that is dead.

    Args:
        bucket: the search's place.

    Raises:
        OSError: if the bucket does not answer.
    """
    seen = bucket.read(LEASE)
    return seen is not None and not _is_left(seen)


def _is_left(lease: bytes) -> bool:
    """Whether its holder was a process of this machine that is dead."""
    holder, boot = _read(lease), _boot()
    if not boot or (holder.get("host"), holder.get("boot")) != (platform.node(), boot):
        return False
    return not Path("/proc", str(holder.get("pid"))).exists()


def _read(lease: bytes) -> dict[str, Any]:
    try:
        found = json.loads(lease)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _host(lease: bytes) -> str:
    return str(_read(lease).get("host", "another machine"))


def _boot() -> str:
    """What tells processes that are seen from here from all others; empty where the system does not say.

    That is this start of this machine, and the container: another one may have the same host's name.
    """
    with suppress(OSError):
        start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{start} {Path('/proc/self/ns/pid').readlink()}"
    return ""
