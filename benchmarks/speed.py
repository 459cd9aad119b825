"""What a cascade costs beyond its networks: sharing, levels, precision, dead weights, pruning, set-up, images.

Ratios within one process, arms in turn, medians; rows of levels and of memory in processes of their own. Images are
noise, as speed does not know the difference.
"""

import ctypes
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from benchmarks.engine import (
    BATCH,
    EVENLY,
    NUM_THREADS,
    Step,
    frozen,
    full_stage,
    masked_step,
    medians,
    pruned_stage,
    random_batch,
    random_splits,
    separate_step,
)
from benchmarks.table import Row
from trainables.config import CascadeConfig
from trainables.data_config import Augmentation
from trainables.datasets.data import DataSplits
from trainables.hardware import processor
from trainables.model_config import ModelConfig
from trainables.pruning.cost import count_macs
from trainables.pruning.schedule import pruning_steps
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe
from trainables.stages.batches import epoch_batches
from trainables.stages.cascade import CascadeStage
from trainables.stages.joint import JointStep
from trainables.stages.objective import Objective

Measured = TypeVar("Measured")

VGG16 = ModelConfig(name="vgg16")
RESNET50 = ModelConfig(name="resnet50", stem="imagenet")
MOBILENET = ModelConfig(name="mobilenet_v2")
NETWORKS = {"VGG16": (VGG16, 32, BATCH), "ResNet-50": (RESNET50, 64, 64), "MobileNetV2": (MOBILENET, 64, 64)}
ONE_SUM = ((0.6,), (0.36, 0.24), (0.3, 0.2, 0.1), (0.24, 0.18, 0.12, 0.06), (0.2, 0.16, 0.12, 0.08, 0.04))
ROUNDS = 7
TRAIN_IMAGES = 40_000  # CIFAR-10 less a validation fifth


def against_separate() -> Iterator[Row]:
    for name, (model, size, batch) in NETWORKS.items():
        teacher = frozen(model)
        stage, config = pruned_stage(teacher, random_splits(batch, size))
        arms: dict[str, Step] = {"joint": stage.train_step, "separate": separate_step(teacher, stage, config)}
        took = medians(arms, *random_batch(batch, size), rounds=ROUNDS)
        yield Row(
            name=f"{name}: joint step / three separate narrow networks",
            figure=took["joint"] / took["separate"],
            rule="at most",
            target=1.05,
            note=f"{size}x{size}, batch {batch}, {NUM_THREADS} thread; "
            + ", ".join(f"{arm} {seconds:.3f} s" for arm, seconds in took.items()),
        )


def by_number_of_levels() -> Iterator[Row]:
    for round_to in (1, 8, 16):
        yield _alone(partial(_one_sum, round_to))


def _one_sum(round_to: int) -> Row:
    teacher, data = frozen(VGG16), random_splits()
    macs = count_macs(teacher, data.input_shape)
    pruning = replace(EVENLY, round_to=round_to)
    stages = {str(len(sizes)): pruned_stage(teacher, data, sizes, pruning=pruning)[0] for sizes in ONE_SUM}
    took = medians({arm: stage.train_step for arm, stage in stages.items()}, *random_batch(), rounds=ROUNDS)
    sums = {
        arm: sum(count_macs(level.network, data.input_shape) for level in stage.levels) / macs
        for arm, stage in stages.items()
    }
    return Row(
        name=f"step with 1 … 5 levels at one sum of macs_kept, round_to {round_to}: slowest / fastest",
        figure=max(took.values()) / min(took.values()),
        rule="at most",
        target=1.15,
        note="VGG16; levels, their sum, seconds: "
        + ", ".join(f"{arm}, {sums[arm]:.3f}, {seconds:.2f}" for arm, seconds in took.items()),
    )


def remembered() -> Iterator[Row]:
    """A step of one level that knows the teacher's logits against one that asks for them."""
    teacher, data = frozen(VGG16), random_splits()
    for kept in (0.25, 0.05):
        stage, _ = pruned_stage(teacher, data, (kept,))
        joint = stage._joint
        arms: dict[str, Step] = {
            "remembered": given(joint, joint.logits(*random_batch())),
            "asked": partial(joint, "asked"),
        }
        took = medians(arms, *random_batch(), rounds=ROUNDS)
        yield Row(
            name=f"VGG16, a level at {kept:.0%} of the MACs: step with remembered logits / one that asks for them",
            figure=took["remembered"] / took["asked"],
            note=", ".join(f"{arm} {seconds:.3f} s" for arm, seconds in took.items()),
        )


def given(joint: JointStep, logits: torch.Tensor) -> Step:
    """A step that knows these logits."""
    return lambda images, labels: joint("given", images, labels, logits)


def by_precision() -> Iterator[Row]:
    for name, (model, size, batch) in NETWORKS.items():
        teacher, data = frozen(model), random_splits(batch, size)
        arms = {
            "fp32": pruned_stage(teacher, data)[0].train_step,
            "bf16": pruned_stage(teacher, data, precision="bf16")[0].train_step,
        }
        took = medians(arms, *random_batch(batch, size), rounds=ROUNDS)
        yield Row(
            name=f"{name}: joint step in fp32 / in bf16",
            figure=took["fp32"] / took["bf16"],
            rule="at least",
            target=1.5,
            note=f"batch {batch}; " + ", ".join(f"{arm} {seconds:.3f} s" for arm, seconds in took.items()),
        )


def _peak(step: Callable[[], object]) -> float:
    """Most memory of the process during a second call, in MB."""
    step()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    step()
    (peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return float(peak.split()[1]) / 1024


def _tensors(stage: CascadeStage) -> float:
    """Weights, gradients, optimiser state and levels of a stage, in MB."""
    parameters = [*stage.levels[0].shared.network.parameters()]
    parameters += [p for level in stage.levels for p in level.private.values()]
    numbers = 3 * sum(p.numel() for p in parameters)
    numbers += 2 * sum(p.numel() for level in stage.levels for p in level.network.parameters())
    return 4 * numbers / 2**20


def _alone(measure: Callable[[], Measured]) -> Measured:
    """What a process finds that has done nothing else, as one of a trial; it would still hold memory and kernels."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        return fresh.submit(_prepared, measure).result()


def _prepared(measure: Callable[[], Measured]) -> Measured:
    processor.prepare(NUM_THREADS)
    return measure()


def _cost(make: Callable[[nn.Module, DataSplits], tuple[CascadeStage, CascadeConfig]]) -> tuple[float, float]:
    """Peak of a joint step, and what lives on, in MB."""
    stage, _ = make(frozen(VGG16), random_splits())
    batch = random_batch()
    return _peak(lambda: stage.train_step(*batch)), _tensors(stage)


def _masked_peak() -> float:
    teacher = frozen(VGG16)
    stage, config = pruned_stage(teacher, random_splits())
    masked, batch = masked_step(teacher, stage, config), random_batch()
    del stage  # the masked engine has none
    return _peak(lambda: masked(*batch))


def memory() -> Iterator[Row]:
    before, after = _alone(partial(_cost, full_stage)), _alone(partial(_cost, pruned_stage))
    dense = _alone(_masked_peak)
    yield Row(
        name="VGG16: peak memory of a joint step / of the masked engine's",
        figure=after[0] / dense,
        note=f"whole process; levels full {before[0]:.0f} MB, at their sizes {after[0]:.0f} MB, masks {dense:.0f} MB",
    )
    yield Row(
        name="VGG16: weights, gradients and optimiser state with levels at their sizes / full",
        figure=after[1] / before[1],
        note=f"{after[1]:.0f} MB of {before[1]:.0f} MB",
    )


def pruning_events() -> Iterator[Row]:
    steps = TRAIN_IMAGES // BATCH
    events = len(pruning_steps(Pruning(), Recipe().epochs * steps)) / (Pruning().ramp_fraction * Recipe().epochs)
    for name, (model, size, batch) in NETWORKS.items():
        stage, _ = full_stage(frozen(model), random_splits(batch, size), pruning=Pruning(), epochs=40)
        images, labels = random_batch(batch, size)
        stage.train_step(images, labels)
        steps_took, events_took = [], []
        for event in range(1, 9):
            started = time.perf_counter()
            stage.train_step(images, labels)
            steps_took.append(time.perf_counter() - started)
            started = time.perf_counter()
            stage._prune(event / 8)
            events_took.append(time.perf_counter() - started)
        epoch = statistics.median(steps_took) * TRAIN_IMAGES / batch
        took = statistics.median(events_took)
        yield Row(
            name=f"{name}: pruning events / an epoch",
            figure=events * took / epoch,
            rule="at most",
            target=0.02,
            note=f"{events:g} events an epoch, {took:.2f} s each; {TRAIN_IMAGES} images, {epoch:.0f} s",
        )


def set_up() -> Row:
    torch.set_num_threads(2)
    teacher, data = frozen(RESNET50), random_splits(8, 64)
    took = []
    for _ in range(3):
        started = time.perf_counter()
        full_stage(teacher, data)
        took.append(time.perf_counter() - started)
    torch.set_num_threads(NUM_THREADS)
    return Row(
        name="set-up of a cascade, ResNet-50, three levels",
        figure=statistics.median(took),
        unit="s",
        rule="at most",
        target=3.0,
        note=f"two threads; {', '.join(f'{seconds:.2f}' for seconds in took)} s",
    )


def images() -> Iterator[Row]:
    """Augmented batches against the smallest level alone, which is told what to say by logits that are there."""
    augmentations: tuple[Augmentation, ...] = ("crop-flip",)
    for name, model, kept in (("VGG16", VGG16, 0.09), ("vgg-small", ModelConfig(name="vgg-small"), 0.02)):
        stage, config = pruned_stage(frozen(model), random_splits(), (kept,))
        (level,) = stage.levels
        batch = random_batch()
        larger = torch.zeros(BATCH, 10)
        optimizer = torch.optim.SGD(level.network.parameters(), lr=0.01, fused=True)

        def train(
            images: torch.Tensor,
            labels: torch.Tensor,
            network: nn.Module = level.network,
            larger: torch.Tensor = larger,
            optimizer: torch.optim.SGD = optimizer,
        ) -> None:
            optimizer.zero_grad()
            Objective().of_level(network(images), larger, labels, temperature=4.0, weight=0.5).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        data = random_splits(32 * BATCH)
        for augmentation in augmentations:
            trained, fed = [], []
            for turn in range(ROUNDS):
                started = time.perf_counter()
                for _ in epoch_batches(data, config.recipe, augmentation, turn, torch.channels_last):
                    pass
                fed.append((time.perf_counter() - started) * config.recipe.batch_size / len(data.train))
                trained.append(medians({"train": train}, *batch, rounds=3, warm_up=0)["train"])
            rates = [config.recipe.batch_size / statistics.median(took) for took in (fed, trained)]
            yield Row(
                name=f"{name}: images/s of the input / of a level of {kept:.0%} of the MACs",
                figure=rates[0] / rates[1],
                rule="at least",
                target=3.0,
                note=f"{augmentation}, {rates[0]:,.0f} and {rates[1]:,.0f} images/s, {NUM_THREADS} thread",
            )


def run() -> list[Row]:
    """Measure it."""
    processor.prepare(NUM_THREADS)
    rows = [
        *against_separate(),
        *remembered(),
        *by_number_of_levels(),
        *by_precision(),
        *memory(),
        *pruning_events(),
        set_up(),
    ]
    return [*rows, *images()]
