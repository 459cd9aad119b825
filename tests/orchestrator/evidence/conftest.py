"""A study of seconds: few digits, a tiny network."""

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.evidence.results import RunResult
from orchestrator.evidence.settings import Run

PLAIN: dict[str, Any] = {
    "model": {"name": "vgg-small", "width": 0.125},
    "data": {"name": "digits", "image_size": 8},
    "images": {"train": 96, "val": 40},
    "teacher": {"epochs": 1, "batch_size": 32, "learning_rate": 0.05},
    "cascade": {"recipe": {"batch_size": 32, "learning_rate": 0.05}, "pruning": {"num_prunings": 3}},
    "sizes": [0.3],
    "seeds": [1, 2],
    "budget": {"amount": 5},
    "reference": "plain",
    "arms": {"plain": {}, "scratch": {"method": "from-scratch", "cascade": {"distillation_weight": 0}}},
}


@pytest.fixture
def plain() -> dict[str, Any]:
    """Values of a study file, which a test may change."""
    return {key: dict(value) if isinstance(value, dict) else value for key, value in PLAIN.items()}


@pytest.fixture
def result_of() -> Callable[[Run], RunResult]:
    """What a run came to that found nothing."""

    def make(run: Run) -> RunResult:
        return RunResult(
            key=run.key,
            arm=run.arm,
            size=run.size,
            seed=run.seed,
            learning_rate=run.learning_rate,
            purpose=run.purpose,
            found=(),
            epochs=1,
            work=1.0,
            seconds=1.0,
            device="cpu",
            versions={},
            config={},
            failure="it was not tried",
        )

    return make
