"""What all stages share: the schedule, the optimiser, seeds of an epoch, accuracy, recalibration."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from trainables.channels import BATCH_NORMS
from trainables.config import Augmentation, Recipe
from trainables.data import DataSplits, evaluation_batches, training_batches

Tensors = dict[str, torch.Tensor]

EVALUATION_BATCH = 512


def derive_seed(seed: int, *parts: str | int) -> int:
    """A seed of its own for each use, in [0, 2⁶³), from a base seed and what it is used for."""
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def seeded_layers(seed: int, device: torch.device) -> Iterator[None]:
    """Seed what draws from torch's global generator (dropout has no other), and put its state back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """Within it layers compute in the recipe's precision; parameters and their gradients stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=recipe.precision == "bf16")


def learning_rate(step: int, num_steps: int, recipe: Recipe) -> float:
    """Rate of step `step` of 0 … num_steps−1: a linear rise over the warm-up, then a cosine to zero."""
    warmup_steps = recipe.warmup * num_steps
    if step < warmup_steps:
        return recipe.learning_rate * (step + 1) / (warmup_steps + 1)
    done = (step - warmup_steps) / max(1.0, num_steps - warmup_steps)
    return recipe.learning_rate * 0.5 * (1.0 + math.cos(math.pi * done))


def make_optimizer(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.SGD:
    """SGD with Nesterov momentum; scales, shifts and biases (one dimension) are not decayed."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.momentum > 0.0, fused=True
    )


def clip_gradients(parameters: Iterable[nn.Parameter], recipe: Recipe) -> None:
    """Scale gradients down to the recipe's norm, if it has one."""
    if recipe.max_grad_norm is not None:
        nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)


@torch.no_grad()
def accuracy(network: nn.Module, data: DataSplits) -> float:
    """Top-1 of a network on the validation images, in [0, 1]; the network is left in evaluation mode."""
    network.eval()
    batches = evaluation_batches(data.val, mean=data.mean, std=data.std, batch_size=EVALUATION_BATCH)
    correct = sum((network(images).argmax(dim=1) == labels).sum() for images, labels in batches)
    return int(correct) / len(data.val)


@torch.no_grad()
def recalibrate(network: nn.Module, data: DataSplits, *, batch_size: int, seed: int) -> None:
    """Measure batch-norm statistics anew: cumulative averages over shuffled training images, weights frozen.

    Statistics of the batch must be used while they are measured (train mode), or each layer would be calibrated
    behind an uncalibrated one (Yu & Huang 2019). Other layers stay in evaluation mode.
    """
    network.eval()
    norms = [layer for layer in network.modules() if isinstance(layer, BATCH_NORMS) and layer.track_running_stats]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    for images, _ in training_batches(
        data.train,
        mean=data.mean,
        std=data.std,
        batch_size=batch_size,
        augmentation="none",
        generator=torch.Generator().manual_seed(derive_seed(seed, "recalibration")),
    ):
        network(images)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()


@torch.no_grad()
def batch_layout(network: nn.Module, data: DataSplits) -> torch.memory_format:
    """How training images lie in memory: channels last, as narrow convolutions are up to a third faster so.

    A network that views a feature map as flat, which only works where channels come first, gets them first. The
    network is left in evaluation mode.
    """
    images = data.val.images_NCHW[:2].float().contiguous(memory_format=torch.channels_last)
    try:
        network.eval()(images)
    except RuntimeError:
        return torch.contiguous_format
    return torch.channels_last


def epoch_batches(
    data: DataSplits,
    recipe: Recipe,
    augmentation: Augmentation,
    seed: int,
    layout: torch.memory_format = torch.contiguous_format,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of one epoch in a layout, whose order and augmentation come from `seed` alone."""
    batches = training_batches(
        data.train,
        mean=data.mean,
        std=data.std,
        batch_size=recipe.batch_size,
        augmentation=augmentation,
        generator=torch.Generator().manual_seed(seed),
    )
    return ((images.contiguous(memory_format=layout), labels) for images, labels in batches)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all parameter groups this rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def momentum_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> Tensors:
    """The optimiser's momentum by parameter name; nothing before the first step."""
    return {
        name: optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in parameters.items()
        if optimizer.state[parameter].get("momentum_buffer") is not None
    }


def load_momentum(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], momentum: Tensors) -> None:
    """Put back what `momentum_state` gave."""
    for name, buffer in momentum.items():
        optimizer.state[parameters[name]]["momentum_buffer"] = buffer.to(parameters[name].device).clone()


def prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The same tensors under `prefix.name`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The tensors under `prefix.`, by what follows it."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}
