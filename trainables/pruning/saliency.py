"""Saliency: how much a level's loss would change if a group channel went.

A criterion looks at some layers of a group, and a plain function gives of these one score a channel, the higher the
more it should stay, and above zero for at least one. It is called after the backward passes of every batch, of all its
parts, and scores are averaged over these. Shape legend: C channels of the group, N of a layer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from trainables.errors import InputError
from trainables.imports import import_function, is_import_path
from trainables.pruning.channels import ChannelGroup, ChannelMap, Kept, Member, is_grouped


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GateLayer:
    """One layer that a criterion looks at: one that the group's gate stands behind, or a filter of the group.

    Attributes:
        layer: of the level's narrow network, with gradients of the loss that `saliency_loss` names.
        positions_N: the layer's outputs that belong to the group.
        channels_N: the group's channel at each of them, counted among the channels that are kept.
        num_channels: C, channels of the group that are kept.
    """

    layer: nn.Module
    positions_N: torch.Tensor
    channels_N: torch.Tensor
    num_channels: int

    def per_channel(self, per_output: torch.Tensor) -> torch.Tensor:
        """Sum a value of each of the layer's outputs over the outputs of each channel, shape C."""
        sums_C = per_output.new_zeros(self.num_channels)
        return sums_C.index_add_(0, self.channels_N, per_output[self.positions_N])


Score = Callable[[Sequence[GateLayer]], torch.Tensor]
"""Scores one group after one batch, shape C; a user's own is such a function."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Criterion:
    """How channels are scored.

    Attributes:
        score: of what is looked at.
        looks_at: `gates`: the layers that a group's gate stands behind; `filters`: the convolutions and linear layers
            that give its channels.
    """

    score: Score
    looks_at: Literal["gates", "filters"] = "gates"


def gate_gradient(layers: Sequence[GateLayer]) -> torch.Tensor:
    """Square of the gate's gradient (Molchanov et al. 2019, eq. 8), shape C.

    The gate g = 1 multiplies a layer's output, so ∂L/∂g is Σ θ·∂L/∂θ over the layer's parameters of that output:
    γ·∂L/∂γ + β·∂L/∂β behind a batch norm, weight and bias of a layer that no norm follows. Layers that are coupled
    share one gate, whose gradient is the sum over them; it is summed before it is squared.
    """
    return _summed(layers, lambda parameter, gradient: parameter * gradient).square()


def absolute_gate_gradient(layers: Sequence[GateLayer]) -> torch.Tensor:
    """Size of the gate's gradient instead of its square, shape C; batches with large gradients count less."""
    return _summed(layers, lambda parameter, gradient: parameter * gradient).abs()


def l1_norm(layers: Sequence[GateLayer]) -> torch.Tensor:
    """Sum of the sizes of weights and biases (Li et al. 2017), shape C; knows nothing of the loss."""
    return _summed(layers, lambda parameter, _gradient: parameter.abs())


def squared_l2_norm(layers: Sequence[GateLayer]) -> torch.Tensor:
    """Sum of the squares of weights and biases (Li et al. 2017, with L2), shape C; knows nothing of the loss."""
    return _summed(layers, lambda parameter, _gradient: parameter.square())


def random_channels(layers: Sequence[GateLayer]) -> torch.Tensor:
    """Scores drawn in (0, 1] from torch's own generator, which training seeds, shape C: what a criterion must beat."""
    return 1.0 - torch.rand(layers[0].num_channels, device=layers[0].channels_N.device)


CRITERIA: Mapping[str, Criterion] = {
    "gate-gradient": Criterion(score=gate_gradient),
    "absolute-gate-gradient": Criterion(score=absolute_gate_gradient),
    "weight-magnitude": Criterion(score=squared_l2_norm),
    "filter-l1": Criterion(score=l1_norm, looks_at="filters"),
    "filter-l2": Criterion(score=squared_l2_norm, looks_at="filters"),
    "random": Criterion(score=random_channels),
}


def find_criterion(name: str) -> Criterion:
    """Find a criterion by its name or as `package.module:function`.

    Raises:
        InputError: if there is none.
    """
    if name in CRITERIA:
        return CRITERIA[name]
    if not is_import_path(name):
        raise InputError(
            f"cascade.pruning.saliency is {name!r}, but must be one of {', '.join(CRITERIA)} or package.module:function"
        )
    return Criterion(score=import_function(name, key="cascade.pruning.saliency"))


def fault_of(scores_C: torch.Tensor) -> Literal["not finite", "all zero"] | None:
    """Why no channels of a group can be chosen by their scores; a group of one leaves no choice."""
    if not bool(torch.isfinite(scores_C).all()):
        return "not finite"
    return "all zero" if len(scores_C) > 1 and not bool((scores_C > 0).any()) else None


def _summed(layers: Sequence[GateLayer], value: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    return torch.stack([gated.per_channel(_per_output(gated.layer, value)) for gated in layers]).sum(0)


def _per_output(layer: nn.Module, value: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Sum a value of parameter and gradient over the parameters of each output, shape N."""
    terms = []
    for parameter in layer.parameters(recurse=False):
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        term = value(parameter.detach(), gradient)
        terms.append(term.flatten(1).sum(1) if term.ndim > 1 else term)
    return torch.stack(terms).sum(0)


def _has_gradient(layer: nn.Module) -> bool:
    return any(parameter.grad is not None for parameter in layer.parameters(recurse=False))


def _require_scores(scores_C: object, *, shape: torch.Size, group: str) -> None:
    """Check what a criterion of the user's own gives.

    Raises:
        InputError: if it is not one score a channel.
    """
    given = type(scores_C).__name__
    if isinstance(scores_C, torch.Tensor):
        if scores_C.shape == shape:
            return
        given = f"tensor of shape {tuple(scores_C.shape)}"
    raise InputError(
        f"cascade.pruning.saliency: your function gave a {given} for group {group}, but must give a tensor of one "
        f"score a channel, of shape {tuple(shape)}"
    )


def _gate_layer(
    layer: nn.Module, member: Member, kept_C: torch.Tensor, kept_positions: torch.Tensor, device: torch.device
) -> GateLayer:
    """A layer of a narrow network, with the places that what is kept of a group has in it.

    Args:
        layer: on the device.
        member: where the group stands in it while it keeps everything.
        kept_C: channels of the group that are kept.
        kept_positions: outputs of the layer that are kept, of whatever group.
        device: that scores are computed on.
    """
    stays_N = torch.isin(member.channels_N, kept_C)
    return GateLayer(
        layer=layer,
        positions_N=torch.searchsorted(kept_positions, member.positions_N[stays_N]).to(device),
        channels_N=torch.searchsorted(kept_C, member.channels_N[stays_N]).to(device),
        num_channels=len(kept_C),
    )


class SaliencyMeter:
    """Mean score of each kept channel of each group of one level, over the batches since `reset`.

    Attributes:
        sums: of scores, by group.
        num_batches: that the sums are over.
        ran: groups of which a layer has had a gradient since `reset`, as a network may leave layers out by chance; the
            same on all ranks, which add gradients up.
        ever_ran: those of which one has had a gradient at all.
    """

    def __init__(self, criterion: Criterion, channel_map: ChannelMap) -> None:
        """Start empty.

        Args:
            criterion: scores one group after one batch.
            channel_map: groups of the shared weights.
        """
        self._criterion = criterion
        self._channel_map = channel_map
        self._layers: dict[str, list[GateLayer]] = {}
        self.sums: dict[str, torch.Tensor] = {}
        self.num_batches = 0
        self.ran: set[str] = set()
        self.ever_ran: set[str] = set()

    def reset(self, network: nn.Module, kept: Kept) -> None:
        """Forget all scores and look at a level's network as it is now."""
        positions = self._channel_map.kept_positions(kept)
        device = next(network.parameters()).device
        self._layers, self.sums, self.num_batches = {}, {}, 0
        self.ran = set()
        for group in self._channel_map.groups:
            kept_C = kept[group.name]
            self._layers[group.name] = [
                _gate_layer(network.get_submodule(member.layer), member, kept_C, positions[member.layer, "out"], device)
                for member in group.members
                if self._looks_at(member, group, network)
            ]
            self.sums[group.name] = torch.zeros(len(kept_C), device=device)

    def _looks_at(self, member: Member, group: ChannelGroup, network: nn.Module) -> bool:
        if member.axis == "in":
            return False
        if self._criterion.looks_at == "gates":
            return member.layer in group.gates
        layer = network.get_submodule(member.layer)
        return isinstance(layer, nn.Conv2d | nn.Linear) and not is_grouped(layer)

    @torch.no_grad()
    def add_scores(self) -> None:
        """Add the scores of the batch whose backward pass has just run, on the device, and count nothing.

        Raises:
            InputError: if a criterion of the user's own gives something else than scores.
        """
        for group, layers in self._layers.items():
            scores_C = self._criterion.score(layers)
            _require_scores(scores_C, shape=self.sums[group].shape, group=group)
            self.sums[group] += scores_C
            if group not in self.ran and any(_has_gradient(gated.layer) for gated in layers):
                self.ran.add(group)
                self.ever_ran.add(group)

    def update(self) -> None:
        """Add the scores of the batch whose backward pass has just run."""
        self.add_scores()
        self.num_batches += 1

    def scores(self) -> dict[str, torch.Tensor]:
        """Mean scores on the CPU, in float64, by group."""
        return {group: sums_C.double().cpu() / max(1, self.num_batches) for group, sums_C in self.sums.items()}

    def left_out(self, scores: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
        """Groups that these scores say nothing of as no batch since `reset` has run them."""
        return tuple(
            group for group, scores_C in scores.items() if group not in self.ran and fault_of(scores_C) == "all zero"
        )
