"""The learning curves of a search's trials: one Parquet file a trial, so that ending one costs the same at any number.

An epoch goes to a small file of the trial's own as soon as it is heard, and that file outlives the driver: a trial that
goes on in a later start ends with one whole curve. The folder reads as one table with anything that reads Parquet.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.searches.asked import Asked
from orchestrator.searches.layout import RUNNING_CURVES
from orchestrator.storage.lines import append_lines
from orchestrator.storage.parquet_tables import read_table as read_parquet
from orchestrator.storage.whole_files import write_atomically
from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.results import EpochProgress, LevelResult

FORMAT_VERSION = 1
_RUNNING = PurePath(RUNNING_CURVES).name
_VERSION_KEY = b"cascade_curves_format"
_EXPERIMENT_KEY = b"cascade_experiment"
# Beside what an epoch came to, in a trial's own file.
_TRAINED = "trained"
End = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CurvePoint:
    """One level after one epoch.

    Attributes:
        level: 1 … L.
        stage: `cascade`, `level-1` … of a sequential cascade, or `recovery-1` …
        epoch: epochs of the stage that are done, from 1.
        trial_epoch: epochs of the whole trial that are done, from 1.
        macs_kept: fraction of the teacher's MACs that the level keeps now, in (0, 1].
        val_accuracy: top-1 on the validation images, in [0, 1]; macro mean average precision where they have several
            labels.
        train_loss: mean of the level's own loss over the epoch.
        seconds: wall time of the epoch, of all levels together, validation included.
    """

    level: int
    stage: str
    epoch: int
    trial_epoch: int
    macs_kept: float
    val_accuracy: float
    train_loss: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialCurve:
    """One trial as it went.

    Attributes:
        trial: its number.
        end: how it ended.
        parameters: what the sampler suggested.
        cascade: what it trained.
        points: by `trial_epoch`, then level.
        results: of the levels that reached their sizes, by level; none of a failed trial.
    """

    trial: int
    end: End
    parameters: dict[str, Any]
    cascade: CascadeConfig
    points: tuple[CurvePoint, ...]
    results: tuple[LevelResult, ...]


_RESULT_FIELDS = ("val_accuracy", "macs_kept", "params_kept", "macs", "params", "fidelity")
SCHEMA = pa.schema(
    [
        pa.field("trial", pa.int64(), nullable=False),
        pa.field("level", pa.int8(), nullable=False),
        pa.field("num_levels", pa.int8(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("epoch", pa.int32(), nullable=False),
        pa.field("trial_epoch", pa.int32(), nullable=False),
        pa.field("num_epochs", pa.int32(), nullable=False),
        pa.field("macs_kept", pa.float32(), nullable=False),
        pa.field("val_accuracy", pa.float32(), nullable=False),
        pa.field("train_loss", pa.float32(), nullable=False),
        pa.field("seconds", pa.float32(), nullable=False),
        pa.field("end", pa.string(), nullable=False),
        pa.field("parameters", pa.string(), nullable=False),
        pa.field("cascade", pa.string(), nullable=False),
        # Of the level's network in the end, after recalibration; null where it did not get so far.
        pa.field("result_val_accuracy", pa.float64(), nullable=True),
        pa.field("result_macs_kept", pa.float64(), nullable=True),
        pa.field("result_params_kept", pa.float64(), nullable=True),
        pa.field("result_macs", pa.int64(), nullable=True),
        pa.field("result_params", pa.int64(), nullable=True),
        pa.field("result_fidelity", pa.float64(), nullable=True),
    ],
    metadata={_VERSION_KEY: str(FORMAT_VERSION).encode()},
)


class Curves:
    """The curves of one search. One writer at a time."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; it is made by the first trial."""
        self._folder = folder

    def started(self, asked: Asked, parameters: Mapping[str, Any]) -> None:
        """A trial begins; one that goes on keeps the epochs of its earlier starts."""
        spool = self._spool(asked.number)
        if not spool.exists() and not self._part(asked.number).exists():
            header = {"parameters": dict(parameters), "cascade": asked.cascade.to_dict()}
            write_atomically(spool, f"{json.dumps(header)}\n".encode())

    def epoch(self, number: int, progress: EpochProgress, *, trained: int) -> None:
        """A trial trained an epoch, or took it over.

        Args:
            number: of the trial.
            progress: the epoch.
            trained: epochs that the trial has trained itself by now, over all starts.
        """
        spool = self._spool(number)
        if spool.exists():
            append_lines(spool, f"{json.dumps(progress.to_dict() | {_TRAINED: trained})}\n".encode())

    def trained(self, number: int) -> int | None:
        """Epochs that a trial which has not ended has trained itself, over all starts; `None` where none is kept."""
        spool = self._spool(number)
        found = _read_spool(spool) if spool.exists() else None
        return None if found is None else found[2]

    def ended(self, number: int, end: End, results: Sequence[LevelResult] = ()) -> None:
        """Keep a trial's curve; of one that is kept already nothing changes.

        Args:
            number: of the trial.
            end: how it ended.
            results: of the levels that reached their sizes.
        """
        spool, part = self._spool(number), self._part(number)
        if spool.exists() and not part.exists():
            found = _read_spool(spool)
            rows = [] if found is None else _rows(number, found[0], found[1], end, results)
            if rows:  # a trial that failed before its first epoch has no curve
                write_table(part, pa.Table.from_pylist(rows, schema=SCHEMA))
        spool.unlink(missing_ok=True)

    def settle(self, ends: Mapping[int, End], results: Callable[[int], Sequence[LevelResult]]) -> None:
        """Keep curves of trials that have ended, but whose driver died before it kept them; on resume.

        Args:
            ends: how trials ended, by number.
            results: gives what `ended` takes, of one of them.
        """
        for spool in sorted((self._folder / _RUNNING).glob("[0-9]*.jsonl")):
            number = int(spool.stem)
            if number in ends:
                self.ended(number, ends[number], results(number))

    def _part(self, number: int) -> Path:
        return self._folder / f"{number:05d}.parquet"

    def _spool(self, number: int) -> Path:
        return self._folder / _RUNNING / f"{number:05d}.jsonl"


def write_table(path: Path, table: pa.Table, *, experiment: Mapping[str, Any] | None = None) -> None:
    """Write curves in one step, compressed.

    Args:
        path: the Parquet file.
        table: as `read_table` gives it.
        experiment: plain values of the search that they come from, to be kept with them.
    """
    if experiment is not None:
        metadata = {**SCHEMA.metadata, _EXPERIMENT_KEY: json.dumps(experiment).encode()}
        table = table.replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=9)
    write_atomically(path, sink.getvalue().to_pybytes())


def read_table(path: Path) -> pa.Table:
    """Curves as they lie on disk, one row a trial, level and epoch.

    Args:
        path: a Parquet file, or a folder of them.

    Raises:
        InputError: if there are none, or a file holds something else.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise InputError(
            f"{path} holds no learning curves; give the folder `curves` of a search, or a Parquet file made of one"
        )
    return pa.concat_tables(_read_file(file) for file in files)


def read_experiment(path: Path) -> dict[str, Any]:
    """Plain values of the search that the curves of one file come from.

    Raises:
        InputError: if the file does not say, or is none of curves.
    """
    text = (_read_file(path).schema.metadata or {}).get(_EXPERIMENT_KEY)
    if text is None:
        raise InputError(f"{path} does not say which search its curves come from; give the search's name instead")
    values: dict[str, Any] = json.loads(text)
    return values


def read_curves(path: Path) -> tuple[TrialCurve, ...]:
    """The curve of each trial, by trial.

    Args:
        path: a Parquet file, or a folder of them.

    Raises:
        InputError: as `read_table`.
    """
    by_trial: dict[int, list[dict[str, Any]]] = {}
    for row in read_table(path).to_pylist():
        by_trial.setdefault(row["trial"], []).append(row)
    return tuple(_curve(by_trial[trial]) for trial in sorted(by_trial))


def _read_file(path: Path) -> pa.Table:
    try:
        table = read_parquet(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet; restore it or remove it") from error
    version = (table.schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
    if version.isdecimal() and int(version) > FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version}, but this version of the program reads up to {FORMAT_VERSION}; "
            "upgrade the program"
        )
    if version != str(FORMAT_VERSION) or not table.schema.equals(SCHEMA):
        raise InputError(f"{path} is a Parquet file, but holds no learning curves; restore it or remove it")
    return table


def _read_spool(spool: Path) -> tuple[dict[str, Any], list[EpochProgress], int | None] | None:
    """What began, its epochs in order, of one that was trained twice the later, and how many it trained itself.

    That is `None` where no epoch was heard, and all of it of a damaged file.
    """
    header, *lines = spool.read_bytes().splitlines() or [b""]
    try:
        begun: dict[str, Any] = json.loads(header)
    except ValueError:
        return None
    epochs: dict[int, EpochProgress] = {}
    trained: list[int] = []
    for line in lines:
        try:
            values = json.loads(line)
        except ValueError:
            continue  # a kill cut it
        if _TRAINED in values:  # earlier versions did not say
            trained.append(values.pop(_TRAINED))
        progress = EpochProgress.from_dict(values)
        epochs[progress.trial_epoch] = progress
    return begun, [epochs[epoch] for epoch in sorted(epochs)], max(trained, default=None)


def _rows(
    number: int, header: Mapping[str, Any], epochs: Iterable[EpochProgress], end: End, results: Sequence[LevelResult]
) -> list[dict[str, Any]]:
    cascade = CascadeConfig.from_dict(header["cascade"])
    trial = {
        "trial": number,
        "num_levels": cascade.num_levels,
        "num_epochs": cascade.num_epochs,
        "end": end,
        "parameters": json.dumps(header["parameters"], sort_keys=True),
        "cascade": json.dumps(cascade.to_dict(), sort_keys=True),
    }
    final = {result.level: {f"result_{name}": getattr(result, name) for name in _RESULT_FIELDS} for result in results}
    return [
        trial
        | {name: getattr(progress, name) for name in ("stage", "epoch", "trial_epoch", "seconds")}
        | {name: getattr(level, name) for name in ("level", "macs_kept", "val_accuracy", "train_loss")}
        | final.get(level.level, {})
        for progress in epochs
        for level in progress.levels
    ]


def _curve(rows: Sequence[Mapping[str, Any]]) -> TrialCurve:
    rows = sorted(rows, key=lambda row: (row["trial_epoch"], row["level"]))
    first = rows[0]
    assert first["end"] in get_args(End)
    results = {
        row["level"]: LevelResult(
            level=row["level"],
            num_levels=row["num_levels"],
            # What the level's last epoch told, which the last of its rows holds.
            val_accuracy_before_recalibration=row["val_accuracy"],
            **{name: row[f"result_{name}"] for name in _RESULT_FIELDS},
        )
        for row in rows
        if row["result_macs"] is not None
    }
    return TrialCurve(
        trial=first["trial"],
        end=first["end"],
        parameters=json.loads(first["parameters"]),
        cascade=CascadeConfig.from_dict(json.loads(first["cascade"])),
        points=tuple(CurvePoint(**{name: row[name] for name in CurvePoint.__slots__}) for row in rows),
        results=tuple(results[level] for level in sorted(results)),
    )
