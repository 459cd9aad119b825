"""Many records in few calls: figures of a run together, of several artifacts in one place the last."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from orchestrator.tracking.records import label_keys
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


def held(spooled: Sequence[Spooled], aside: Iterable[Spooled], begun: Collection[str] = ()) -> list[Spooled]:
    """Those that have to wait for records that are set aside.

    What is told of a run is sent in its order, as the last tags and the last end hold; what is kept with a run or
    nested in it comes after its beginning; and networks are registered after those of their runs.

    Args:
        spooled: records in their order.
        aside: records that were set aside before these, in their order.
        begun: runs that are known to be there, though not all that was told as they began may be.
    """
    first: dict[str | None, str] = {}
    for one in aside:
        if not is_artifact(one.record):
            first.setdefault(one.record["run"], one.record["kind"])
    found: list[Spooled] = []
    for one in spooled:
        run, is_told = one.record["run"], not is_artifact(one.record)
        versions = (label_keys(version["label"]) for version in one.record.get("versions", ()))
        needed = (run, one.record.get("parent"), *chain.from_iterable(versions))
        not_begun = any(first.get(other) == "open" and other not in begun for other in needed)
        if not_begun or (is_told and run in first):
            found.append(one)
            if is_told:
                first.setdefault(run, one.record["kind"])
    return found


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
