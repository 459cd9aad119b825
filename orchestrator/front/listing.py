"""A front in words: as a table, and as JSON."""

import dataclasses
import json
from typing import Any

from orchestrator.front.archive import Candidate
from orchestrator.front.front_view import FrontView
from orchestrator.markdown import table
from orchestrator.words import percent


def front_table(view: FrontView) -> str:
    """The front as a Markdown table by rising cost, the knee marked and what has collapsed.

    Args:
        view: what to show.

    Returns:
        A table with a line a candidate of the front, ending in a newline.
    """
    head = ["candidate", "val accuracy", "against teacher", "MACs", "MACs kept", "params", "params kept", "latency, ms"]
    rows = [
        (
            _named(view, candidate),
            percent(candidate.val_accuracy, 2),
            f"{100 * (candidate.val_accuracy - view.teacher_val_accuracy):+.2f} points",
            f"{candidate.macs:,}",
            percent(candidate.macs_kept, 2),
            f"{candidate.params:,}",
            percent(candidate.params_kept, 2),
            "–" if candidate.latency_ms is None else f"{candidate.latency_ms:.3g}",
        )
        for candidate in view.front
    ]
    return table(head, rows) + "\n"


def _named(view: FrontView, candidate: Candidate) -> str:
    remarks = view.remarks(candidate)
    name = f"**{candidate.label}**" if "knee" in remarks else candidate.label
    return f"{name} ({', '.join(remarks)})" if remarks else name


def front_json(view: FrontView, hypervolume: float) -> str:
    """The front with all that is known of its candidates, as JSON.

    Args:
        view: what to show.
        hypervolume: of the front.
    """
    content = {
        "objectives": list(view.objectives),
        "hypervolume": hypervolume,
        "teacher_val_accuracy": view.teacher_val_accuracy,
        "knee": view.knee.label if view.knee else None,
        "front": [readable(candidate) for candidate in view.front],
    }
    return json.dumps(content, indent=2)


def readable(candidate: Candidate) -> dict[str, Any]:
    """A candidate as plain values ready for JSON, its configuration unpacked."""
    return dataclasses.asdict(candidate) | {"cascade": json.loads(candidate.cascade)}
