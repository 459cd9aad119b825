"""What torch.compile makes of a joint step once levels have their sizes, and after how many epochs it has paid."""

import os
import tempfile
import time
from collections.abc import Iterator
from typing import get_args

import torch

from benchmarks.engine import NUM_THREADS, Step, frozen, medians, pruned_stage, random_batch, random_splits
from benchmarks.speed import NETWORKS, TRAIN_IMAGES
from benchmarks.table import Row
from trainables.hardware import processor
from trainables.recipe import Precision

ROUNDS = 5


def _rows(name: str) -> Iterator[Row]:
    model, size, batch = NETWORKS[name]
    teacher, data = frozen(model), random_splits(batch, size)
    images, labels = random_batch(batch, size)
    arms: dict[str, Step] = {}
    compiling: dict[Precision, float] = {}
    for precision in _precisions():
        arms[precision] = pruned_stage(teacher, data, precision=precision)[0].train_step
        compiled, _ = pruned_stage(teacher, data, precision=precision, execution="compile")
        started = time.perf_counter()
        compiled.train_step(images, labels)
        compiling[precision] = time.perf_counter() - started
        arms[f"{precision}, compiled"] = compiled.train_step
    took = medians(arms, images, labels, rounds=ROUNDS)
    told = f"{size}x{size}, batch {batch}, {NUM_THREADS} thread"
    for precision, once in compiling.items():
        plain, compiled_one = took[precision], took[f"{precision}, compiled"]
        pays = "never pays"
        if plain > compiled_one:
            epochs = once / (plain - compiled_one) / (TRAIN_IMAGES / batch)
            pays = f"pays after {epochs:.1f} epochs of {TRAIN_IMAGES} images"
        yield Row(
            name=f"{name}, {precision}: joint step compiled / as it is",
            figure=compiled_one / plain,
            note=f"{told}; compiling took {once:.0f} s and {pays}; {compiled_one:.3f} s, {plain:.3f} s",
        )
    if "bf16" in compiling:
        for kind in ("", ", compiled"):
            yield Row(
                name=f"{name}: joint step in fp32{kind} / in bf16, compiled",
                figure=took[f"fp32{kind}"] / took["bf16, compiled"],
                note=told,
            )


def _precisions() -> list[Precision]:
    has_bf16 = torch.cpu.get_capabilities().get("avx512_bf16")
    return [precision for precision in get_args(Precision) if has_bf16 or precision == "fp32"]


def run() -> list[Row]:
    """Measure it, with nothing compiled before."""
    processor.prepare(NUM_THREADS)
    with tempfile.TemporaryDirectory() as nothing_yet:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = nothing_yet
        return [row for name in ("VGG16", "MobileNetV2") for row in _rows(name)]
