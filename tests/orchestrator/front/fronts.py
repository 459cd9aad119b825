"""A small front, of which pictures and tables are made."""

from orchestrator.front.archive import Candidate
from orchestrator.front.front_view import FrontView
from orchestrator.front.pareto import front, knee


def candidate(trial: int, val_accuracy: float, macs_kept: float, latency_ms: float | None = None) -> Candidate:
    return Candidate(
        trial=trial,
        level=1,
        num_assistants=0,
        val_accuracy=val_accuracy,
        val_accuracy_before_recalibration=val_accuracy,
        macs=int(1e7 * macs_kept),
        macs_kept=macs_kept,
        params=int(1e6 * macs_kept),
        params_kept=macs_kept,
        latency_ms=latency_ms,
        network=f"networks/{trial}",
        cascade='{"macs_kept": [0.1]}',
    )


POPULATION = (
    candidate(0, 0.60, 0.01, 0.2),
    candidate(1, 0.95, 0.03, 0.3),
    candidate(2, 0.90, 0.20, 0.9),
    candidate(3, 0.98, 0.40, 1.8),
)


def view(candidates: tuple[Candidate, ...], *objectives: str) -> FrontView:
    objectives = objectives or ("val_accuracy", "macs_kept")
    found = front(candidates, objectives)
    return FrontView(
        candidates=candidates,
        front=found,
        knee=knee(found, objectives),
        teacher_val_accuracy=0.985,
        objectives=objectives,
    )
