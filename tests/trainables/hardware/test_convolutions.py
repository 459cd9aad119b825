"""That convolutions are right on processors whose library has one of them wrong."""

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from trainables.hardware.convolutions import cpu_convolutions


@pytest.mark.parametrize("instructions", ["ALL", "AVX2"])
def test_narrow_shortcuts_have_the_right_gradients(instructions: str) -> None:
    """In a process of its own: by itself oneDNN writes past its memory, on processors with AVX2 at least."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.trainables.hardware.shortcuts_job"],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": instructions},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert float(done.stdout) < 1e-5


@pytest.mark.parametrize(
    ("layer", "looked_at"),
    [
        (nn.Conv2d(15, 4, 1, stride=2), True),
        (nn.Conv2d(16, 4, 1, stride=2), False),
        (nn.Conv2d(15, 4, 1), False),
        (nn.Conv2d(15, 4, 3, stride=2), False),
        (nn.Linear(3, 3), False),
    ],
)
def test_calls_of_other_networks_are_left_alone(layer: nn.Module, looked_at: bool) -> None:  # noqa: FBT001
    on_cpu, on_card = (cpu_convolutions(nn.Sequential(layer), "fp32", torch.device(name)) for name in ("cpu", "cuda"))
    assert isinstance(on_cpu, nullcontext) != looked_at
    assert isinstance(on_card, nullcontext)
