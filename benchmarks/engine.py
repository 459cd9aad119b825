"""One joint training step against masks on the dense network, and against separate narrow networks.

The three arms see the same images, the same frozen teacher's forward pass, the same losses, sizes and kept channels,
and an optimiser of the same kind. They take turns, so that a busy machine slows all of them.
"""

import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import nn

from benchmarks.table import Row
from trainables.channels import BATCH_NORMS, Kept
from trainables.config import CascadeConfig, ModelConfig, Pruning, Recipe
from trainables.cost import count_macs, count_params
from trainables.data import DataSplits, ImageSet
from trainables.distillation import distillation_loss
from trainables.models import build
from trainables.optimizers import make_optimizer
from trainables.plan import StagePlan
from trainables.saliency import GateLayer, gate_gradient
from trainables.stages import CascadeStage, TeacherSize

NUM_THREADS = 1
NUM_CLASSES = 10
BATCH = 128  # the default of a recipe; at 64 the joint step is 0.51 of the masked one
SIZES = (0.64, 0.30, 0.09)
WARM_UP, ROUNDS = 1, 9
Step = Callable[[torch.Tensor, torch.Tensor], object]


def ranked(layers: Sequence[GateLayer]) -> torch.Tensor:
    """Saliency criterion that takes the same share of every group: ranks of the gate's gradient, in (0, 1]."""
    scores_C = gate_gradient(layers)
    return (scores_C.argsort().argsort() + 1) / len(scores_C)


def random_splits() -> DataSplits:
    """Images of noise, one training batch and one for validation."""
    generator = torch.Generator().manual_seed(0)
    parts = [
        ImageSet(
            images_NCHW=torch.randint(256, (BATCH, 3, 32, 32), generator=generator, dtype=torch.uint8),
            labels_N=torch.randint(NUM_CLASSES, (BATCH,), generator=generator),
        )
        for _ in range(2)
    ]
    names = tuple(str(label) for label in range(NUM_CLASSES))
    return DataSplits(train=parts[0], val=parts[1], mean=(0.5,) * 3, std=(0.25,) * 3, class_names=names)


def pruned_stage(teacher: nn.Module, pruning: Pruning) -> tuple[CascadeStage, CascadeConfig]:
    """A real joint stage whose levels are at their sizes: one epoch of one step, after which its one pruning falls."""
    data = random_splits()
    config = CascadeConfig(macs_kept=SIZES, pruning=pruning, recipe=Recipe(epochs=2, batch_size=BATCH))
    stage = CascadeStage(
        teacher,
        plan=StagePlan(name="cascade", levels=(1, 2, 3), epochs=2, first_epoch=0),
        config=config,
        teacher_size=TeacherSize(macs=count_macs(teacher, data.input_shape), params=count_params(teacher)),
        data=data,
    )
    stage.step()
    for level in stage.levels:
        level.network.train()
    return stage, config


def _loss(logits: torch.Tensor, larger: torch.Tensor, labels: torch.Tensor, config: CascadeConfig) -> torch.Tensor:
    return distillation_loss(logits, larger, labels, temperature=config.temperature, weight=config.distillation_weight)


def masked_step(teacher: nn.Module, stage: CascadeStage, config: CascadeConfig) -> Step:
    """The dense network once a level: shared convolutions, batch norm of its own, a channel mask after each norm."""
    shared = copy.deepcopy(teacher).requires_grad_(requires_grad=True)
    positions = [stage_channels(level.kept, stage) for level in stage.levels]
    networks = []
    for kept in positions:
        network = copy.deepcopy(shared).train()
        for name, layer in network.named_modules():
            if isinstance(layer, BATCH_NORMS):
                _mask(layer, kept[name])
            else:
                for tensor, parameter in shared.get_submodule(name).named_parameters(recurse=False):
                    setattr(layer, tensor, parameter)
        networks.append(network)
    parameters = {parameter for network in networks for parameter in network.parameters()}
    optimizer = make_optimizer(parameters, config.recipe)

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        optimizer.zero_grad()
        with torch.no_grad():
            larger = teacher(images)
        for network in networks:
            logits = network(images)
            _loss(logits, larger, labels, config).backward()  # type: ignore[no-untyped-call]
            larger = logits.detach()
        optimizer.step()

    return step


def _mask(norm: nn.Module, kept: torch.Tensor) -> None:
    mask_C = torch.zeros_like(norm.running_mean)  # type: ignore[arg-type]
    mask_C[kept] = 1.0
    mask_1C11 = mask_C.view(1, -1, 1, 1)
    norm.register_forward_hook(lambda _layer, _inputs, output: output * mask_1C11)


def stage_channels(kept: Kept, stage: CascadeStage) -> dict[str, torch.Tensor]:
    """Outputs of each layer that a level keeps, by the layer's name."""
    channel_map = stage.levels[0].shared.channel_map
    positions = channel_map.kept_positions(kept)
    return {layer: outputs for (layer, axis), outputs in positions.items() if axis == "out"}


def separate_step(teacher: nn.Module, stage: CascadeStage, config: CascadeConfig) -> Step:
    """Three narrow networks that share nothing, each with an optimiser of its own."""
    networks = [copy.deepcopy(level.network).train() for level in stage.levels]
    optimizers = [make_optimizer(network.parameters(), config.recipe) for network in networks]

    def step(images: torch.Tensor, labels: torch.Tensor) -> None:
        with torch.no_grad():
            larger = teacher(images)
        for network, optimizer in zip(networks, optimizers, strict=True):
            optimizer.zero_grad()
            logits = network(images)
            _loss(logits, larger, labels, config).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            larger = logits.detach()

    return step


def seconds(step: Step, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    step(images, labels)
    return time.perf_counter() - started


def run() -> list[Row]:
    """Measure it."""
    torch.set_num_threads(NUM_THREADS)
    teacher = build(ModelConfig(name="vgg16"), num_classes=NUM_CLASSES, in_channels=3).eval()
    teacher.requires_grad_(requires_grad=False)
    stage, config = pruned_stage(
        teacher, Pruning(saliency="benchmarks.engine:ranked", cost="none", num_prunings=1, ramp_fraction=0.5)
    )
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, 3, 32, 32, generator=generator)
    labels = torch.randint(NUM_CLASSES, (BATCH,), generator=generator)
    arms: dict[str, Step] = {
        "joint": stage.train_step,
        "masked": masked_step(teacher, stage, config),
        "separate": separate_step(teacher, stage, config),
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(WARM_UP + ROUNDS):
        for name, step in arms.items():
            taken = seconds(step, images, labels)
            if turn >= WARM_UP:
                times[name].append(taken)
        print(f"engine: round {turn + 1} of {WARM_UP + ROUNDS}", file=sys.stderr)
    medians = {name: statistics.median(values) for name, values in times.items()}
    sizes = ", ".join(f"{count_macs(level.network, (3, 32, 32)) / 1e6:.0f} M" for level in stage.levels)
    return [
        Row(
            name="joint step / masks on the dense network",
            figure=medians["joint"] / medians["masked"],
            rule="at most",
            target=0.50,
            note=f"VGG16, batch {BATCH}, levels of {sizes} MACs, {NUM_THREADS} thread, median of {ROUNDS}",
        ),
        Row(
            name="joint step / three separate narrow networks",
            figure=medians["joint"] / medians["separate"],
            rule="at most",
            target=1.15,
            note=", ".join(f"{name} {value:.2f} s" for name, value in medians.items()),
        ),
    ]
