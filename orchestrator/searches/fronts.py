"""The front of a finished or running search, as people and as scripts read it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from orchestrator.front.front_view import FrontView, front_view
from orchestrator.front.interactive_page import page
from orchestrator.front.repeats import Confirmed
from orchestrator.front.still_picture import png
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.layout import FRONT_PAGE, FRONT_PICTURE
from orchestrator.storage.whole_files import write_atomically
from orchestrator.words import percent
from trainables.errors import InputError


def read_front(folder: SearchFolder) -> FrontView:
    """The front of a search as it is on disk.

    Raises:
        InputError: if there is no such search, or no trial of it is finished.
    """
    experiment = folder.experiment()
    candidates = folder.archive.candidates()
    if not candidates:
        raise InputError(
            f"no trial of search {folder.name!r} has given a network yet; let it run, or go on with --resume, which "
            "says what failed"
        )
    teacher = folder.teacher_result()
    return front_view(
        candidates,
        experiment.objectives,
        teacher_val_accuracy=teacher.val_accuracy,
        bounds=experiment.constraints,
        collapsed_below=teacher.collapsed_below,
    )


def save_front(view: FrontView, folder: Path) -> tuple[Path, Path]:
    """Write the interactive page, readable offline, and the still image into a folder; the two files.

    Args:
        view: what to show.
        folder: the search's.
    """
    files = (folder / FRONT_PAGE, folder / FRONT_PICTURE)
    for file, content in zip(files, (page(view).encode(), png(view)), strict=True):
        write_atomically(file, content)
    return files


def front_rows(view: FrontView) -> list[dict[str, Any]]:
    """Every candidate as plain values, with whether it is on the front and its knee."""
    on_front = {candidate.key for candidate in view.front}
    return [
        {
            "trial": candidate.trial,
            "level": candidate.level,
            "num_assistants": candidate.num_assistants,
            "val_accuracy": candidate.val_accuracy,
            "val_top5": candidate.val_top5,
            "macs": candidate.macs,
            "macs_kept": candidate.macs_kept,
            "params": candidate.params,
            "params_kept": candidate.params_kept,
            "latency_ms": candidate.latency_ms,
            "fidelity": candidate.fidelity,
            "on_front": candidate.key in on_front,
            "knee": view.is_knee(candidate),
            "meets_constraints": candidate.key not in view.breaking,
            "collapsed": view.is_collapsed(candidate),
        }
        for candidate in view.candidates
    ]


def front_json_list(view: FrontView) -> str:
    """`front_rows` as JSON."""
    return json.dumps(front_rows(view), indent=1)


def confirmed_rich_table(rows: Sequence[Confirmed]) -> Table:
    """What repeats say of candidates, for a terminal."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("trial:level", "kept", "accuracy", "again, mean", "95 % interval", "seeds", "failed"):
        table.add_column(column, justify="left" if column == "trial:level" else "right")
    for row in rows:
        interval = "" if row.interval is None else " … ".join(percent(end) for end in row.interval)
        table.add_row(
            row.candidate.label,
            percent(row.candidate.macs_kept),
            percent(row.candidate.val_accuracy),
            "" if row.mean is None else percent(row.mean),
            interval,
            str(len(row.val_accuracies)),
            str(row.num_failed) if row.num_failed else "",
        )
    return table


def front_rich_table(view: FrontView) -> Table:
    """The front for a terminal, by rising cost, with remarks."""
    left_out = f", {len(view.breaking)} left out as they break a constraint" if view.breaking else ""
    title = (
        f"front: {len(view.front)} of {len(view.candidates)} candidates{left_out}; "
        f"teacher {percent(view.teacher_val_accuracy)}"
    )
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="dim")
    latency = any(candidate.latency_ms is not None for candidate in view.front)
    unfinished = any(candidate.fidelity < 1.0 for candidate in view.front)
    columns = ["trial:level", "accuracy", "MACs", "kept", "compression", "params", "kept"]
    for column in [*columns, *(["latency"] if latency else []), *(["fidelity"] if unfinished else []), ""]:
        table.add_column(column, justify="left" if column in ("trial:level", "") else "right")
    for candidate in view.front:
        cells = [
            candidate.label,
            percent(candidate.val_accuracy),
            f"{candidate.macs / 1e6:.3g} M",
            percent(candidate.macs_kept),
            f"{1 / candidate.macs_kept:.3g}x",
            f"{candidate.params / 1e3:.3g} k",
            percent(candidate.params_kept),
        ]
        if latency:
            cells.append("–" if candidate.latency_ms is None else f"{candidate.latency_ms:.3g} ms")
        if unfinished:
            cells.append(percent(candidate.fidelity))
        remarks = view.remarks(candidate)
        table.add_row(*cells, ", ".join(remarks), style="bold" if "knee" in remarks else "")
    return table
