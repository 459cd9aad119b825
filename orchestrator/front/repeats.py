"""A front's members trained again with other seeds: what came out, in one Parquet file, and what it says of each.

Pure but for the file: nothing here trains.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.front.archive import Candidate
from orchestrator.front.intervals import accuracy_interval, rounding
from orchestrator.storage.parquet_tables import read_table
from orchestrator.storage.whole_files import write_atomically
from trainables.errors import InputError

MOST_SEEDS = 999  # numbers of repeats are put together from the trial's and the index


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeat:
    """One cascade trained once more.

    Attributes:
        trial: number of the trial in the search whose cascade it is.
        index: which repeat of it, from 1.
        seed: that it was trained with.
        val_accuracies: of its levels 1 … L, each in [0, 1]; empty if it failed.
        failure: why it failed, or `None`.
        num_val: validation images that each accuracy is a count over; `None` where it is none, or from before this was
            kept.
    """

    trial: int
    index: int
    seed: int
    val_accuracies: tuple[float, ...] = ()
    failure: str | None = None
    num_val: int | None = None

    @property
    def key(self) -> tuple[int, int]:
        """What identifies it in a search."""
        return (self.trial, self.index)


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmed:
    """What repeats say of one candidate.

    Attributes:
        candidate: of the search.
        val_accuracies: of its repeats, by their index; those that failed are left out.
        num_failed: repeats that gave no network.
        num_val: validation images that each accuracy is a count over, where that is known.
    """

    candidate: Candidate
    val_accuracies: tuple[float, ...]
    num_failed: int
    num_val: int | None = None

    @property
    def mean(self) -> float | None:
        """Mean validation accuracy of the repeats, without the search's own draw, which was chosen for its value."""
        return statistics.fmean(self.val_accuracies) if self.val_accuracies else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Student's 95 % interval of the mean, cut to [0, 1]; `None` for fewer than two repeats.

        Counts that come out alike are no more certain than their rounding lets them be.
        """
        least_spread = 0.0 if self.num_val is None else rounding(self.num_val)
        return accuracy_interval(self.val_accuracies, least_spread=least_spread)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        low, high = self.interval or (None, None)
        return {
            "trial": self.candidate.trial,
            "level": self.candidate.level,
            "macs_kept": self.candidate.macs_kept,
            "val_accuracy": self.candidate.val_accuracy,
            "mean": self.mean,
            "low": low,
            "high": high,
            "val_accuracies": list(self.val_accuracies),
            "num_failed": self.num_failed,
        }


def confirmed(candidates: Iterable[Candidate], repeats: Sequence[Repeat], num_seeds: int) -> tuple[Confirmed, ...]:
    """What the first so many repeats of each candidate's cascade say.

    Args:
        candidates: of the search.
        repeats: of any cascades.
        num_seeds: repeats of each to take into account, by their index.
    """
    found = []
    for candidate in candidates:
        own = sorted(
            (repeat for repeat in repeats if repeat.trial == candidate.trial and repeat.index <= num_seeds),
            key=lambda repeat: repeat.index,
        )
        accuracies = tuple(repeat.val_accuracies[candidate.level - 1] for repeat in own if repeat.val_accuracies)
        found.append(
            Confirmed(
                candidate=candidate,
                val_accuracies=accuracies,
                num_failed=len(own) - len(accuracies),
                # A search's images stay the same, so that one that says it says it for all.
                num_val=next((repeat.num_val for repeat in own if repeat.num_val is not None), None),
            )
        )
    return tuple(found)


_FORMAT_KEY, _FORMAT = b"cascade_confirm_format", b"1"
_SCHEMA = pa.schema(
    [
        pa.field("trial", pa.int64(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("val_accuracies", pa.list_(pa.float64()), nullable=False),
        pa.field("failure", pa.string(), nullable=True),
        pa.field("num_val", pa.int64(), nullable=True),
    ],
    metadata={_FORMAT_KEY: _FORMAT},
)
_KNOWN_NAMES = (_SCHEMA.names, _SCHEMA.names[:-1])  # as they were before `num_val` was kept


class RepeatFile:
    """The repeats of a search in one Parquet file, each once; replaced in one step. One writer at a time."""

    def __init__(self, path: Path) -> None:
        """Name the file; one that is not there holds none."""
        self.path = path

    def read(self) -> tuple[Repeat, ...]:
        """All repeats, sorted by (trial, index).

        Raises:
            InputError: if the file cannot be read, is damaged, or something else.
        """
        if not self.path.exists():
            return ()
        try:
            table = read_table(self.path)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{self.path} is damaged; remove it to confirm anew") from error
        if (table.schema.metadata or {}).get(_FORMAT_KEY) != _FORMAT or table.schema.names not in _KNOWN_NAMES:
            raise InputError(f"{self.path} is no file of repeats of this version; remove it to confirm anew")
        rows = [Repeat(**row | {"val_accuracies": tuple(row["val_accuracies"])}) for row in table.to_pylist()]
        return tuple(sorted(rows, key=lambda repeat: repeat.key))

    def add(self, repeat: Repeat) -> None:
        """Keep one more; one that is there already stays as it is."""
        known = {old.key: old for old in self.read()}
        merged = known | ({} if repeat.key in known else {repeat.key: repeat})
        columns = {name: [getattr(merged[key], name) for key in sorted(merged)] for name in _SCHEMA.names}
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pydict(columns, schema=_SCHEMA), sink)
        write_atomically(self.path, sink.getvalue().to_pybytes())
