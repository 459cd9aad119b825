"""Where the tensors of a narrow network lie in those of a wide one: looked up, gathered, added back, and cut."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from trainables.pruning.channels import Axis, ChannelMap, Kept, resize, tensor_axes

Indices = tuple[torch.Tensor | None, torch.Tensor | None]
"""Positions that stay along a tensor's first and second dimension; `None` for all of them."""
WHOLE: Indices = (None, None)
"""All of a tensor."""
Cuts = dict[nn.Parameter, Indices]
"""Parameters that became smaller, and what stayed of them."""


def pick(wide: torch.Tensor, indices: Indices) -> torch.Tensor:
    """The kept rows and columns of `wide`."""
    rows, columns = indices
    narrow = wide if rows is None else wide.index_select(0, rows)
    return narrow if columns is None else narrow.index_select(1, columns)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class View:
    """A parameter of a level's network, and where it lies in the shared one.

    Attributes:
        narrow: the level's.
        wide: the shared one.
        rows: that the level keeps; `None` for all of them.
        columns: likewise.
        entries: where what the columns hold lies in a flattened row; a column of a 3x3 convolution has nine.
    """

    narrow: nn.Parameter
    wide: nn.Parameter
    rows: torch.Tensor | None
    columns: torch.Tensor | None
    entries: torch.Tensor | None

    @classmethod
    def of(cls, narrow: nn.Parameter, wide: nn.Parameter, indices: Indices) -> "View":
        """Look it up."""
        rows, columns = indices
        entries = None
        if columns is not None:
            entries = torch.arange(wide[0].numel(), device=wide.device).view(wide.shape[1], -1)[columns].flatten()
        return cls(narrow=narrow, wide=wide, rows=rows, columns=columns, entries=entries)

    def gather(self) -> None:
        """Copy the kept rows and columns of the shared parameter into the level's."""
        wide, narrow = self.wide.detach(), self.narrow.detach()
        if self.rows is not None and self.columns is not None and _has_kernels(wide):
            pairs = (self.rows[:, None] * wide.shape[1] + self.columns).flatten()
            torch.index_select(wide.flatten(0, 1), 0, pairs, out=narrow.flatten(0, 1))
            return
        if self.rows is not None:
            wide = wide.index_select(0, self.rows)
        if self.columns is None:
            narrow.copy_(wide)
        else:
            torch.index_select(wide, 1, self.columns, out=narrow)

    def add_gradient(self, weight: float) -> None:
        """Add the level's gradient, so many times, to that of the shared parameter: the adjoint of `gather`."""
        total, gradient = self.wide.grad, self.narrow.grad
        if gradient is None:
            return
        assert total is not None
        if self.entries is not None:
            # Entry by entry is twice as fast as column by column, each of which costs a call.
            widened = gradient.new_zeros(len(gradient), total[0].numel())
            widened.scatter_(1, self.entries.expand(len(gradient), -1), gradient.flatten(1))
            gradient = widened.view(len(gradient), *total.shape[1:])
        if self.rows is None:
            total.add_(gradient, alpha=weight)
        else:
            total.index_add_(0, self.rows, gradient, alpha=weight)


def _has_kernels(weight: torch.Tensor) -> bool:
    """Whether an output and an input share several entries, as in 3x3 convolutions.

    Kernels are gathered faster one by one; single entries, along one dimension after the other.
    """
    return weight.ndim > 2 and weight[0, 0].numel() > 1


def find_indices(network: nn.Module, channel_map: ChannelMap, *, wide: Kept, narrow: Kept) -> dict[str, Indices]:
    """Where each parameter and buffer of a network that keeps `narrow` lies in that of one that keeps `wide`.

    Args:
        network: any network with the layers that `channel_map` is about, whatever it keeps.
        channel_map: the groups.
        wide: channels of the wide network, by group.
        narrow: some of these.
    """
    of_wide, of_narrow = channel_map.kept_positions(wide), channel_map.kept_positions(narrow)
    along = {
        axis: torch.searchsorted(of_wide[axis], positions)
        for axis, positions in of_narrow.items()
        if len(positions) < len(of_wide[axis])
    }
    indices: dict[str, Indices] = {}
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        layer, _, tensor_name = name.rpartition(".")
        axes: Sequence[Axis] = ()
        if layer in channel_map.widths:
            axes = tensor_axes(network.get_submodule(layer), tensor_name)
        chosen: list[torch.Tensor | None] = [None, None]
        for dimension, axis in enumerate(axes):
            places = along.get((layer, axis))
            chosen[dimension] = None if places is None else places.to(tensor.device)
        indices[name] = (chosen[0], chosen[1])
    return indices


def remove_channels(network: nn.Module, channel_map: ChannelMap, *, before: Kept, after: Kept) -> dict[str, Indices]:
    """Remove channels physically, in place; the parameters, which stay the same objects, lose their gradients.

    Args:
        network: it keeps `before`.
        channel_map: the groups.
        before: channels by group.
        after: some of these, which stay.

    Returns:
        What stayed of each parameter and buffer that became smaller.
    """
    indices = find_indices(network, channel_map, wide=before, narrow=after)
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    stays = {name: which for name, which in indices.items() if which != WHOLE}
    values = {name: pick(tensors[name].detach(), which) for name, which in stays.items()}
    resize(network, channel_map.narrowed(after))
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    for name, value in values.items():
        tensors[name].copy_(value)
    return stays
