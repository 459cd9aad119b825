"""Channel groups, what a level keeps of them, and narrow layers.

Plain convolutions and linear layers mix all their inputs; they have the axes `out` and `in`. Blockwise layers give each
block of inputs back as a block of outputs: normalisation and PReLU channel by channel, a grouped convolution group by
group (depthwise: of one channel each). They have the axis `out` alone, and their inputs go with it.

Shape legend: C channels of a group, N positions along one axis of a layer.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, TypeGuard

import torch
from torch import nn

from trainables.errors import InputError

Axis = Literal["out", "in"]
Kept = Mapping[str, torch.Tensor]
"""What a level keeps: name of a group → sorted int64 indices of the channels that stay."""
Widths = Mapping[str, tuple[int, int]]
"""Output and input channels of layers by name; of a normalisation layer both are its number of features."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
LAYERS = (nn.Conv2d, nn.Linear, nn.PReLU, *BATCH_NORMS)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Member:
    """One axis of one layer, as far as it belongs to a group.

    Attributes:
        layer: the layer's name in the network.
        axis: `out` or `in`; blockwise layers have `out` alone.
        positions_N: positions along the axis, sorted int64.
        channels_N: the group's channel at each of these positions; each channel stands at equally many (at several
            after a flatten, or where a grouped convolution ties the channels of a block together).
    """

    layer: str
    axis: Axis
    positions_N: torch.Tensor
    channels_N: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChannelGroup:
    """Channels that must go together.

    Attributes:
        name: name of the layer that the group was found from.
        num_channels: C.
        members: every axis of a layer that shrinks with the group.
        gates: layers after which the group's gate stands: closed, it silences all that other layers read.
    """

    name: str
    num_channels: int
    members: tuple[Member, ...]
    gates: tuple[str, ...]

    @property
    def block(self) -> int:
        """Outputs of one layer that each channel stands for: 1, unless a grouped convolution ties blocks together."""
        return min(len(member.positions_N) for member in self.members if member.axis == "out") // self.num_channels

    def gives(self, pattern: str) -> bool:
        """Tell whether a pattern means one of the layers that give these channels."""
        return any(matches(member.layer, pattern) for member in self.members if member.axis == "out")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChannelMap:
    """All prunable groups of a network.

    Attributes:
        groups: in the order in which the network computes them.
        widths: of the layers that groups touch.
        blockwise: those of them that are blockwise.
        held: why channels that could be thought of as groups stay whole, by the name of a layer that gives them.
    """

    groups: tuple[ChannelGroup, ...]
    widths: Widths
    blockwise: frozenset[str]
    held: Mapping[str, str]

    def everything(self) -> dict[str, torch.Tensor]:
        """Keep every channel of every group."""
        return {group.name: torch.arange(group.num_channels) for group in self.groups}

    def kept_positions(self, kept: Kept) -> dict[tuple[str, Axis], torch.Tensor]:
        """Sorted positions that stay along each axis of each layer that some group touches."""
        stays: dict[tuple[str, Axis], torch.Tensor] = {}
        for group in self.groups:
            channel_stays_C = torch.zeros(group.num_channels, dtype=torch.bool)
            channel_stays_C[kept[group.name]] = True
            for member in group.members:
                num_out, num_in = self.widths[member.layer]
                length = num_out if member.axis == "out" else num_in
                mask_N = stays.setdefault((member.layer, member.axis), torch.ones(length, dtype=torch.bool))
                mask_N[member.positions_N] = channel_stays_C[member.channels_N]
        return {axis: mask_N.nonzero().flatten() for axis, mask_N in stays.items()}

    def narrowed(self, kept: Kept) -> dict[str, tuple[int, int]]:
        """Widths of the layers that groups touch once only `kept` stays."""
        positions = self.kept_positions(kept)
        narrowed = {}
        for layer, (num_out, num_in) in self.widths.items():
            out_N = positions.get((layer, "out"))
            new_out = num_out if out_N is None else len(out_N)
            in_N = positions.get((layer, "in"))
            new_in = num_in if in_N is None else len(in_N)
            narrowed[layer] = (new_out, num_in * new_out // num_out if layer in self.blockwise else new_in)
        return narrowed


def matches(layer: str, pattern: str) -> bool:
    """Tell whether a pattern means a layer: its name, the name of a part that holds it, or a pattern with `*`."""
    return layer == pattern or layer.startswith(f"{pattern}.") or fnmatchcase(layer, pattern)


def is_grouped(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Tell whether a layer is a convolution in several groups, such as a depthwise one."""
    return isinstance(layer, nn.Conv2d) and layer.groups > 1


def is_blockwise(layer: nn.Module) -> bool:
    """Tell whether a layer gives each block of its inputs back as a block of outputs."""
    return isinstance(layer, (nn.PReLU, *BATCH_NORMS)) or is_grouped(layer)


def layer_widths(layer: nn.Module) -> tuple[int, int]:
    """Output and input channels of a layer.

    Raises:
        InputError: for any other layer.
    """
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels, layer.in_channels
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    if isinstance(layer, BATCH_NORMS):
        return layer.num_features, layer.num_features
    if isinstance(layer, nn.PReLU):
        return layer.num_parameters, layer.num_parameters
    raise InputError(f"a {type(layer).__name__} cannot be narrowed; Conv2d, Linear, BatchNorm and PReLU layers can")


def tensor_axes(layer: nn.Module, tensor: str) -> tuple[Axis, ...]:
    """What the leading dimensions of a layer's parameter or buffer run over; () for a scalar."""
    if tensor == "num_batches_tracked":
        return ()
    if tensor == "weight" and not is_blockwise(layer):
        return ("out", "in")
    return ("out",)


def resize(network: nn.Module, widths: Widths) -> None:
    """Give layers new widths, in place; their parameters and buffers become uninitialised where they changed.

    Parameters stay the same objects, so that an optimiser still knows them.

    Raises:
        InputError: if a layer is missing or is of a kind that cannot be narrowed.
    """
    for name, (num_out, num_in) in widths.items():
        try:
            layer = network.get_submodule(name)
        except AttributeError as error:
            raise InputError(f"the network has no layer {name!r}; the widths belong to another network") from error
        if layer_widths(layer) == (num_out, num_in):
            continue
        lengths: dict[Axis, int] = {"out": num_out, "in": num_in}
        num_groups = _narrow_groups(layer, num_in) if is_grouped(layer) else None
        for tensor_name, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
            axes = tensor_axes(layer, tensor_name)
            shape = [lengths[axis] for axis in axes] + list(tensor.shape[len(axes) :])
            if num_groups is not None and tensor_name == "weight":
                shape[1] = num_in // num_groups
            if list(tensor.shape) == shape:
                continue
            narrow = tensor.new_empty(shape)
            if isinstance(tensor, nn.Parameter):
                tensor.data, tensor.grad = narrow, None
            else:
                setattr(layer, tensor_name, narrow)
        if isinstance(layer, nn.Conv2d):
            if num_groups is not None:
                layer.groups = num_groups
            layer.out_channels, layer.in_channels = num_out, num_in
        elif isinstance(layer, nn.Linear):
            layer.out_features, layer.in_features = num_out, num_in
        elif isinstance(layer, BATCH_NORMS):
            layer.num_features = num_out
        elif isinstance(layer, nn.PReLU):
            layer.num_parameters = num_out


def _narrow_groups(layer: nn.Conv2d, num_in: int) -> int:
    """How many of its groups a grouped convolution has once it reads so many channels.

    They go whole but for the last: alone it is a plain convolution, whose channels go one by one where a cascade
    starts from it.
    """
    return max(1, layer.groups * num_in // layer.in_channels)


def network_widths(network: nn.Module) -> dict[str, tuple[int, int]]:
    """Widths of all layers of a network that can be narrowed, by name."""
    return {name: layer_widths(layer) for name, layer in network.named_modules() if isinstance(layer, LAYERS)}


def skeleton(network: nn.Module) -> nn.Module:
    """The same network in evaluation mode on the meta device, where shapes flow and nothing is computed or copied."""
    tensors = [*network.parameters(), *network.buffers()]
    bare = {
        id(tensor): nn.Parameter(tensor.to("meta")) if isinstance(tensor, nn.Parameter) else tensor.to("meta")
        for tensor in tensors
    }
    return copy.deepcopy(network, bare).eval()
