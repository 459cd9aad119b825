"""Send what a search has left in its spool, without running it."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.addresses import database_uri
from orchestrator.config import Experiment
from orchestrator.folder import SearchFolder
from orchestrator.tracking import records
from orchestrator.tracking.ledger import Ledger
from orchestrator.tracking.pages import SearchPages
from orchestrator.tracking.sender import Left, Sender
from orchestrator.tracking.spool import FOLDER, Spool
from orchestrator.tracking.store import MlflowStore, SearchIdentity
from trainables.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Synced:
    """What came of sending.

    Attributes:
        address: where to, as it may be shown.
        num_sent: records.
        left: what still waits, and why.
    """

    address: str
    num_sent: int
    left: Left


def tracking_uri(experiment: Experiment, storage: Path, uri: str | None = None) -> str:
    """Where a search is tracked: as asked now, in its experiment, in the environment, else in its storage folder."""
    return uri or experiment.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or database_uri(storage)


def sync(folder: SearchFolder, *, uri: str | None, from_start: bool, warn: Callable[[str], None]) -> Synced:
    """Send what waits, and close runs that a killed driver has left open.

    Args:
        folder: of the search.
        uri: where to, if not where the search says.
        from_start: send everything again, to an address that has lost it; what is there is recognised.
        warn: takes a line for people.

    Raises:
        InputError: if there is no such search, it runs, nothing was recorded, or MLflow is not to be reached.
    """
    experiment = folder.experiment()
    spool = Spool(folder.path / FOLDER)
    if not spool.path.exists():
        raise InputError(f"search {folder.name!r} has recorded nothing yet; run it, or go on with --resume")
    store = MlflowStore(
        uri=tracking_uri(experiment, folder.storage, uri),
        storage=folder.storage.resolve(),
        experiment=experiment.tracking.experiment,
    )
    with folder.locked():
        store.require()
        with spool.sending():
            close_open_runs(spool)
            identity = SearchIdentity(name=folder.name, search_id=folder.search_id, folder=folder.path)
            sent: list[int] = []
            sender = Sender(store, spool, identity, pages=SearchPages(warn), warn=warn, told=sent.append)
            if from_start:
                sender.rewind()
            if sender.send():
                sender.send_aside()
            return Synced(address=store.address, num_sent=sum(sent), left=sender.left())


def close_open_runs(spool: Spool) -> None:
    """Record that runs have ended whose driver was killed; only while no driver runs."""
    for run in Ledger(one.record for one in spool.read()[0]).open_runs():
        spool.append(records.closing(run, "stopped", reason="the driver ended", tags={"cascade.status": "interrupted"}))
    spool.close()


def sync_storage(storage: Path, *, warn: Callable[[str], None]) -> None:
    """Bring the database of a storage folder up to date with its searches, those that run now aside.

    Args:
        storage: folder of the searches.
        warn: takes a line for people.
    """
    for path in sorted(storage.glob(f"*/{FOLDER}/spool.jsonl")):
        folder = SearchFolder(storage=storage, name=path.parents[1].name)
        spool = Spool(path.parent)
        try:
            experiment = folder.experiment()
        except InputError as error:  # it was killed as it began, or its file is damaged
            warn(str(error))
            continue
        if tracking_uri(experiment, storage) != database_uri(storage):
            continue
        try:
            with folder.locked():
                pass
        except InputError:  # it runs, and sends by itself
            continue
        store = MlflowStore(
            uri=database_uri(storage), storage=storage.resolve(), experiment=experiment.tracking.experiment
        )
        is_closed = not Ledger(one.record for one in spool.read()[0]).open_runs()
        if is_closed and not spool.num_waiting(store.place):
            continue
        try:
            sync(folder, uri=None, from_start=False, warn=warn)
        except InputError as error:
            warn(str(error))
