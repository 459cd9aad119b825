"""Many records in few calls: figures of a run together, of several artifacts in one place the last."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.tracking.spool import Record, Spooled

_ARTIFACTS = ("text", "file", "data", "overview", "register")


def is_artifact(record: Record) -> bool:
    """Whether a record needs the store of artifacts, and not only the one of runs."""
    return record["kind"] in _ARTIFACTS


def is_page(record: Record) -> bool:
    """Whether a record takes seconds, and is of no use once there is a newer one."""
    return record["kind"] in ("overview", "register")


def identity(record: Record) -> tuple[str, ...]:
    """What a record of an artifact replaces when it is sent after another one of the same identity."""
    places = {
        "text": ("artifact", record.get("path", "")),
        "file": ("artifact", f"{record.get('folder', '')}/{record.get('source', '')}"),
    }
    return (record["run"], *places.get(record["kind"], (record["kind"], record.get("model", ""))))


@dataclass(slots=True)
class Batch:
    """Figures, parameters and tags of one run.

    Attributes:
        metrics: name, value, step and time of each.
        params: by name.
        tags: by name.
    """

    metrics: list[list[Any]] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def take(self, record: Record) -> None:
        """Add what a record has of them."""
        time_ms = record.get("time", 0)
        self.metrics += [[*metric, time_ms] for metric in record.get("metrics", ())]
        for name, value in record.get("params", {}).items():
            self.params.setdefault(name, value)
        self.tags |= record.get("tags", {})

    def __bool__(self) -> bool:
        return bool(self.metrics or self.params or self.tags)


Step = tuple[str, Record | None, Batch]
"""`open`, `log`, `close` or the kind of an artifact; the record, where it is one's; what goes along."""


def steps(spooled: Sequence[Spooled]) -> Iterator[Step]:
    """What to do for records, in an order that leaves the same behind as one after the other.

    Args:
        spooled: records that follow one another.
    """
    pending: dict[str, Batch] = {}
    artifacts: dict[tuple[str, ...], Record] = {}
    for record in (one.record for one in spooled):
        run = record["run"]
        if is_artifact(record):
            artifacts.pop(identity(record), None)
            artifacts[identity(record)] = record
            continue
        batch = pending.setdefault(run, Batch())
        if record["kind"] == "open":
            if batch:
                yield "log", {"run": run}, batch
                batch = pending[run] = Batch()
            yield "open", record, Batch()
        batch.take(record)
        if record["kind"] == "close":
            # What was told last says that all before it was sent.
            yield "close", record, pending.pop(run)
    for run, batch in pending.items():
        if batch:
            yield "log", {"run": run}, batch
    for record in artifacts.values():
        yield record["kind"], record, Batch()
