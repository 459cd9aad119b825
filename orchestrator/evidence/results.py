"""What runs came to, one JSON line each in a file that only grows, so that a kill loses at most the run in progress."""

import dataclasses
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.evidence.settings import Purpose, Run
from orchestrator.searches.layout import SPOOL
from orchestrator.storage.lines import append_lines_durably
from orchestrator.storage.whole_files import write_atomically
from trainables.errors import InputError, shown
from trainables.plain import PlainConfig, require, require_int, require_number, require_one_of, require_text
from trainables.results import LevelResult


@dataclass(frozen=True, kw_only=True, slots=True)
class Found(PlainConfig):
    """A network that a run gave.

    Attributes:
        level: 1 … L; 1 for methods without levels.
        num_levels: L.
        macs_kept: fraction of the teacher's MACs, counted after channels are removed.
        params_kept: the same of parameters.
        macs: of one image.
        params: number of parameters.
        val_accuracy: on validation images, in [0, 1].
        test_accuracy: on test images, in [0, 1]; nothing is chosen by it.
    """

    level: int
    num_levels: int
    macs_kept: float
    params_kept: float
    macs: int
    params: int
    val_accuracy: float
    test_accuracy: float

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        for name in ("level", "num_levels", "macs", "params"):
            require_int(name, getattr(self, name), at_least=0)
        for name in ("macs_kept", "params_kept", "val_accuracy", "test_accuracy"):
            require_number(name, getattr(self, name), at_least=0.0, at_most=1.0)

    @classmethod
    def of(cls, result: LevelResult, test_accuracy: float) -> Self:
        """A level of a cascade."""
        names = (field.name for field in dataclasses.fields(cls))
        same = {name: getattr(result, name) for name in names if name != "test_accuracy"}
        return cls(test_accuracy=test_accuracy, **same)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunResult(PlainConfig):
    """One run that has ended.

    Attributes:
        key: of the run.
        arm: its name when it ran.
        size: of the student.
        seed: of the run.
        learning_rate: peak of the schedule.
        purpose: `tuning` or `measured`.
        found: its networks, the largest first; none if it failed.
        epochs: that were trained, over all stages.
        work: in teacher-passes, as `work` counts it.
        seconds: wall time of training.
        device: what it ran on.
        versions: of torch and torch-pruning, and digests of the code of the engine and of the arms.
        config: the cascade, or what one network was trained with.
        failure: why it gave nothing, or `None`.
    """

    key: str
    arm: str
    size: float
    seed: int
    learning_rate: float
    purpose: Purpose
    found: tuple[Found, ...]
    epochs: int
    work: float
    seconds: float
    device: str
    versions: Mapping[str, str]
    config: Mapping[str, Any]
    failure: str | None = None

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: naming the key, the rule and the value.
        """
        for name in ("key", "arm", "device"):
            require_text(name, getattr(self, name))
        require_number("size", self.size, above=0.0, below=1.0)
        require_int("seed", self.seed, at_least=0)
        require_number("learning_rate", self.learning_rate, above=0.0)
        require_one_of("purpose", self.purpose, get_args(Purpose))
        require_int("epochs", self.epochs, at_least=0)
        for name in ("work", "seconds"):
            require_number(name, getattr(self, name), at_least=0.0)
        for name in ("versions", "config"):
            value = getattr(self, name)
            require(isinstance(value, Mapping), f"{name} is {shown(value)}, but must map names to values")
        if self.failure is not None:
            require_text("failure", self.failure)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make one from what `to_dict` gave.

        Raises:
            InputError: on an unknown or missing key or a value out of range.
        """
        found = tuple(Found.from_dict(level) for level in values["found"])
        return super(RunResult, cls).from_dict({**values, "found": found})


class ResultFile:
    """Results in a file of JSON lines, each run once."""

    def __init__(self, path: Path) -> None:
        """Name the file; one that is not there holds none."""
        self.path = path

    def read(self) -> dict[str, RunResult]:
        """All results by the key of their run. A last line without an end was cut off by a kill, and counts nothing.

        Raises:
            InputError: if a line is damaged.
        """
        if not self.path.exists():
            return {}
        found: dict[str, RunResult] = {}
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], start=1):
            if not line:
                continue
            try:
                result = RunResult.from_dict(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"line {number} of {self.path} is damaged; remove that line to run it again"
                ) from error
            found.setdefault(result.key, result)
        return found

    def add(self, result: RunResult) -> None:
        """Append a result, on disk when this returns. One writer at a time."""
        append_lines_durably(self.path, f"{json.dumps(result.to_dict())}\n".encode())


def study_id(folder: Path) -> str:
    """What tells a study from every other, also after its folder was moved; a folder that has none gets one.

    Args:
        folder: the study's, absolute.
    """
    path = folder / "study-id"
    if not path.exists():
        write_atomically(path, _new_id(folder).encode())
    return path.read_text(encoding="utf-8").strip()


def _new_id(folder: Path) -> str:
    if not (folder / SPOOL).exists():
        return uuid.uuid4().hex
    from trainables.identity import digest  # and so torch

    return digest({"study": str(folder)})  # as earlier versions knew it, whose records go on under that


def write_results(results: Mapping[str, RunResult], runs: Mapping[str, Run], path: Path) -> None:
    """Write one row for each network of these runs as Parquet, for other tools."""
    rows = [
        {"arm": runs[key].arm, "size": result.size, "seed": result.seed, "purpose": result.purpose}
        | {"learning_rate": result.learning_rate, "epochs": result.epochs, "work": result.work}
        | {"seconds": result.seconds, "device": result.device, "key": key, "failure": result.failure}
        | {"versions": json.dumps(result.versions), "config": json.dumps(result.config)}
        | level
        for key, result in results.items()
        if key in runs
        for level in ([found.to_dict() for found in result.found] or [dict.fromkeys(Found.__slots__)])
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
