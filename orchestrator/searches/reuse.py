"""Finished stages, found again by the digest of what determined them.

A stage is a folder named by its identity's digest: `stage.safetensors`, and `manifest.json` with the identity and the
checksum of the former. Folders appear whole or not at all. Whoever computes a stage holds a lock on `DIGEST.lock`,
which the system takes back when its process dies; whoever wants the same stage waits for it. Where the file system
knows no locks a stage may be computed twice, which costs time and nothing else.

Behind the folder there may be a bucket, in which searches of several clusters find one another's stages. It has no
locks either. One that does not answer is no reason to end a trial: the stage is computed, and stays in the folder.
"""

import contextlib
import json
import logging
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from orchestrator.storage.bucket import Bucket
from orchestrator.storage.whole_files import checksum_of
from trainables.errors import InputError, first_line
from trainables.files.states import load_state, save_state
from trainables.files.whole import unfinished
from trainables.identity import Identity, digest
from trainables.tensors import Tensors

STAGE_FILE = "stage.safetensors"
MANIFEST_FILE = "manifest.json"

# A stage that is not whole yet, as `unfinished` says; earlier versions wrote no process number.
_ASIDE = re.compile(r"\.[0-9a-f]{32}(\.[0-9]+)?-[a-z0-9_]{8}")
_ABANDONED_SECONDS = 24 * 3600.0

_log = logging.getLogger(__name__)


class StageFolder:
    """Finished stages of all searches of a storage folder; each process has one of its own."""

    def __init__(self, path: Path | str, bucket: Bucket | None = None) -> None:
        """Say where.

        Args:
            path: the folder, which is made when there is something to keep.
            bucket: where stages that are not in the folder are looked for, and put besides.
        """
        self._path = Path(path)
        self._bucket = bucket
        self._lock: FileLock | None = None

    def __reduce__(self) -> tuple[type["StageFolder"], tuple[str, Bucket | None]]:
        return StageFolder, (str(self._path), self._bucket)

    def find_or_claim(self, identity: Identity) -> tuple[Tensors, dict[str, Any]] | None:
        """What a stage gave, or `None` where it is the caller's to compute.

        Waits while another process computes the stage. An entry that cannot be read counts as not there, and is dropped
        if it is damaged.

        Args:
            identity: what determines the stage.
        """
        self.release()
        key = digest(identity)
        found = self._read(key)
        if found is not None:
            return found
        self._path.mkdir(parents=True, exist_ok=True)
        # Without locks of the system a lock file would outlive its process, and others would wait for ever.
        lock = FileLock(self._path / f"{key}.lock", thread_local=False, fallback_to_soft=False, poll_interval=0.2)
        try:
            lock.acquire()
        except (OSError, NotImplementedError):
            return self._read(key) or self._fetch(key)
        self._lock = lock
        found = self._read(key) or self._fetch(key)
        if found is not None:
            self.release()
        return found

    def keep(self, identity: Identity, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Keep what a stage gave, and let those who wait for it have it."""
        key = digest(identity)
        self._path.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f"{unfinished(self._path / key)}-", dir=self._path))
        try:
            aside.chmod(0o755)
            save_state(aside / STAGE_FILE, tensors, values)
            manifest = {"identity": identity, "sha256": checksum_of(aside / STAGE_FILE)}
            (aside / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            self._put(aside, self._path / key)
            self._push(key)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            self.release()

    def release(self) -> None:
        """Let others compute what was claimed and not kept."""
        if self._lock is not None:
            # While the lock is held: who waits for it looks for the stage again, and takes the next lock file.
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()
            self._lock = None

    def sweep(self) -> None:
        """Remove what processes of any machine that were killed had begun to keep.

        Age alone tells: a trial that goes on within a stage holds no lock of it, and some disks know none of others.
        """
        before = time.time() - _ABANDONED_SECONDS
        for aside in self._path.glob(".*"):
            with contextlib.suppress(OSError):
                if _ASIDE.fullmatch(aside.name) and aside.stat().st_mtime < before:
                    shutil.rmtree(aside, ignore_errors=True)

    def _put(self, aside: Path, entry: Path) -> None:
        try:
            aside.rename(entry)
        except OSError:  # where there are no locks another may have kept it first, or a damaged one is left
            if not entry.is_dir():
                raise
            if not _is_whole(entry):
                shutil.rmtree(entry, ignore_errors=True)
                aside.rename(entry)

    def _read(self, key: str) -> tuple[Tensors, dict[str, Any]] | None:
        """What an entry holds. Who holds its lock drops a damaged one; one that cannot be read now stays."""
        entry = self._path / key
        try:
            if not entry.is_dir():
                return None
            if _is_whole(entry):
                return load_state(entry / STAGE_FILE)
        except (OSError, InputError) as error:
            _log.warning("stage %s cannot be read, and is computed again: %s", entry, first_line(error))
            return None
        if self._lock is not None:
            shutil.rmtree(entry, ignore_errors=True)
        return None

    def _fetch(self, key: str) -> tuple[Tensors, dict[str, Any]] | None:
        """Take a stage out of the bucket into the folder; a damaged one counts as not there, and is written over."""
        if self._bucket is None:
            return None
        try:
            return self._read(key) if self._bucket.pull(key, self._path / key) else None
        except OSError as error:
            _log.warning("stages are not looked for in %s: %s", self._bucket.address, first_line(error))
            return None

    def _push(self, key: str) -> None:
        if self._bucket is None:
            return
        try:
            self._bucket.push(self._path / key, key)
        except OSError as error:
            _log.warning("a stage could not be kept in %s: %s", self._bucket.address, first_line(error))


def _is_whole(entry: Path) -> bool:
    """Whether a stage is as it was kept.

    Raises:
        OSError: if that cannot be told now.
    """
    try:
        manifest = json.loads((entry / MANIFEST_FILE).read_text(encoding="utf-8"))
        return bool(manifest["sha256"] == checksum_of(entry / STAGE_FILE))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
