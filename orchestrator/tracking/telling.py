"""Figures, names and texts of runs, chosen so that MLflow's own charts and filters find the right ones.

What a trial or network came to has the plain name (`val_accuracy`, `macs_kept`); series by epoch have the level in
front (`level_2_val_accuracy`), so that a chart over all runs takes the results and not some epoch.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from orchestrator.front.archive import Candidate
from orchestrator.front.front_view import FrontView
from orchestrator.front.listing import front_table
from orchestrator.overview.words import points_text
from orchestrator.searches.layout import OVERVIEW
from orchestrator.tracking.records import Metric, Scalar
from orchestrator.words import percent
from trainables.results import EpochProgress, Reused

_RESULTS = ("val_accuracy", "val_top5", "macs_kept", "params_kept", "macs", "params", "latency_ms")


def epoch_metrics(progress: EpochProgress, *, step: int) -> list[Metric]:
    """One epoch of a trial, a stage or the teacher.

    Args:
        progress: the epoch.
        step: what the series counts.
    """
    metrics: list[Metric] = [
        ("epoch", step, step),
        ("epoch_seconds", progress.seconds, step),
        ("learning_rate", progress.learning_rate, step),
    ]
    for level in progress.levels:
        prefix = f"level_{level.level}_" if level.level else ""
        for name in ("val_accuracy", "val_top5", "train_loss", "macs_kept"):
            metrics.append((prefix + name, getattr(level, name), step))
    return metrics


def network_metrics(candidate: Candidate) -> list[Metric]:
    """What a candidate is worth and costs."""
    return [(name, getattr(candidate, name), 0) for name in (*_RESULTS, "fidelity")]


def trial_metrics(candidates: Sequence[Candidate], reused: Reused | None) -> list[Metric]:
    """What a trial's student is worth and costs, and what the trial did not have to compute."""
    metrics: list[Metric] = []
    if candidates:
        student = max(candidates, key=lambda candidate: candidate.level)
        metrics += [(name, getattr(student, name), 0) for name in _RESULTS]
    if reused is not None and reused.stages:
        metrics += [("reused_epochs", reused.epochs, 0), ("reused_seconds", reused.seconds, 0)]
    return metrics


def knee_metrics(knee: Candidate, step: int) -> list[Metric]:
    """The knee of the front, for the search's own run."""
    return [(f"knee_{name}", getattr(knee, name), step) for name in ("val_accuracy", "macs_kept", "latency_ms")]


def sizes_text(parameters: Mapping[str, Scalar]) -> str:
    """The sizes that a trial's levels were asked for, such as `50 % → 20 %`, from its parameters."""
    sizes: list[str] = []
    while isinstance(size := parameters.get(f"level_{len(sizes) + 1}_macs_kept_asked"), int | float):
        sizes.append(f"{100 * size:.3g} %" if math.isfinite(size) else "?")
    return " → ".join(sizes)


def front_note(view: FrontView, export: Callable[[str], str]) -> str:
    """The front as the description of the search's run: the first thing that a newcomer reads there.

    Args:
        view: the front, not empty.
        export: gives the command that exports a network, by its label.
    """
    knee = view.knee
    assert knee is not None
    return (
        f"**Take network {knee.label} when in doubt**: {percent(knee.val_accuracy, 2)} with "
        f"{percent(knee.macs_kept, 2)} of the teacher's MACs, {points_text(knee, view.teacher_val_accuracy)}. "
        f"`{export(knee.label)}`\n\n"
        f"{front_table(view)}\n"
        f"The page `{OVERVIEW}` and the folder `front` under Artifacts show more; runs with the tag "
        "`front = true` are the networks of the front."
    )
