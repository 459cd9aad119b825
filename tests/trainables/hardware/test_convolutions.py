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

WORST_DIFFERENCES = """
import torch
from tests.trainables.hardware import depthwise_job, shortcuts_job
torch.manual_seed(0)
print(shortcuts_job.worst_difference(), depthwise_job.worst_difference(torch.Generator().manual_seed(0)))
"""


@pytest.mark.parametrize("instructions", ["ALL", "AVX2"])
def test_narrow_shortcuts_and_depthwise_convolutions_have_the_right_gradients(instructions: str) -> None:
    """In a process of its own: by itself oneDNN writes past its memory, on processors with AVX2 at least."""
    done = subprocess.run(
        [sys.executable, "-c", WORST_DIFFERENCES],
        cwd=Path(__file__).parents[3],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": instructions, "OMP_WAIT_POLICY": "passive"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    of_shortcuts, of_depthwise = map(float, done.stdout.split())
    assert of_shortcuts < 1e-5
    assert of_depthwise < 1e-5


@pytest.mark.parametrize(
    ("layer", "looked_at"),
    [
        (nn.Conv2d(15, 4, 1, stride=2), True),
        (nn.Conv2d(16, 4, 1, stride=2), False),
        (nn.Conv2d(15, 4, 1), False),
        (nn.Conv2d(15, 4, 3, stride=2), False),
        (nn.Conv2d(16, 16, 3, groups=16), True),
        (nn.Conv2d(16, 16, 3, groups=8), False),
        (nn.Conv2d(1, 4, 3), False),  # of images in grey
        (nn.Linear(3, 3), False),
    ],
)
def test_calls_of_other_networks_are_left_alone(layer: nn.Module, looked_at: bool) -> None:  # noqa: FBT001
    on_cpu, on_card = (cpu_convolutions(nn.Sequential(layer), "fp32", torch.device(name)) for name in ("cpu", "cuda"))
    assert isinstance(on_cpu, nullcontext) != looked_at
    assert isinstance(on_card, nullcontext)
