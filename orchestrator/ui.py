"""MLflow's pages over the searches in a folder: they are made ready, served, and said where they are."""

import contextlib
import os
import shlex
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

from orchestrator.addresses import database_file, database_uri
from orchestrator.searches.layout import SPOOL
from orchestrator.searches.places import Storage, storage_folder
from orchestrator.signals import terminated_as_interrupted
from orchestrator.storage.bucket import is_bucket
from orchestrator.tracking.links import best_page, found_pages, runs_page
from orchestrator.tracking.moved import follow_move
from orchestrator.tracking.ui_server import for_url, is_loopback, own_names, serve
from trainables.errors import InputError


def open_ui(storage: Storage, *, port: int, host: str = "127.0.0.1", say: Callable[[str], None] = print) -> None:
    """Serve the tracked searches until Ctrl-C, and say where to look.

    Args:
        storage: folder of the searches, with the `mlflow.db` in it, or the address of a place in a bucket, of which
            the working copy's is served.
        port: TCP port to listen on.
        host: network interface to listen on; the default is for this machine alone.
        say: takes the lines for people.

    Raises:
        InputError: as `serve`, or if the folder cannot be written to or all that it holds is tracked elsewhere.
        RuntimeError: as `serve`, or if the server ends by itself.
    """
    folder = storage_folder(storage)
    _require_writable(folder)
    _bring_up_to_date(storage, say)
    if is_bucket(str(storage)) and not database_file(folder).is_file():
        raise InputError(
            f"--storage is {storage}, a bucket, and no search has been tracked in {folder}, this machine's copy of it; "
            "look at the server that tracking.uri names, or bring a search here by cascade sync NAME --again"
        )
    if not database_file(folder).is_file():
        _require_tracked_here(folder)
    # The server's block is the innermost: it ends the server before the interrupt is taken.
    with (
        terminated_as_interrupted(signal.SIGHUP),  # of a terminal that is closed: the server has a session of its own
        contextlib.suppress(KeyboardInterrupt),
        serve(folder, port=port, host=host, say=say) as server,
    ):
        say(f"all runs: {runs_page(server.address)}")
        say(f"best networks: {best_page(server.address)}")
        for what, page in found_pages(server.address, folder).items():
            say(f"{what}: {page}")
        if not is_loopback(host):
            say(f"from other machines: http://{for_url(own_names(host)[0])}:{port}")
        say("Ctrl-C ends it")
        server.wait()


def _require_writable(storage: Path) -> None:
    for needed in (storage, storage / "mlflow.db"):
        if needed.exists() and not os.access(needed, os.W_OK):
            raise InputError(
                f"{needed} cannot be written to, as MLflow does to serve it; give --storage a copy of the folder, or "
                "change its permissions"
            )


def _require_tracked_here(storage: Path) -> None:
    """Refuse a folder without a database whose searches and studies are tracked at servers, which it names."""
    from orchestrator.tracking.syncing import tracked_elsewhere

    addresses = tracked_elsewhere(storage)
    if addresses:
        to = f"--storage {shlex.quote(str(storage))} --again --uri {shlex.quote(database_uri(storage))}"
        raise InputError(
            f"what {storage} holds is tracked at {' and '.join(addresses)}; look there, or bring a search here by "
            f"cascade sync NAME {to}"
        )


def _bring_up_to_date(storage: Storage, say: Callable[[str], None]) -> None:
    """Find artifacts again where the folder was moved, and send what killed searches and studies have left."""
    folder = storage_folder(storage)
    with contextlib.suppress(sqlite3.Error):  # which the server tells of
        follow_move(folder)
    if any(folder.glob(f"*/{SPOOL}")):
        from orchestrator.tracking.syncing import sync_storage

        sync_storage(storage, warn=say)
