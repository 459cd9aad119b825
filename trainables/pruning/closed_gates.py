"""Gates of a wide network that are closed: it gives what a narrow one gives, and says of each channel what it would do.

A gate is the factor of what the last layers give before others read a group (`trainables/pruning/gates.py`), and these
layers' weights and biases of a channel hold it. Shape legend: N positions along one axis of a layer.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from trainables.pruning.channels import BATCH_NORMS, ChannelMap, Kept

AJAR = 2.0**-20
"""How far a gate is open that counts as closed: at zero a ReLU has no slope."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ClosedGates:
    """Which gates of a network are closed.

    Attributes:
        rows: names of layers, and their outputs whose gates are closed, sorted int64.
    """

    rows: tuple[tuple[str, torch.Tensor], ...] = ()

    @classmethod
    def of(cls, channel_map: ChannelMap, *, wide: Kept, narrow: Kept, device: torch.device) -> Self:
        """Those of a network that keeps `wide` which stand before what one that keeps `narrow` has not."""
        positions = channel_map.kept_positions(wide)
        rows = []
        for group in channel_map.groups:
            lost = wide[group.name][~torch.isin(wide[group.name], narrow[group.name])]
            for member in group.members:
                if member.axis == "out" and member.layer in group.gates:
                    lost_N = member.positions_N[torch.isin(member.channels_N, lost)]
                    rows.append((member.layer, torch.searchsorted(positions[member.layer, "out"], lost_N).to(device)))
        return cls(rows=tuple(rows))

    def close(self, network: nn.Module, *, factor: float) -> None:
        """Make them this factor, in place."""
        for _, parameter, rows in self._parameters(network):
            parameter.data[rows] *= factor

    def open(self, network: nn.Module, parameters: Mapping[str, nn.Parameter]) -> None:
        """Open them, in place, with the values of parameters as wide as the network's; gradients stay as they are."""
        for name, parameter, rows in self._parameters(network):
            parameter.data[rows] = parameters[name].detach()[rows]

    def forget_gradients(self, network: nn.Module) -> None:
        """Make the gradients behind them zero, in place."""
        for _, parameter, rows in self._parameters(network):
            if parameter.grad is not None:
                parameter.grad[rows] = 0.0

    def _parameters(self, network: nn.Module) -> Iterator[tuple[str, nn.Parameter, torch.Tensor]]:
        for layer, rows in self.rows:
            for name, parameter in network.get_submodule(layer).named_parameters(recurse=False):
                yield f"{layer}.{name}", parameter, rows


@contextmanager
def not_scaled_by_weights(network: nn.Module, gates: Collection[str]) -> Iterator[Collection[str]]:
    """While a network runs, find layers whose outputs do not fall by about half with their weights and biases.

    An activation of the layer's own is no fault: the gate stands before it. So outputs must be nearer to half of what
    they were than to all of it; those of a layer that normalises its weights do not change at all.

    Args:
        network: run without gradients inside the context, of at least two images.
        gates: names of layers. Batch norms are not looked at: they normalise what they are given, not their weights.

    Yields:
        Names of those found so far.
    """
    found: set[str] = set()
    layers = {name: network.get_submodule(name) for name in gates}
    hooks = [
        layer.register_forward_hook(_halving(name, found), prepend=True, with_kwargs=True)  # before the user's own
        for name, layer in layers.items()
        if not isinstance(layer, BATCH_NORMS)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _halving(name: str, found: set[str]) -> Callable[..., None]:
    def halve(layer: nn.Module, args: Any, kwargs: Any, output: torch.Tensor) -> None:  # noqa: ANN401
        parameters = [*layer.parameters(recurse=False)]
        before = [parameter.detach().clone() for parameter in parameters]
        for parameter in parameters:
            parameter.data *= 0.5
        halved = layer.forward(*args, **kwargs)
        for parameter, values in zip(parameters, before, strict=True):
            parameter.data.copy_(values)
        # Between two images, as a bias would hide what weights do.
        whole, half = output.diff(dim=0), halved.diff(dim=0)
        if (half - whole / 2).norm() > (half - whole).norm():
            found.add(name)

    return halve
