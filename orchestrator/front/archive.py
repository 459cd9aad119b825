"""Every candidate that a search has found, in one Parquet file."""

import bisect
import dataclasses
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.storage.lines import append_lines_durably
from orchestrator.storage.parquet_tables import read_table
from orchestrator.storage.whole_files import write_atomically
from trainables.errors import InputError

FORMAT_VERSION = 3  # since 2 there is `fidelity`, since 3 `val_top5`
_VERSION_KEY = b"cascade_archive_format"
# Time between two writings of the file, against the time that one takes; and seconds, at least.
_REST, _SHORTEST_REST_SECONDS = 19.0, 1.0
_MEND = "restore it, or move it away and go on with --resume, which takes what the study knows"
# What tells a file from the one that replaces it, or from itself before it grew; `None` where there is none.
_Version = tuple[int, int, int] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One level of one trial: a deployable network with its accuracy and its cost.

    Attributes:
        trial: number of the trial in the search, from 0.
        level: 1 … L; L is the student.
        num_assistants: L − 1.
        val_accuracy: top-1 on the validation images after recalibration, in [0, 1]; macro mean average precision where
            they have several labels.
        val_accuracy_before_recalibration: the same with the statistics that training left.
        macs: multiply-accumulates for one image.
        macs_kept: the same as a fraction of the teacher's, above 0.
        params: number of parameters.
        params_kept: the same as a fraction of the teacher's, above 0.
        latency_ms: median milliseconds for one image, above 0, where it was measured; else `None`.
        network: folder of the saved network, relative to the search's folder.
        cascade: JSON of the `CascadeConfig` that made it.
        fidelity: fraction of its stage's epochs that went into it, in (0, 1]; below 1 only where the trial was stopped.
        val_top5: of the five most likely classes, after recalibration, in [0, 1]; `None` with five classes or less, and
            in archives of format 2 or before.
    """

    trial: int
    level: int
    num_assistants: int
    val_accuracy: float
    val_accuracy_before_recalibration: float
    macs: int
    macs_kept: float
    params: int
    params_kept: float
    latency_ms: float | None
    network: str
    cascade: str
    fidelity: float = 1.0
    val_top5: float | None = None

    def __post_init__(self) -> None:
        """Check that what fronts are computed from is finite and in range.

        Raises:
            InputError: naming the candidate, the field, the rule and the value.
        """
        if not 0.0 <= self.val_accuracy <= 1.0:  # false for NaN too
            raise InputError(
                f"val_accuracy of candidate {self.label} is {self.val_accuracy!r}, but must be in [0, 1]; "
                "a trial without a usable accuracy has failed and gives no candidate"
            )
        if not 0.0 < self.fidelity <= 1.0:
            raise InputError(f"fidelity of candidate {self.label} is {self.fidelity!r}, but must be in (0, 1]")
        for name in ("macs_kept", "params_kept", "latency_ms"):
            cost: float | None = getattr(self, name)
            if cost is not None and not (math.isfinite(cost) and cost > 0.0):
                raise InputError(f"{name} of candidate {self.label} is {cost!r}, but must be finite and above 0")

    @property
    def key(self) -> tuple[int, int]:
        """What identifies it in a search: (trial, level)."""
        return (self.trial, self.level)

    @property
    def label(self) -> str:
        """The key as people write it, such as `3:2` for level 2 of trial 3."""
        return f"{self.trial}:{self.level}"


_SCHEMA = pa.schema(
    [
        pa.field("trial", pa.int64(), nullable=False),
        pa.field("level", pa.int64(), nullable=False),
        pa.field("num_assistants", pa.int64(), nullable=False),
        pa.field("val_accuracy", pa.float64(), nullable=False),
        pa.field("val_accuracy_before_recalibration", pa.float64(), nullable=False),
        pa.field("macs", pa.int64(), nullable=False),
        pa.field("macs_kept", pa.float64(), nullable=False),
        pa.field("params", pa.int64(), nullable=False),
        pa.field("params_kept", pa.float64(), nullable=False),
        pa.field("latency_ms", pa.float64(), nullable=True),
        pa.field("network", pa.string(), nullable=False),
        pa.field("cascade", pa.string(), nullable=False),
        pa.field("fidelity", pa.float64(), nullable=False),
        pa.field("val_top5", pa.float64(), nullable=True),
    ],
    metadata={_VERSION_KEY: str(FORMAT_VERSION).encode()},
)
_SCHEMA_2 = _SCHEMA.remove(_SCHEMA.get_field_index("val_top5"))
# Version 1 knew finished trials only.
_SCHEMA_1 = _SCHEMA_2.remove(_SCHEMA_2.get_field_index("fidelity"))
_SCHEMAS = {"1": _SCHEMA_1, "2": _SCHEMA_2, str(FORMAT_VERSION): _SCHEMA}


class Archive:
    """The candidates in one Parquet file, each kept once under its (trial, level). One writer at a time.

    A Parquet file can only be written anew, which takes the longer the more there is. So what is new is first kept as
    lines beside it, and the file is written again when that has not been done for a while, and by `settle`.
    """

    def __init__(self, path: Path) -> None:
        """Name the file; it is read when asked for and made by the first `add`.

        Args:
            path: the Parquet file; one that does not exist is an empty archive.
        """
        self.path = path
        self._lines = path.with_name(f"{path.stem}.new.jsonl")
        self._known: list[Candidate] = []
        self._known_of: tuple[_Version, _Version] | None = None
        self._next_settling = -math.inf

    def candidates(self) -> tuple[Candidate, ...]:
        """All candidates, sorted by (trial, level).

        Raises:
            InputError: if a file is no archive, is damaged, or was written by a newer version.
        """
        self._look()
        return tuple(self._known)

    def _look(self) -> None:
        """Read what has changed since it was read last."""
        found = self._version()
        if found != self._known_of:
            # In this order: lines that are settled in between are in the Parquet file then.
            known = {candidate.key: candidate for candidate in _read_lines(self._lines)}
            if self.path.exists():
                known |= {candidate.key: candidate for candidate in _read(self.path)}
            self._known = [known[key] for key in sorted(known)]
            self._known_of = found

    def _version(self) -> tuple[_Version, _Version]:
        return _version(self._lines), _version(self.path)

    def add(self, candidates: Iterable[Candidate]) -> None:
        """Merge candidates in; they are on disk when this returns, all or, if the machine stops before, none.

        Args:
            candidates: new ones, or ones that are there already with equal values, which changes nothing.

        Raises:
            InputError: if a (trial, level) is there with other values, or as `candidates` says.
        """
        self._look()
        new = []
        for candidate in candidates:
            kept = self._find(candidate.key)
            if kept is None:
                new.append(candidate)
            elif kept != candidate:
                raise InputError(
                    f"candidate {candidate.label} is already in {self.path} with another "
                    f"{_difference(kept, candidate)}; a finished trial's result never changes, so give this search "
                    "a folder of its own"
                )
        if not new:
            return
        for candidate in new:
            bisect.insort(self._known, candidate, key=_key)
        try:
            if time.monotonic() < self._next_settling:
                _append(self._lines, new)
                self._known_of = self._version()
            else:
                self._rewrite()
        except BaseException:  # no room: what is on disk counts
            self._known_of, self._next_settling = None, -math.inf
            raise

    def _find(self, key: tuple[int, int]) -> Candidate | None:
        place = bisect.bisect_left(self._known, key, key=_key)
        return self._known[place] if place < len(self._known) and self._known[place].key == key else None

    def settle(self) -> None:
        """Let all of it be in the Parquet file, for other programs to read; one writer at a time, as with `add`."""
        self._look()
        if self._lines.exists():
            self._rewrite()

    def _rewrite(self) -> None:
        """Write the file anew, in one step, so that a reader sees the old or the new one."""
        started = time.monotonic()
        write_atomically(self.path, _to_parquet(self._known))
        self._lines.unlink(missing_ok=True)
        self._known_of = self._version()
        ended = time.monotonic()
        self._next_settling = ended + max(_SHORTEST_REST_SECONDS, _REST * (ended - started))


def _to_parquet(candidates: Sequence[Candidate]) -> bytes:
    columns = {name: [getattr(candidate, name) for candidate in candidates] for name in _SCHEMA.names}
    table = pa.Table.from_pydict(columns, schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _key(candidate: Candidate) -> tuple[int, int]:
    return candidate.key


def _append(path: Path, candidates: Sequence[Candidate]) -> None:
    """Add a trial's candidates as one line, which the disk has whole or not at all."""
    line = json.dumps([dataclasses.asdict(candidate) for candidate in candidates])
    append_lines_durably(path, f"{line}\n".encode())


def _read_lines(path: Path) -> Iterator[Candidate]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):  # else the machine stopped while it was written
            try:
                yield from (Candidate(**plain) for plain in json.loads(line))
            except (ValueError, TypeError) as error:
                raise InputError(f"{path} holds no candidates or is damaged; {_MEND}") from error


def _version(path: Path) -> _Version:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: Path) -> list[Candidate]:
    try:
        table = read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is no archive of candidates or is damaged; {_MEND}") from error
    version = (table.schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
    if version.isdecimal() and int(version) > FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version}, but this version of the program reads up to {FORMAT_VERSION}; "
            "upgrade the program"
        )
    if version not in _SCHEMAS or not table.schema.equals(_SCHEMAS[version]):
        raise InputError(f"{path} is a Parquet file, but no archive of candidates; {_MEND}")
    return [Candidate(**row) for row in table.to_pylist()]


def _difference(old: Candidate, new: Candidate) -> str:
    for field in dataclasses.fields(Candidate):
        was, now = getattr(old, field.name), getattr(new, field.name)
        if was != now:
            return f"{field.name} ({was!r}, now {now!r})"
    raise AssertionError("the two candidates are equal")
