"""Where a search's records go from its driver: into a spool, from which a courier takes them to MLflow."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from orchestrator.addresses import tracking_uri, without_credentials
from orchestrator.searches.layout import TRACKING
from orchestrator.tracking.connecting import is_own
from orchestrator.tracking.courier import Courier
from orchestrator.tracking.ledger import Ledger
from orchestrator.tracking.moved import follow_move
from orchestrator.tracking.spool import Record, Spool
from trainables.errors import InputError


class Outbox:
    """Takes records and knows what was told. All methods but `check` and `close` return at once and never raise.

    Attributes:
        ledger: what has been told of the search that is followed.
        together: held where several `put` are to be one, as the driver and whoever draws the front both write.
    """

    def __init__(
        self, *, uri: str | None, storage: Path, experiment: str, sync: str, warn: Callable[[str], None]
    ) -> None:
        """Say where to; nothing is connected yet.

        Args:
            uri: as `Tracker` takes it, and likewise the others.
            storage: folder of the searches.
            experiment: name of the MLflow experiment.
            sync: command that sends what waits.
            warn: takes a line for people.
        """
        self._storage = storage.resolve()
        self._uri = tracking_uri(uri, self._storage)
        self._experiment = experiment
        self._sync = sync
        self._warn = warn
        self._warned: set[str] = set()
        self._courier: Courier | None = None
        self._spool: Spool | None = None
        self.ledger = Ledger()
        self.together = threading.RLock()

    @property
    def address(self) -> str:
        """The tracking address as it may be shown: without user, password and query."""
        return without_credentials(self._uri, self._uri)

    def follow_move(self) -> None:
        """Put places of artifacts right where the storage folder was moved, before this process works in it."""
        if is_own(self._uri, self._storage):
            with suppress(sqlite3.Error):  # which is told when it is connected to
                follow_move(self._storage)

    def prepare(self) -> None:
        """Start the courier, which takes some seconds to get ready, while there is other work to do."""
        if self._courier is None:
            self._courier = Courier(
                uri=self._uri,
                storage=self._storage,
                experiment=self._experiment,
                sync=self._sync,
                warn=self._warn_once,
            )

    def check(self) -> None:
        """Have the courier connect and find or make the experiment; waits for it, some seconds.

        Raises:
            InputError: if MLflow is not to be reached there, refuses us, or the experiment was deleted.
        """
        self.prepare()
        assert self._courier is not None
        refusal = self._courier.ask()
        if refusal is not None:
            self._courier.close(0.0)
            self._courier = None
            raise InputError(refusal)

    def follow(self, name: str, search_id: str) -> None:
        """Put what comes into the spool of a search, and read what it holds already."""
        folder = self._storage / name / TRACKING
        if self._spool is None or self._spool.folder != folder:
            self._spool = Spool(folder)
            self.ledger = Ledger(spooled.record for spooled in self._spool.read()[0])
        if self._courier is not None:
            self._courier.follow(name=name, search_id=search_id)

    def put(self, *told: Record) -> None:
        """Write down what belongs together: all of it, or nothing if we are killed."""
        assert self._spool is not None, "a search is started or joined before anything is recorded"
        with self.together:
            for record in told:
                known = self.ledger.runs.get(record["run"])
                if record["kind"] == "open" and known is not None:
                    new = {name: text for name, text in record["params"].items() if name not in known.params}
                    record["params"] = new
                self.ledger.note(record)
            try:
                self._spool.append(*told)
            except OSError as error:
                self._warn_once(f"{self._spool.path} cannot be written ({error.strerror}); records are kept in memory")

    def close(self, timeout_seconds: float) -> None:
        """Wait until everything is sent, at most so long without any news; what is left then stays in the spool."""
        if self._spool is not None:
            self._spool.close()
        if self._courier is not None:
            self._courier.close(timeout_seconds)
            self._courier = None

    def _warn_once(self, text: str) -> None:
        text = f"tracking at {self.address}: {without_credentials(text, self._uri)}"
        if text not in self._warned:
            self._warned.add(text)
            self._warn(text)
