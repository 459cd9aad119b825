"""One joint training step against masks on the dense network, and against separate narrow networks.

The three arms see the same images, the same frozen teacher's forward pass, the same losses, sizes and kept channels,
and an optimiser of the same kind. They take turns, so that a busy machine slows all of them.
"""

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from benchmarks.noise import NUM_CLASSES, noise
from benchmarks.table import Row
from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.hardware import processor
from trainables.hardware.precision import autocast
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.plan import StagePlan
from trainables.pruning.channels import BATCH_NORMS, Kept
from trainables.pruning.cost import count_macs
from trainables.pruning.network_size import NetworkSize
from trainables.pruning.saliency import GateLayer, gate_gradient
from trainables.pruning_config import Pruning
from trainables.recipe import Execution, Precision, Recipe
from trainables.stages.cascade import CascadeStage
from trainables.stages.objective import Objective
from trainables.stages.optimizers import make_optimizer

NUM_THREADS = 1
BATCH = 128  # the default of a recipe; at 64 the joint step is 0.51 of the masked one
SIZES = (0.64, 0.30, 0.09)
WARM_UP, ROUNDS = 1, 9
Step = Callable[[torch.Tensor, torch.Tensor], object]


def ranked(layers: Sequence[GateLayer]) -> torch.Tensor:
    """Saliency criterion that takes the same share of every group: ranks of the gate's gradient, in (0, 1]."""
    scores_C = gate_gradient(layers)
    return (scores_C.argsort().argsort() + 1) / len(scores_C)


def random_splits(batch: int = BATCH, image_size: int = 32) -> DataSplits:
    """Images of noise, one training batch and one for validation."""
    return noise((batch, batch), image_size)


EVENLY = Pruning(saliency="benchmarks.engine:ranked", cost="none", num_prunings=1, ramp_fraction=0.5)
"""Every group falls to the same share, in one event."""


def full_stage(
    teacher: nn.Module,
    data: DataSplits,
    sizes: Sequence[float] = SIZES,
    *,
    precision: Precision = "fp32",
    execution: Execution = "graph",
    pruning: Pruning = EVENLY,
    epochs: int = 2,
) -> tuple[CascadeStage, CascadeConfig]:
    """A real joint stage whose levels still keep everything; an epoch is one step, and has one pruning at most."""
    recipe = Recipe(epochs=epochs, batch_size=len(data.train), precision=precision, execution=execution)
    config = CascadeConfig(macs_kept=tuple(sizes), pruning=pruning, recipe=recipe)
    stage = CascadeStage(
        teacher,
        plan=StagePlan(name="cascade", levels=tuple(range(1, len(sizes) + 1)), epochs=epochs, first_epoch=0),
        config=config,
        teacher_size=NetworkSize.count(teacher, data.input_shape),
        data=data,
    )
    for level in stage.levels:
        level.network.train()
    return stage, config


def pruned_stage(
    teacher: nn.Module,
    data: DataSplits,
    sizes: Sequence[float] = SIZES,
    *,
    precision: Precision = "fp32",
    execution: Execution = "graph",
    pruning: Pruning = EVENLY,
) -> tuple[CascadeStage, CascadeConfig]:
    """The same with its levels at their sizes."""
    stage, config = full_stage(teacher, data, sizes, precision=precision, execution=execution, pruning=pruning)
    stage.train_epoch()
    for level in stage.levels:
        level.network.train()
    return stage, config


def random_batch(batch: int = BATCH, image_size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of noise as training sees them, and labels."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, image_size, image_size, generator=generator)
    labels = torch.randint(NUM_CLASSES, (batch,), generator=generator)
    return images.contiguous(memory_format=torch.channels_last), labels


def medians(
    arms: Mapping[str, Step], images: torch.Tensor, labels: torch.Tensor, *, rounds: int, warm_up: int = WARM_UP
) -> dict[str, float]:
    """Median seconds of a step of each arm; they take turns, so that a busy machine slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(warm_up + rounds):
        for name, step in arms.items():
            taken = seconds(step, images, labels)
            if turn >= warm_up:
                times[name].append(taken)
    return {name: statistics.median(values) for name, values in times.items()}


def frozen(model: ModelConfig) -> nn.Module:
    """A teacher that nobody trained."""
    return build(model, num_classes=NUM_CLASSES, in_channels=3).eval().requires_grad_(requires_grad=False)


def _loss(logits: torch.Tensor, larger: torch.Tensor, labels: torch.Tensor, config: CascadeConfig) -> torch.Tensor:
    return Objective().of_level(
        logits, larger, labels, temperature=config.temperature, weight=config.distillation_weight
    )


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
            with autocast(config.recipe, network, images.device):
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
            with autocast(config.recipe, network, images.device):
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
    processor.prepare(NUM_THREADS)
    teacher = frozen(ModelConfig(name="vgg16"))
    stage, config = pruned_stage(teacher, random_splits())
    arms: dict[str, Step] = {
        "joint": stage.train_step,
        "masked": masked_step(teacher, stage, config),
        "separate": separate_step(teacher, stage, config),
    }
    took = medians(arms, *random_batch(), rounds=ROUNDS)
    sizes = ", ".join(f"{count_macs(level.network, (3, 32, 32)) / 1e6:.0f} M" for level in stage.levels)
    return [
        Row(
            name="joint step / masks on the dense network",
            figure=took["joint"] / took["masked"],
            rule="at most",
            target=0.50,
            note=f"VGG16, batch {BATCH}, levels of {sizes} MACs, {NUM_THREADS} thread, median of {ROUNDS}",
        ),
        Row(
            name="joint step / three separate narrow networks",
            figure=took["joint"] / took["separate"],
            rule="at most",
            target=1.05,
            note=", ".join(f"{name} {value:.2f} s" for name, value in took.items()),
        ),
    ]
