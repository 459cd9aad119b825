"""Shared weights and the levels that view them.

There is one set of dense weights θ. A level is a physically narrow network whose parameters are gathered from θ by
index before each step (`refresh`), and whose gradients are added back to θ at the same indices after it
(`accumulate_gradients`): the gather and its adjoint, written out, so that a level costs what its own size costs and no
dense copy of a gradient is made for each. Batch-norm statistics belong to the level; so do scale and shift, unless
they are shared.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from trainables.channels import BATCH_NORMS, ChannelMap, Kept, resize, tensor_axes

Indices = tuple[torch.Tensor | None, torch.Tensor | None]
"""Positions that stay along a tensor's first and second dimension; `None` for all of them."""


def gather(dense: torch.Tensor, indices: Indices, *, out: torch.Tensor) -> None:
    """Copy the kept rows and columns of `dense` into `out`."""
    rows, columns = indices
    narrow = dense if rows is None else dense.index_select(0, rows)
    if columns is None:
        out.copy_(narrow)
    else:
        torch.index_select(narrow, 1, columns, out=out)


def scatter_add(dense: torch.Tensor, indices: Indices, narrow: torch.Tensor) -> None:
    """Add `narrow` to the kept rows and columns of `dense`: the adjoint of `gather`."""
    rows, columns = indices
    if columns is None:
        dense.add_(narrow) if rows is None else dense.index_add_(0, rows, narrow)
    elif rows is None:
        dense.index_add_(1, columns, narrow)
    else:  # one dimension after the other, as `gather`: indexing both at once takes twice as long
        wide = narrow.new_zeros(len(rows), *dense.shape[1:]).index_copy_(1, columns, narrow)
        dense.index_add_(0, rows, wide)


class SharedWeights:
    """The dense weights θ of a cascade, initialised from the teacher.

    Attributes:
        network: the dense network that holds θ; it is never run.
        channel_map: its channel groups.
    """

    def __init__(self, network: nn.Module, channel_map: ChannelMap) -> None:
        """Copy a network's weights.

        Args:
            network: the teacher, or in a sequential cascade the level before.
            channel_map: the groups of that network.
        """
        self.network = copy.deepcopy(network)
        self.channel_map = channel_map
        for parameter in self.network.parameters():
            parameter.requires_grad = True
            parameter.grad = torch.zeros_like(parameter)

    @property
    def norms(self) -> tuple[str, ...]:
        """Names of the normalisation layers."""
        return tuple(name for name, layer in self.network.named_modules() if isinstance(layer, BATCH_NORMS))


class Level:
    """One level: its kept channels, its narrow network, and where each parameter comes from.

    Attributes:
        number: 1 … L.
        kept: channels that stay, by group.
        network: the narrow network, an ordinary module, ready to run after `refresh`.
        private: dense-sized scale and shift of its own, by parameter name; empty if they are shared.
    """

    def __init__(self, number: int, shared: SharedWeights, *, shared_affine: bool) -> None:
        """Make a level that keeps everything.

        Args:
            number: 1 … L.
            shared: the weights that it views.
            shared_affine: take scale and shift of normalisation layers from the shared weights too.
        """
        self.number = number
        self.shared = shared
        self.kept: dict[str, torch.Tensor] = shared.channel_map.everything()
        self.network = copy.deepcopy(shared.network)
        self.private: dict[str, nn.Parameter] = {}
        if not shared_affine:
            dense = dict(shared.network.named_parameters())
            affine = [f"{norm}.{tensor}" for norm in shared.norms for tensor in ("weight", "bias")]
            for name in affine:
                if name in dense:
                    self.private[name] = nn.Parameter(dense[name].detach().clone())
                    self.private[name].grad = torch.zeros_like(self.private[name])
        self._sources = dict(shared.network.named_parameters()) | self.private
        self._indices = self._index()

    def sources(self) -> Iterator[tuple[torch.Tensor, Indices]]:
        """Each dense tensor that the level reads from, and the indices it reads."""
        for name in self._indices:
            yield self._sources[name], self._indices[name]

    @torch.no_grad()
    def refresh(self) -> None:
        """Gather the network's parameters anew and forget its gradients."""
        for name, parameter in self.network.named_parameters():
            gather(self._sources[name], self._indices[name], out=parameter.data)
            parameter.grad = None

    @torch.no_grad()
    def accumulate_gradients(self) -> None:
        """Add the network's gradients to those of the dense parameters that it views."""
        for name, parameter in self.network.named_parameters():
            if parameter.grad is not None:
                dense_gradient = self._sources[name].grad
                assert dense_gradient is not None
                scatter_add(dense_gradient, self._indices[name], parameter.grad)

    @torch.no_grad()
    def keep(self, kept: Kept) -> None:
        """Remove all channels but these, physically; `kept` must be part of what the level keeps now."""
        channel_map = self.shared.channel_map
        before = channel_map.kept_positions(self.kept)
        after = channel_map.kept_positions(kept)
        survivors = {axis: torch.searchsorted(before[axis], after[axis]) for axis in after}
        statistics = {
            f"{norm}.{name}": buffer[survivors[norm, "out"].to(buffer.device)] if buffer.ndim else buffer
            for norm in self.shared.norms
            if (norm, "out") in survivors
            for name, buffer in self.network.get_submodule(norm).named_buffers()
        }
        resize(self.network, channel_map.narrowed(kept))
        for name, buffer in self.network.named_buffers():
            if name in statistics:
                buffer.copy_(statistics[name])
        self.kept = dict(kept)
        self._indices = self._index()
        self.refresh()

    def _index(self) -> dict[str, Indices]:
        positions = self.shared.channel_map.kept_positions(self.kept)
        widths = self.shared.channel_map.widths
        indices: dict[str, Indices] = {}
        for name, parameter in self._sources.items():
            layer, _, tensor = name.rpartition(".")
            axes = tensor_axes(self.shared.network.get_submodule(layer), tensor) if layer in widths else ()
            chosen: list[torch.Tensor | None] = [None, None]
            for dimension, axis in enumerate(axes):
                kept = positions.get((layer, axis))
                if kept is not None and len(kept) < parameter.shape[dimension]:
                    chosen[dimension] = kept.to(parameter.device)
            indices[name] = (chosen[0], chosen[1])
        return indices


def unused(levels: Sequence[Level]) -> Mapping[torch.Tensor, torch.Tensor]:
    """For each dense tensor of these levels, where it is read by none of them, as a mask of the tensor's shape."""
    masks: dict[torch.Tensor, torch.Tensor] = {}
    for level in levels:
        for dense, (rows, columns) in level.sources():
            mask = masks.get(dense)
            if mask is None:
                mask = masks[dense] = torch.ones_like(dense, dtype=torch.bool)
            if rows is None and columns is None:
                mask.zero_()
            elif columns is None:
                mask[rows] = False
            elif rows is None:
                mask[:, columns] = False
            else:
                mask[rows[:, None], columns] = False
    return masks
