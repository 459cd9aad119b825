"""What records say: the runs they are about, and the few kinds of them. Plain values, ready for JSON."""

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from orchestrator.data.described import DataSet
from orchestrator.tracking.spool import Record

Status = Literal["finished", "failed", "stopped"]
Scalar = str | int | float | bool | None
Metric = tuple[str, float | None, int]
"""Name, value and step; one without a value, or with one that is not finite, is left out."""

SEARCH = "search"
TEACHER = "teacher"
MAX_TEXT = 5000  # characters; MLflow refuses longer parameters and tags
_MAX_NAME = 250  # characters of a parameter's name; MLflow refuses longer ones
_NOT_IN_NAMES = re.compile(r"[^\w./: -]")
_NO_NAME = re.compile(r"(?<![^/])(?:\.\.|\.?(?![^/]))")  # parts of a path that are empty, `.` or begin with `..`


def trial_key(trial: int) -> str:
    """The run of a trial."""
    return f"trial/{trial}"


def stage_key(trial: int, stage: str) -> str:
    """The run of a trial's stage."""
    return f"trial/{trial}/stage/{stage}"


def network_key(trial: int, level: int) -> str:
    """The run of a candidate."""
    return f"trial/{trial}/network/{level}"


def label_keys(label: str) -> tuple[str, str]:
    """The runs of a network by its label, such as `3:1`: its trial's, and its own."""
    trial, level = (int(part) for part in label.split(":"))
    return trial_key(trial), network_key(trial, level)


def repeat_key(trial: int, index: int) -> str:
    """The run of a cascade that was trained again."""
    return f"confirm/{trial}/{index}"


def run_key(key: str) -> str:
    """The run of a study's run, by the key that tells it from any other."""
    return f"run/{key}"


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts."""
    return int(time.time() * 1000)


def opening(
    run: str,
    *,
    name: str,
    kind: str,
    parent: str | None = None,
    params: Mapping[str, Scalar] | None = None,
    tags: Mapping[str, str] | None = None,
    seconds_ago: float = 0.0,
) -> Record:
    """A run begins, or goes on.

    Args:
        run: its key.
        name: for people.
        kind: `search`, `study`, `teacher`, `trial`, `stage`, `network`, `confirm` or `run`, a study's.
        parent: key of the run that it is nested in.
        params: a parameter that MLflow has already keeps its value.
        tags: replace those of the same name.
        seconds_ago: when it began, of one that is told after its end.
    """
    own = {"cascade.kind": kind, "cascade.status": "running"}
    return {
        "kind": "open",
        "run": run,
        "name": name,
        "parent": parent,
        "params": _params(params or {}),
        "tags": own | _texts(tags or {}),
        "time": now_ms() - round(1000 * seconds_ago),
    }


def logging(
    run: str,
    metrics: Iterable[Metric] = (),
    *,
    params: Mapping[str, Scalar] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Record:
    """Figures, parameters and tags of a run; a parameter that MLflow has already keeps its value."""
    finite = [[name, float(value), step] for name, value, step in metrics if value is not None and math.isfinite(value)]
    return {
        "kind": "log",
        "run": run,
        "metrics": finite,
        "params": _params(params or {}),
        "tags": _texts(tags or {}),
        "time": now_ms(),
    }


def writing(run: str, path: str, text: str) -> Record:
    """A text as an artifact of a run, which replaces what has this path."""
    return {"kind": "text", "run": run, "path": path, "text": text}


def copying(run: str, source: str, folder: str = "") -> Record:
    """A file of the search's folder as an artifact of a run, as it is when the record is sent.

    Args:
        run: its key.
        source: path relative to the search's folder.
        folder: of the artifact; the uppermost if left out.
    """
    return {"kind": "file", "run": run, "source": source, "folder": folder}


def overview() -> Record:
    """The overview page is to be drawn and kept with the search."""
    return {"kind": "overview", "run": SEARCH}


def reading(run: str, sets: Sequence[DataSet]) -> Record:
    """Data sets as inputs of a run."""
    plain = [
        {"name": s.name, "digest": s.digest, "source": s.source, "context": s.context, "profile": dict(s.profile)}
        for s in sets
    ]
    return {"kind": "data", "run": run, "sets": plain}


def registering(model: str, versions: Sequence[Mapping[str, Any]], aliases: Mapping[str, str]) -> Record:
    """Candidates of the front as versions of a registered model.

    Args:
        model: name of the registered model.
        versions: of each candidate its `label`, `trial`, `network` (folder, relative to the search's), and `tags`.
        aliases: alias → label.
    """
    return {
        "kind": "register",
        "run": SEARCH,
        "model": model,
        "versions": [dict(v) for v in versions],
        "aliases": dict(aliases),
    }


def closing(run: str, status: Status, *, reason: str | None = None, tags: Mapping[str, str] | None = None) -> Record:
    """A run has ended.

    Args:
        run: its key.
        status: how.
        reason: why; also the description of a run that is not the search's.
        tags: replace those of the same name.
    """
    own: dict[str, str] = {"cascade.status": status}
    if reason:
        own["cascade.reason"] = reason
    if reason and run != SEARCH:  # whose description is its front
        own["mlflow.note.content"] = reason
    if reason and status == "failed":
        own["failure"] = reason
    return {"kind": "close", "run": run, "status": status, "tags": _texts(own | dict(tags or {})), "time": now_ms()}


def _params(values: Mapping[str, Scalar]) -> dict[str, str]:
    """By names that MLflow takes: a space of the user's own may call its parameters anything."""
    params: dict[str, str] = {}
    for name, text in _texts(values).items():
        taken = plain = _plain(name)
        number = 1
        while taken in params:
            number += 1
            taken = f"{plain[: _MAX_NAME - len(str(number)) - 1]} {number}"
        params[taken] = text
    return params


def _plain(name: str) -> str:
    """A parameter's name as MLflow takes it: of a few signs, not long, and a path that leads nowhere else."""
    plain = _NO_NAME.sub("-", _NOT_IN_NAMES.sub("-", name))
    return plain if len(plain) <= _MAX_NAME else _NO_NAME.sub("-", plain[: _MAX_NAME - 1])


def _texts(values: Mapping[str, Scalar]) -> dict[str, str]:
    return {name: str(value)[:MAX_TEXT] for name, value in values.items()}
