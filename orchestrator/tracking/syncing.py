"""Send what a search or a study has left in its spool, without running it."""

import math
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from orchestrator.addresses import tracking_uri, without_credentials
from orchestrator.evidence.folder import is_study
from orchestrator.evidence.results import study_id
from orchestrator.experiment.config import Tracking
from orchestrator.front.front_view import FrontView
from orchestrator.front.pareto import front_hypervolume
from orchestrator.searches.folder import SearchFolder, folders_with
from orchestrator.searches.fronts import read_front, save_front
from orchestrator.searches.layout import CURVES, SPOOL, TRACKING
from orchestrator.searches.lease import is_driven
from orchestrator.searches.mirror import driving
from orchestrator.searches.places import Storage, fetch_networks, storage_folder
from orchestrator.storage.bucket import Bucket, is_bucket
from orchestrator.storage.locks import locked
from orchestrator.tracking import records
from orchestrator.tracking.connecting import is_own
from orchestrator.tracking.ledger import Ledger
from orchestrator.tracking.moved import follow_move
from orchestrator.tracking.pages import SearchPages
from orchestrator.tracking.registering import registration
from orchestrator.tracking.sender import Left, Sender
from orchestrator.tracking.spool import Spool
from orchestrator.tracking.store import MlflowStore, SearchIdentity
from orchestrator.tracking.stories import front_flags, front_story
from trainables.errors import InputError, first_line


@dataclass(frozen=True, kw_only=True, slots=True)
class Synced:
    """What came of sending.

    Attributes:
        address: where to, as it may be shown.
        num_sent: records.
        num_left_out: records that are not sent, as MLflow refused them or has no run for them.
        left: what still waits, and why.
    """

    address: str
    num_sent: int
    num_left_out: int
    left: Left


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """A search or a study whose records are sent.

    Attributes:
        folder: its own.
        kind: which of them.
        tracking: where its records go.
    """

    folder: SearchFolder
    kind: Literal["search", "study"]
    tracking: Tracking

    @property
    def identity(self) -> SearchIdentity:
        """By which MLflow knows its runs."""
        path = self.folder.path
        search_id = study_id(path) if self.kind == "study" else self.folder.search_id
        return SearchIdentity(name=self.folder.name, search_id=search_id, folder=path)

    @property
    def uri(self) -> str:
        """Where it is tracked."""
        return tracking_uri(self.tracking.uri, self.folder.storage)

    def store(self, uri: str | None = None) -> MlflowStore:
        """Where its records go, if not to this address; nothing is connected yet."""
        storage = self.folder.storage.resolve()
        return MlflowStore(
            uri=tracking_uri(uri or self.tracking.uri, storage), storage=storage, experiment=self.tracking.experiment
        )

    def locked(self) -> AbstractContextManager[None]:
        """Keeps drivers out; raises an `InputError` if one runs."""
        return locked(self.folder.path, "study") if self.kind == "study" else self.folder.locked()


def _source(folder: SearchFolder) -> _Source:
    """What a folder holds.

    Raises:
        InputError: if there is neither a search nor a study, or its file is damaged.
    """
    if is_study(folder.path):
        return _Source(folder=folder, kind="study", tracking=Tracking())
    return _Source(folder=folder, kind="search", tracking=folder.experiment().tracking)


def sync(folder: SearchFolder, *, uri: str | None, from_start: bool, warn: Callable[[str], None]) -> Synced:
    """Send what waits, tell the front if another one was told last, and close runs that a killed driver left open.

    Args:
        folder: of the search, or of a study.
        uri: where to, if not where the search says.
        from_start: send everything again, to an address that has lost it; what is there is recognised.
        warn: takes a line for people.

    Raises:
        InputError: if there is no such search, it runs, here or elsewhere on a bucket, nothing was recorded, or MLflow
            is not to be reached.
        OSError: if its bucket does not answer.
    """
    source = _source(folder)
    spool = Spool(folder.path / TRACKING)
    if not spool.path.exists():
        mend = "run it by cascade study" if source.kind == "study" else "run it, or go on with --resume"
        raise InputError(f"{source.kind} {folder.name!r} has recorded nothing yet; {mend}")
    store = source.store(uri)
    if uri is None and is_own(source.uri, folder.storage):
        with suppress(sqlite3.Error):  # which is told when it is connected to
            follow_move(folder.storage)  # before the lock, which says that somebody works here
    with source.locked(), driving(folder, warn):
        store.require()
        with spool.sending():
            _tell_front(source, spool)
            close_open_runs(spool)
            sent: list[int] = []
            sender = Sender(
                store,
                spool,
                source.identity,
                pages=SearchPages(warn, fetch=partial(fetch_networks, folder)),
                warn=warn,
                told=sent.append,
                sync=folder.sync_command,
            )
            if from_start:
                sender.rewind()
            if sender.send(most_failures=math.inf):  # what is behind records that do not arrive goes on too
                sender.send_aside()
            return Synced(
                address=store.address, num_sent=sum(sent), num_left_out=sender.num_left_out, left=sender.left()
            )


def _tell_front(source: _Source, spool: Spool) -> None:
    """Record the front where MLflow knows another one: a driver that is killed has a front that it did not tell yet.

    Of a search in a bucket its pictures, which records name, are drawn in any case: its driver drew them elsewhere.
    """
    folder, ledger = source.folder, Ledger(one.record for one in spool.read()[0])
    with suppress(InputError):  # there is none
        view = read_front(folder)
        is_told = _is_told(source, ledger, view)
        if is_told and folder.bucket is None:
            return
        figures = save_front(view, folder.path)
        if not is_told:
            volume = front_hypervolume(
                view.front, view.objectives, teacher_latency_ms=folder.teacher_result().latency_ms
            )
            num_ended = _num_ended(folder, ledger)
            export = folder.export_command
            told = front_story(view, hypervolume=volume, num_trials=num_ended, figures=figures, export=export)
            if _registers(source, view):
                told.append(registration(source.tracking.experiment, folder.name, view, export))
            spool.append(*front_flags(ledger, view), *told)


def _registers(source: _Source, view: FrontView) -> bool:
    """Whether networks of a front become versions of a registered model."""
    return bool(view.front) and source.tracking.models == "front"


def _is_told(source: _Source, ledger: Ledger, view: FrontView) -> bool:
    """Whether MLflow knows a front as it is, all that was recorded of it having been sent."""
    labels = {candidate.label for candidate in view.front}
    return not front_flags(ledger, view) and (not _registers(source, view) or ledger.registered == labels)


def _num_ended(folder: SearchFolder, ledger: Ledger) -> int:
    """Trials that have ended: those that left a curve, and those told to, as one that failed early has no curve."""
    names = (path.stem for path in (folder.path / CURVES).glob("*.parquet"))
    curves = {records.trial_key(int(name)) for name in names if name.isdecimal()}
    # As stopped those are told too that their driver's end cut off; one that was stopped for good has a curve.
    ended = ("finished", "failed")
    told = {run for run, note in ledger.runs.items() if note.kind == "trial" and note.status in ended}
    return len(curves | told)


def _is_front_told(source: _Source, ledger: Ledger) -> bool:
    """Whether MLflow knows the front as it is, or there is none."""
    try:
        return _is_told(source, ledger, read_front(source.folder))
    except InputError:
        return True


def close_open_runs(spool: Spool) -> None:
    """Record that runs have ended whose driver was killed; only while no driver runs."""
    for run in Ledger(one.record for one in spool.read()[0]).open_runs():
        spool.append(records.closing(run, "stopped", reason="the driver ended", tags={"cascade.status": "interrupted"}))
    spool.close()


def sync_storage(storage: Storage, *, warn: Callable[[str], None]) -> None:
    """Bring the database of a storage folder up to date with its searches and studies, those that run now aside.

    Args:
        storage: folder of the searches, or a place in a bucket, of which the working copy's is.
        warn: takes a line for people.
    """
    place = storage_folder(storage)
    for folder in folders_with(place, SPOOL):
        try:
            if is_bucket(str(storage)):
                folder = replace(folder, bucket=Bucket(str(storage)).within(folder.name))
            _sync_if_left(folder, place, warn)
        except InputError as error:  # it was killed as it began, its file is damaged, or MLflow does not work
            warn(str(error))
        except OSError as error:
            if not is_bucket(str(storage)):
                raise
            warn(f"what searches have left is not sent: {first_line(error)}")
            return


def tracked_elsewhere(storage: Path) -> tuple[str, ...]:
    """Addresses, as they may be shown, that searches and studies of a folder are tracked at instead of in it."""
    addresses: set[str] = set()
    for folder in folders_with(storage, SPOOL):
        with suppress(InputError):  # it was killed as it began, or its file is damaged
            uri = _source(folder).uri
            if not is_own(uri, storage):
                addresses.add(without_credentials(uri, uri))
    return tuple(sorted(addresses))


def _sync_if_left(folder: SearchFolder, storage: Path, warn: Callable[[str], None]) -> None:
    """Send what a search or a study has left to the storage folder's own database, unless it runs."""
    spool = Spool(folder.path / TRACKING)
    source = _source(folder)
    if not is_own(source.uri, storage) or (folder.bucket is not None and is_driven(folder.bucket)):
        return
    try:
        with source.locked():
            pass
    except InputError:  # it runs, and sends by itself
        return
    except PermissionError as error:  # somebody else's
        warn(f"{error.filename} cannot be written, so that what {folder.name} has left is not sent")
        return
    store = source.store()
    ledger = Ledger(one.record for one in spool.read()[0])
    if ledger.open_runs() or spool.num_waiting(store.place) or not _is_front_told(source, ledger):
        sync(folder, uri=None, from_start=False, warn=warn)
