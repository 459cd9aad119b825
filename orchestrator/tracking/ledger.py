"""What a spool says has been recorded: which runs are open, what has been told of them already."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.tracking.spool import Record


@dataclass(slots=True)
class RunNote:
    """One run.

    Attributes:
        kind: as `records.opening` says.
        status: how it ended, "interrupted" where that was not its own end; `None` while it is open.
        params: names of parameters that were told.
        last_epoch: the last epoch that was told, from 1; 0 for none.
        is_on_front: whether it was last told to be on the front.
    """

    kind: str
    status: str | None = None
    params: set[str] = field(default_factory=set)
    last_epoch: int = 0
    is_on_front: bool = False


class Ledger:
    """The runs of a search, as its records tell them.

    Attributes:
        runs: by key.
        registered: labels of the networks that were last told to be versions of the registered model.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        """Read records in their order."""
        self.runs: dict[str, RunNote] = {}
        self.registered: frozenset[str] = frozenset()
        self._open: set[str] = set()
        for record in records:
            self.note(record)

    def note(self, record: Record) -> None:
        """Take in one more record."""
        kind, run = record.get("kind"), record.get("run", "")
        if kind == "open":
            note = self.runs.setdefault(run, RunNote(kind=record["tags"]["cascade.kind"]))
            note.status = None
            self._open.add(run)
            note.params |= set(record["params"])
        if kind == "register":
            self.registered = frozenset(version["label"] for version in record["versions"])
        note = self.runs.get(run)  # type: ignore[assignment]
        if note is None:
            return
        if kind == "close":
            note.status = record["tags"]["cascade.status"]
            self._open.discard(run)
        for name, _, step in record.get("metrics", ()):
            if name == "epoch":
                note.last_epoch = max(note.last_epoch, step)
        if "front" in record.get("tags", {}):
            note.is_on_front = record["tags"]["front"] == "true"

    def is_open(self, run: str) -> bool:
        """Whether a run was begun and has not ended."""
        return run in self._open

    def open_runs(self) -> tuple[str, ...]:
        """Runs that were begun and have not ended, the nested ones first."""
        return _inner_first(self._open)

    def within(self, run: str) -> tuple[str, ...]:
        """Open runs that are nested in one."""
        return _inner_first(inner for inner in self._open if inner.startswith(f"{run}/"))

    def on_front(self) -> frozenset[str]:
        """Runs that were last told to be on the front."""
        return frozenset(run for run, note in self.runs.items() if note.is_on_front)


def _inner_first(runs: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(runs, key=lambda run: (-_depth(run), run)))


def _depth(run: str) -> int:
    return 0 if run == "search" else 1 + run.count("/")
