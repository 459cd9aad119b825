"""What a joint step on a CPU takes with own gradients of some convolutions, against those of torch's library.

They are those of depthwise convolutions, and in bf16 on a CPU with AMX those to few pixels. The library's arm of bf16
has depthwise ones in fp32, as its gradients of them in bf16 take far longer.
"""

from collections.abc import Callable
from unittest.mock import patch

import torch

from benchmarks.engine import NUM_THREADS, Step, frozen, medians, pruned_stage, random_batch, random_splits
from benchmarks.table import Row
from trainables.hardware import convolutions, processor
from trainables.model_config import ModelConfig
from trainables.recipe import Precision

NETWORKS = {
    "mobilenet_v2": (64, 64),
    "mobilenet_v3_large": (64, 64),
    "mnasnet1_0": (64, 64),
    "efficientnet_b0": (64, 64),
    "convnext_tiny": (64, 32),
    "vgg16": (32, 128),
    "resnet18": (32, 128),
    "resnet50": (64, 64),
}
"""Pixels of an image's side, and images of a batch."""
ROUNDS = 7


def _by_library(step: Step) -> Step:
    """The same step, in which no convolution is seen to be depthwise, or to few pixels."""
    none: Callable[[object], None] = lambda _convolution: None  # noqa: E731

    def with_library(images: torch.Tensor, labels: torch.Tensor) -> object:
        with patch.object(convolutions._Convolution, "steps", property(none)):
            return step(images, labels)

    return with_library


def _rows(name: str, size: int, batch: int) -> list[Row]:
    arms: dict[str, Step] = {}
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for precision in precisions:
        for gradients in ("own", "library"):
            made = pruned_stage(frozen(ModelConfig(name=name)), random_splits(batch, size), precision=precision)
            step: Step = made[0].train_step
            arms[f"{precision} {gradients}"] = step if gradients == "own" else _by_library(step)
    took = medians(arms, *random_batch(batch, size), rounds=ROUNDS)
    where = f"{size}x{size}, batch {batch}, {NUM_THREADS} thread; "
    rows = [
        Row(
            name=f"{name}: joint step in {precision}, own gradients / the library's",
            figure=took[f"{precision} own"] / took[f"{precision} library"],
            rule="at most",
            target=1.02,
            note=where + ", ".join(f"{arm} {took[f'{precision} {arm}']:.3f} s" for arm in ("own", "library")),
        )
        for precision in precisions
    ]
    return [*rows, Row(name=f"{name}: joint step in fp32 / in bf16", figure=took["fp32 own"] / took["bf16 own"])]


def run() -> list[Row]:
    """Measure it."""
    processor.prepare(NUM_THREADS)
    return [row for name, (size, batch) in NETWORKS.items() for row in _rows(name, size, batch)]
