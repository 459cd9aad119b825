"""What trials on machines that share no folder leave in a bucket: checkpoints and networks; and word to stop."""

import hashlib
import logging
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from orchestrator.searches.layout import STATES, TRIALS
from orchestrator.storage.answers import insist
from orchestrator.storage.bucket import Bucket
from trainables.errors import InputError, first_line
from trainables.files.states import load_state, save_state
from trainables.tensors import Tensors
from trainables.trial import progress
from trainables.tune_adapter import trial_key

# After a failure, for how long the bucket is left alone where nothing is lost by that.
_REST_SECONDS = 60.0

_log = logging.getLogger(__name__)


class TrialBucket:
    """A search's trials in its bucket; each process has one of its own.

    A trial is named by a key that holds its number and the digest of its cascade, so that a trial which a driver had
    asked for, but could not make known before it died, leaves nothing to the one that gets its number.
    """

    def __init__(self, bucket: Bucket, folder: Path) -> None:
        """Name the places.

        Args:
            bucket: the search's.
            folder: the search's working copy on this machine, which holds what the bucket did not take.
        """
        self._bucket = bucket
        self._folder = folder
        self._rests_until = 0.0

    def __reduce__(self) -> tuple[type["TrialBucket"], tuple[Bucket, Path]]:
        return TrialBucket, (self._bucket, self._folder)

    def state(self, key: str) -> tuple[Tensors, dict[str, Any]] | None:
        """The newest checkpoint of a trial, or `None` where there is none; waits for the bucket."""
        found = [self._state(key)] if self._state(key).exists() else []  # the bucket did not take it
        content = insist(lambda: self._bucket.read(f"{TRIALS}/{key}.safetensors"), what=f"reading {key}")
        states = []
        with tempfile.TemporaryDirectory() as fetched:
            if content is not None:
                found.append(Path(fetched) / "state.safetensors")
                found[-1].write_bytes(content)
            for path in found:
                with suppress(InputError):
                    states.append(load_state(path))
        return max(states, key=lambda state: progress(state[1]), default=None)

    def keep_state(self, key: str, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Keep a checkpoint; on this machine alone where the bucket does not take it.

        Args:
            key: of the trial.
            tensors: of its state.
            values: of its state.

        Raises:
            OSError: if it cannot be written here.
        """
        path = self._state(key)
        save_state(path, tensors, values)
        if not self._rests:
            with self._trying():
                self._bucket.write(f"{TRIALS}/{key}.safetensors", path.read_bytes())
                path.unlink()

    def keep_network(self, folder: Path) -> Path:
        """Keep the network of a level in the bucket, however long that takes: its trial counts as done then.

        It gets a name of its own there and here: a driver that goes on from what another one could still make known may
        give the same level another network, and neither is to be taken for the other.

        Args:
            folder: of the network, in the search's working copy.

        Returns:
            The folder under its new name.
        """
        named = folder.with_name(f"{folder.name}-{_digest(folder)[:12]}")
        shutil.rmtree(named, ignore_errors=True)  # of an earlier attempt that gave just this
        folder.rename(named)
        name = named.relative_to(self._folder).as_posix()
        insist(lambda: self._bucket.push_for_certain(named, name), what=f"keeping {name}")
        return named

    def told_to_stop(self, key: str) -> str | None:
        """Why a trial is to end, if it is; where the bucket does not answer it is told after the next epoch."""
        content = None
        if not self._rests:
            with self._trying():
                content = self._bucket.read(f"{TRIALS}/{key}.stop")
        return None if content is None else content.decode()

    def tell_to_stop(self, config: Mapping[str, Any], reason: str) -> None:
        """Tell a trial of this configuration to end before its next epoch, if the bucket takes that."""
        key = trial_key(config["trial"], config["cascade"])
        if not self._rests:  # else all trials would wait for it, and this one is compared again
            with self._trying():
                self._bucket.write(f"{TRIALS}/{key}.stop", reason.encode())

    def numbers(self) -> set[int]:
        """Numbers of the trials of which something is there.

        Raises:
            OSError: if the bucket does not answer.
        """
        return {
            int(name.partition("-")[0]) for name in self._bucket.names(TRIALS) if name.partition("-")[0].isdecimal()
        }

    def remove(self, trials: Iterable[int]) -> None:
        """Remove checkpoints of trials and word to them.

        Args:
            trials: their numbers.

        Raises:
            OSError: if the bucket does not answer.
        """
        marks = tuple(f"{number:05d}-" for number in trials)
        if not marks:
            return
        for name in self._bucket.names(TRIALS):
            if name.startswith(marks):
                self._bucket.remove(f"{TRIALS}/{name}")
        for path in (self._folder / STATES).glob("*"):
            if path.name.startswith(marks):
                path.unlink(missing_ok=True)

    def _state(self, key: str) -> Path:
        return self._folder / STATES / f"{key}.safetensors"

    @property
    def _rests(self) -> bool:
        return time.monotonic() < self._rests_until

    @contextmanager
    def _trying(self) -> Iterator[None]:
        """Go on where the bucket fails, and leave it alone for a while then."""
        try:
            yield
        except OSError as error:
            _log.warning("%s: %s", self._bucket.address, first_line(error))
            self._rests_until = time.monotonic() + _REST_SECONDS


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(folder)} {len(content)}\n".encode() + content)
    return digest.hexdigest()
