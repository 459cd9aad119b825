"""Torch-Pruning as its users have it: its own pruner and importances, through its public interface."""

import copy
import itertools
import math
import warnings
from collections.abc import Iterable

import torch
import torch_pruning as tp
from torch import nn

from orchestrator.evidence.settings import Arm
from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.errors import InputError, StageFailure
from trainables.hardware.convolutions import cpu_convolutions
from trainables.pruning.channels import matches
from trainables.pruning.cost import count_macs
from trainables.pruning.dependencies import trace_groups
from trainables.pruning.tracing import classifier, execution_order
from trainables.pruning_config import Pruning
from trainables.seeds import derive_seed, seeded_layers
from trainables.stages.batches import epoch_batches
from trainables.stages.objective import Objective

STEPS = 150  # of iterative pruning, at most
STAYS = 0.97  # of the channels at each step, so that steps are as fine for small networks as for large ones
BATCHES = 4  # that gradients are summed over before each step
_CLOSE = 1.5  # times the target, from where on groups are given out one at a time


def require_floors_held(pruning: Pruning) -> None:
    """Refuse what that library knows nothing of: floors, but for what rounded widths leave.

    Raises:
        InputError: naming the floor.
    """
    floors = {"min_channels": pruning.min_channels} | {
        f"floors of {layer}": floor for layer, floor in pruning.floors.items()
    }
    for name, floor in floors.items():
        if floor > pruning.round_to:
            raise InputError(
                f"cascade.pruning.{name} is {floor}, but Torch-Pruning holds no floor above cascade.pruning.round_to, "
                f"which is {pruning.round_to}; name such layers in cascade.pruning.keep instead, raise round_to, or "
                "give floors to the other arms alone, under their own cascade"
            )


def pruned(teacher: nn.Module, arm: Arm, config: CascadeConfig, data: DataSplits, *, target: float) -> nn.Module:
    """Cut a copy of the teacher until its MACs are as close to a target as whole groups come.

    Steps of one pruner, 3 % of the channels each, as that library's own iterative pruning goes. For Taylor importance
    the gradients of the cross-entropy are summed over a few batches before each, which no budget is charged for, in its
    favour. Near the target, and where a step takes multiples, groups are given out one at a time, so that the pruning
    can end in the midst of a step.

    Args:
        teacher: trained, on the device of the data.
        arm: says which importance, over what, and how much of a layer may go.
        config: gives batch size and seed, layers that are left alone, and what widths are multiples of.
        data: for gradients.
        target: MACs.

    Raises:
        StageFailure: if it cannot prune so far.
    """
    network = copy.deepcopy(teacher).requires_grad_(requires_grad=True).eval()
    device = data.train.labels_N.device
    shape = data.input_shape
    macs = count_macs(network, shape)
    round_to = config.pruning.round_to
    seed = derive_seed(config.seed, "torch-pruning")
    images_NCHW = torch.zeros(2, *shape, device=device)
    with seeded_layers(seed, device), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.BasePruner(
            network,
            images_NCHW,
            importance=_importance(arm),
            global_pruning=arm.scope == "global",
            pruning_ratio=1.0,
            max_pruning_ratio=arm.max_pruning_ratio,
            iterative_steps=STEPS,
            iterative_pruning_ratio_scheduler=_falling,
            ignored_layers=[
                classifier(execution_order(network, images_NCHW)[0]),
                *_left_alone(network, shape, config.pruning.keep),
            ],
            round_to=round_to if round_to > 1 else None,
            in_channel_groups={},  # its defaults are shared between instances
            out_channel_groups={},
        )
        for step in range(STEPS):
            if arm.importance == "taylor":
                _leave_gradients(network, config, data, derive_seed(seed, step))
            if macs > _CLOSE * target and round_to == 1:
                pruner.step()
                macs = count_macs(network, shape)
                continue
            for group in pruner.step(interactive=True):
                before, larger = macs, copy.deepcopy(network)
                group.prune()
                macs = count_macs(network, shape)
                if macs <= target:
                    return _clean(larger if before - target < target - macs else network)
    raise StageFailure(
        f"Torch-Pruning stopped at {macs / 1e6:.4g} M MACs, but {target / 1e6:.4g} M were asked; "
        "raise max_pruning_ratio, name fewer layers in cascade.pruning.keep, or lower cascade.pruning.round_to",
        stage="torch-pruning",
    )


def _left_alone(network: nn.Module, input_shape: tuple[int, int, int], keep: Iterable[str]) -> list[nn.Module]:
    """Layers that are named, and those that give what they read, which stays whole with them."""
    named = {name for name, _ in network.named_modules() if any(matches(name, pattern) for pattern in keep)}
    all_giving, giving = (
        {
            member.layer
            for group in trace_groups(network, input_shape, keep=kept).groups
            for member in group.members
            if member.axis == "out"
        }
        for kept in ((), keep)
    )
    return [network.get_submodule(name) for name in sorted(named | all_giving - giving)]


def _falling(ratio: float, steps: int) -> list[float]:
    """Part of the channels that is gone after each step, from none on."""
    return [ratio * (1 - STAYS**step) for step in range(steps + 1)]


def _importance(arm: Arm) -> tp.importance.Importance:
    if arm.importance == "taylor":
        return tp.importance.GroupTaylorImportance()
    if arm.importance == "random":
        return tp.importance.RandomImportance()
    return tp.importance.GroupMagnitudeImportance(p=1 if arm.importance == "l1" else 2)


def _leave_gradients(network: nn.Module, config: CascadeConfig, data: DataSplits, seed: int) -> None:
    """Sum gradients over some batches."""
    objective = Objective.of(config.recipe, data)
    network.zero_grad()
    for images, labels in itertools.islice(epoch_batches(data, config.recipe, "none", seed), BATCHES):
        with cpu_convolutions(network, "fp32", images.device):
            logits = network(images)
        objective.of_labels(logits, labels).backward()  # type: ignore[no-untyped-call]


def _clean(network: nn.Module) -> nn.Module:
    network.zero_grad()
    if not all(math.isfinite(float(parameter.abs().sum())) for parameter in network.parameters()):
        raise StageFailure("weights are not finite after pruning", stage="torch-pruning")
    return network.requires_grad_(requires_grad=False).eval()
