"""What a card does: its bf16 rate, a teacher on CIFAR-10, the joint step, images/s, trials packed on it.

`benchmarks/gpu.sh --data FOLDER` does all of it. With `--device cpu --noise 64 --steps 2` the same code runs anywhere,
to see that it is free of errors; its figures mean nothing then.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import get_args
from unittest import mock

import torch
from torch import multiprocessing

from benchmarks.engine import EVENLY, SIZES, frozen, pruned_stage, random_batch, random_splits
from benchmarks.table import Row, machine, table, write_rows
from orchestrator.data.datasets import load_splits
from trainables.data_config import Augmentation, DataConfig
from trainables.datasets.data import DataSplits
from trainables.hardware.branches import Branches
from trainables.hardware.latency import compare
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.pruning.cost import count_macs
from trainables.recipe import Execution, Recipe
from trainables.stages.batches import epoch_batches
from trainables.stages.cascade import CascadeStage
from trainables.stages.teacher import TeacherStage

GOAL = 0.93
TEACHER_BATCH = 128
TRAIN_IMAGES = 45_000  # CIFAR-10 less a validation tenth
TRAINING_PASSES = 3  # forward once, backward twice
PARTS = ("teacher", "joint", "deployed", "images", "packed", "compiling")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda (the default), or cpu to see that all of it runs")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", help="folder with CIFAR-10: torchvision's, or Parquet files")
    source.add_argument("--noise", type=int, help="this many images of noise instead")
    parser.add_argument("--download", action="store_true", help="fetch CIFAR-10 into the folder if it is not there")
    parser.add_argument("--epochs", type=int, default=100, help="of the teacher")
    parser.add_argument(
        "--augmentation", default="crop-flip", choices=get_args(Augmentation), help="of the teacher's images"
    )
    parser.add_argument("--recipe", default={}, type=json.loads, help="of the teacher, as JSON: what differs")
    parser.add_argument("--steps", type=int, default=50, help="that are timed of each arm, after as many to warm up")
    parser.add_argument("--batch", type=int, default=512, help="images a step")
    parser.add_argument("--width", type=float, default=1.0, help="of VGG16")
    parser.add_argument("--packed", type=int, default=4, help="trials at once on the card")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts; all if not given")
    parser.add_argument("--rows", type=Path, help="also write the figures to this file, as JSON, after each part")
    return parser.parse_args(arguments)


def wait(device: torch.device) -> None:
    """Until the card has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bf16_rate(device: torch.device) -> float:
    """Measured TFLOP/s of a square bf16 matrix product."""
    size = 8192 if device.type == "cuda" else 256
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    took = []
    for _ in range(20):
        started = time.perf_counter()
        matrix @ matrix
        wait(device)
        took.append(time.perf_counter() - started)
    return float(2 * size**3 / statistics.median(took) / 1e12)


def teacher(options: argparse.Namespace, data: DataSplits) -> list[Row]:
    """Train VGG16 and say when it passed the goal."""
    network = build(ModelConfig(name="vgg16", width=options.width), num_classes=data.num_classes, in_channels=3)
    recipe = Recipe(
        epochs=options.epochs,
        batch_size=min(TEACHER_BATCH, options.batch),
        learning_rate=0.1,
        label_smoothing=0.1,
        precision="bf16",
    )
    recipe = Recipe.from_dict(recipe.to_dict() | options.recipe)
    stage = TeacherStage(network.to(options.device), recipe=recipe, data=data, augmentation=options.augmentation)
    took, reached = 0.0, float("nan")
    while not stage.finished:
        epoch = stage.train_epoch()
        took += epoch.seconds
        found = epoch.levels[0].val_accuracy
        if found >= GOAL and reached != reached:
            reached = took
        print(f"teacher: epoch {epoch.epoch}, {found:.2%}, {took:.0f} s", file=sys.stderr)
    told = "".join(f", {key} {value}" for key, value in options.recipe.items())
    note = f"{recipe.epochs} epochs of batch {recipe.batch_size}, bf16, {options.augmentation}{told}, validation images"
    return [
        Row(
            name="VGG16 teacher: accuracy", figure=stage.result().val_accuracy, rule="at least", target=GOAL, note=note
        ),
        Row(name=f"VGG16 teacher: time to {GOAL:.0%}", figure=reached, unit="s", note=f"all epochs {took:.1f} s"),
    ]


def cascade(
    options: argparse.Namespace,
    *,
    execution: Execution = "graph",
    round_to: int = 1,
    sizes: Sequence[float] = SIZES,
) -> CascadeStage:
    """A joint stage whose levels have their sizes, in bf16."""
    device = torch.device(options.device)
    stage, _ = pruned_stage(
        frozen(ModelConfig(name="vgg16", width=options.width)).to(device),
        random_splits(options.batch).to(device),
        sizes,
        precision="bf16",
        execution=execution,
        pruning=replace(EVENLY, round_to=round_to),
    )
    return stage


def step_seconds(options: argparse.Namespace, stage: CascadeStage) -> float:
    """Seconds of one joint step, over many between two waits, so that the card is never idle."""
    device = torch.device(options.device)
    images, labels = (tensor.to(device) for tensor in random_batch(options.batch))
    images = images.contiguous(memory_format=torch.channels_last)
    for _ in range(2):  # the first warms up
        wait(device)
        started = time.perf_counter()
        for _ in range(options.steps):
            stage.train_step(images, labels)
        wait(device)
        took = time.perf_counter() - started
    return took / float(options.steps)


def joint(options: argparse.Namespace, rate: float) -> list[Row]:
    """The joint step, and what it makes of the card: kernel by kernel, recorded, side by side, and with even widths."""
    rows = []
    even = 8 if options.width >= 1.0 else 2
    arms: tuple[tuple[str, Execution, int, float], ...] = (
        ("joint step, not recorded", "eager", 1, 0.0),
        ("joint step, levels one after the other", "graph", 1, 0.0),
        ("joint step", "graph", 1, 1.0),
        (f"joint step, widths in multiples of {even}", "graph", even, 1.0),
    )
    for name, execution, round_to, share_of_card in arms:
        with mock.patch.object(Branches, "share_of_card", share_of_card):
            stage = cascade(options, execution=execution, round_to=round_to)
            took, macs = step_seconds(options, stage), _step_macs(options, stage)
        achieved = 2 * macs * options.batch / took / 1e12
        note = f"VGG16, bf16, batch {options.batch}, levels of " + ", ".join(f"{size:g}" for size in SIZES)
        rows += [
            Row(name=name, figure=1000 * took, unit="ms", note=f"{note}; mean of {options.steps}"),
            Row(name=f"{name}: achieved", figure=achieved, unit="TFLOP/s", note=f"{achieved / rate:.1%} of the card's"),
        ]
    return rows


def _step_macs(options: argparse.Namespace, stage: CascadeStage) -> int:
    """MACs of a joint step on one image."""
    shape = (3, 32, 32)
    teacher = count_macs(frozen(ModelConfig(name="vgg16", width=options.width)), shape)
    return teacher + TRAINING_PASSES * sum(count_macs(level.network, shape) for level in stage.levels)


def compiling(options: argparse.Namespace) -> Row:
    """What it takes until compiled levels have paid for their compilation."""
    plain = step_seconds(options, cascade(options))
    stage = cascade(options, execution="compile")
    images, labels = (tensor.to(options.device) for tensor in random_batch(options.batch))
    started = time.perf_counter()
    stage.train_step(images.contiguous(memory_format=torch.channels_last), labels)
    wait(torch.device(options.device))
    once = time.perf_counter() - started
    took = step_seconds(options, stage)
    epoch = TRAIN_IMAGES / options.batch
    pays = "never pays"
    if took < plain:
        pays = f"pays after {once / (plain - took) / epoch:.0f} epochs of {TRAIN_IMAGES} images"
    return Row(
        name="joint step compiled / recorded",
        figure=took / plain,
        note=f"{1000 * took:.1f} ms and {1000 * plain:.1f} ms; compiling took {once:.0f} s and {pays}",
    )


def deployed(options: argparse.Namespace) -> list[Row]:
    """Latency as exports measure it, of a pruned network against the dense one, in fp32."""
    dense = frozen(ModelConfig(name="vgg16", width=options.width)).to(options.device)
    pruned = cascade(options, round_to=8 if options.width >= 1.0 else 1).levels[0].network.eval()
    rows = []
    for batch in (1, 64):
        found = compare(dense, pruned, (3, 32, 32), batch_size=batch, num_threads=1)
        note = f"median of {found.pruned.median_ms:.3g} and {found.dense.median_ms:.3g} ms"
        rows.append(
            Row(
                name=f"latency of {SIZES[0]:.0%} of the MACs / dense, batch {batch}",
                figure=1 / found.speedup,
                note=note,
            )
        )
    return rows


def images_per_second(options: argparse.Namespace, data: DataSplits) -> list[Row]:
    """Joint steps on real batches, with the images on the card and in main memory; and what the input alone gives."""
    device = torch.device(options.device)
    rows = []
    for augmentation in ("crop-flip", "randaugment"):
        for turn in range(2):  # the first warms up
            wait(device)
            started, count = time.perf_counter(), 0
            for _, labels in epoch_batches(
                data, Recipe(batch_size=options.batch), augmentation, turn, torch.channels_last
            ):
                count += len(labels)
            wait(device)
            took = time.perf_counter() - started
        rows.append(Row(name="images/s of the input alone, images on the card", figure=count / took, note=augmentation))
    smallest = options.batch / step_seconds(options, cascade(options, sizes=SIZES[-1:]))
    note = f"{SIZES[-1]:.0%} of the MACs, its teacher's forward pass included"
    rows.append(Row(name="images/s of the smallest level alone", figure=smallest, note=note))
    for place, held in (("on the card", data), ("in main memory", data.to("cpu"))):
        stage = cascade(options)
        recipe = Recipe(batch_size=options.batch)
        for turn in range(2):  # the first warms up
            wait(device)
            started, count = time.perf_counter(), 0
            for images, labels in epoch_batches(held, recipe, "crop-flip", turn, torch.channels_last):
                stage.train_step(images.to(device), labels.to(device))
                count += len(labels)
                if count >= options.steps * options.batch:
                    break
            wait(device)
            took = time.perf_counter() - started
        rows.append(Row(name=f"images/s of the joint step, images {place}", figure=count / took, note="crop-flip"))
    return rows


def _work(
    options: argparse.Namespace,
    ready: Barrier,
    results: "Queue[float]",  # as a name: at run time it takes no parameter
) -> None:
    torch.set_num_threads(1)
    Branches.share_of_card = 1.0 / ready.parties
    stage = cascade(options)
    step_seconds(options, stage)
    ready.wait()
    results.put(step_seconds(options, stage))


def packed(options: argparse.Namespace) -> list[Row]:
    """Steps a second of trials that share the card, against one alone, each a process of its own."""
    rates = {}
    for number in (1, options.packed):
        context = multiprocessing.get_context("spawn")
        ready, results = context.Barrier(number), context.Queue()
        workers = [context.Process(target=_work, args=(options, ready, results)) for _ in range(number)]
        for worker in workers:
            worker.start()
        rates[number] = sum(1.0 / results.get(timeout=1800) for _ in workers)
        for worker in workers:
            worker.join()
    return [
        Row(
            name=f"{options.packed} trials on one card / one at a time",
            figure=rates[options.packed] / rates[1],
            note=f"{rates[options.packed]:.2f} against {rates[1]:.2f} joint steps/s in all",
        )
    ]


def splits(options: argparse.Namespace) -> DataSplits:
    """CIFAR-10, or noise, on the device."""
    if options.noise is not None:
        return random_splits(options.noise).to(options.device)
    data = load_splits(DataConfig(name="cifar10", path=options.data, download=options.download, val_fraction=0.1))
    return data.to(options.device)


def card(device: torch.device) -> str:
    """The name of what runs it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "no card"


def main(arguments: list[str]) -> int:
    """Measure all of it; 2 where there is no card."""
    options = parse(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA card here; --device cpu only shows that the code runs", file=sys.stderr)
        return 2
    data = splits(options)
    rate = bf16_rate(device)
    measure: dict[str, Callable[[], list[Row]]] = {
        "teacher": lambda: teacher(options, data),
        "joint": lambda: joint(options, rate),
        "deployed": lambda: deployed(options),
        "images": lambda: images_per_second(options, data),
        "packed": lambda: packed(options),
        "compiling": lambda: [compiling(options)] if device.type == "cuda" else [],  # a CPU's is in `speed`
    }
    rows = [Row(name="bf16 matrix product", figure=rate, unit="TFLOP/s", note=card(device))]
    for part in PARTS:
        if part in options.only:
            rows += measure[part]()
            if options.rows is not None:
                write_rows(rows, options.rows)
    print(machine())
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
