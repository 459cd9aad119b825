"""A study of seconds: few digits, a tiny network."""

from typing import Any

import pytest

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
