"""Shared weights and the levels that view them.

There is one set of weights θ. A level is a physically narrow network whose parameters are gathered from θ by
index before each step (`refresh`), and whose gradients are added back to θ at the same indices after it
(`accumulate_gradients`): the gather and its adjoint, written out, so that a level costs what its own size costs and no
dense copy of a gradient is made for each. Batch-norm statistics belong to the level; so do scale and shift, unless
they are shared.

Channels keep the numbers that they have in the dense network, whatever goes. θ holds those that some level keeps, and
says which (`SharedWeights.kept`); where a channel lies in θ is looked up in that, once after each pruning. Where
channels may come back to a level, θ holds more, and a level can be as wide as it for a while (`Level.widen`).
"""

import copy
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import nn

from trainables.pruning.channels import BATCH_NORMS, ChannelMap, Kept
from trainables.pruning.closed_gates import AJAR, ClosedGates
from trainables.pruning.views import WHOLE, Cuts, Indices, View, find_indices, pick, remove_channels


class SharedWeights:
    """The weights θ of a cascade, initialised from the teacher.

    Attributes:
        network: the network that holds θ; it is never run. What is to be trained takes gradients, what is frozen none.
        channel_map: its channel groups.
        kept: channels that it still has, by group: those that some level keeps, or may keep again.
    """

    def __init__(self, network: nn.Module, channel_map: ChannelMap, *, frozen: Collection[str] = ()) -> None:
        """Copy a network's weights.

        Args:
            network: the teacher, or in a sequential cascade the level before.
            channel_map: the groups of that network.
            frozen: names of parameters that stay as they are, but for channels that go.
        """
        self.network = copy.deepcopy(network)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad_(name not in frozen)
        self.channel_map = channel_map
        self.kept: dict[str, torch.Tensor] = channel_map.everything()
        self._make_gradients()

    @property
    def norms(self) -> tuple[str, ...]:
        """Names of the normalisation layers."""
        return tuple(name for name, layer in self.network.named_modules() if isinstance(layer, BATCH_NORMS))

    @torch.no_grad()
    def drop_unread(self, levels: Sequence["Level"]) -> Cuts:
        """Remove what none of these levels keeps, and let them look up where the rest is; gradients become zero.

        What is left of a layer is rows and columns that are read; a weight in a row of one level and a column of
        another may be read by none. It moves nothing that is read, and stays.
        """
        groups = self.channel_map.groups
        union = {group.name: torch.unique(torch.cat([level.kept[group.name] for level in levels])) for group in groups}
        stays = remove_channels(self.network, self.channel_map, before=self.kept, after=union)
        self.kept = union
        self._make_gradients()
        cuts = {p: stays[name] for name, p in self.network.named_parameters() if name in stays}
        for level in levels:
            cuts |= level.follow(stays)
        return cuts

    def _make_gradients(self) -> None:
        for parameter in self.network.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None


class Level:
    """One level: its kept channels, its narrow network, and where each parameter comes from.

    Attributes:
        number: 1 … L.
        kept: channels that stay, by group.
        network: the narrow network, an ordinary module, ready to run after `refresh`. All of it takes gradients, what
            is frozen in θ too, as saliency is made of them.
        private: scale and shift of its own, by parameter name, as wide as its network's, or as θ where channels may
            come back; empty if they are shared, and without those that are frozen.
        is_wide: whether its network has channels that it does not keep, behind closed gates.
    """

    def __init__(self, number: int, shared: SharedWeights, *, shared_affine: bool, may_widen: bool = False) -> None:
        """Make a level that keeps everything.

        Args:
            number: 1 … L.
            shared: the weights that it views, all of them still there.
            shared_affine: take scale and shift of normalisation layers from the shared weights too.
            may_widen: channels that it does not keep may come back to it while θ has them.
        """
        self.number = number
        self.shared = shared
        self.kept: dict[str, torch.Tensor] = shared.channel_map.everything()
        self.is_wide = False
        self._may_widen = may_widen
        self._in_network: Kept = self.kept
        self._closed = ClosedGates()
        self.network = copy.deepcopy(shared.network).requires_grad_(requires_grad=True)
        self.private: dict[str, nn.Parameter] = {}
        if not shared_affine:
            parameters = dict(shared.network.named_parameters())
            affine = [f"{norm}.{tensor}" for norm in shared.norms for tensor in ("weight", "bias")]
            for name in affine:
                if name in parameters and parameters[name].requires_grad:
                    self.private[name] = nn.Parameter(parameters[name].detach().clone())
                    self.private[name].grad = torch.zeros_like(self.private[name])
        self.look_up()

    def look_up(self) -> None:
        """Find where the parameters lie in the shared weights as these are now."""
        shared = self.shared
        indices = find_indices(shared.network, shared.channel_map, wide=shared.kept, narrow=self._in_network)
        own = dict(self.network.named_parameters())
        self._sources = dict(shared.network.named_parameters()) | self.private
        if not self._may_widen:  # what is private is as narrow as the network
            indices |= dict.fromkeys(self.private, WHOLE)
        self._views = tuple(View.of(own[name], self._sources[name], indices[name]) for name in own)

    @torch.no_grad()
    def refresh(self) -> None:
        """Gather the network's parameters anew and forget its gradients."""
        for view in self._views:
            view.gather()
            view.narrow.grad = None
        self._closed.close(self.network, factor=AJAR)

    @torch.no_grad()
    def accumulate_gradients(self, weight: float = 1.0) -> None:
        """Add the network's gradients, so many times, to those of the parameters that it views and that are trained."""
        self._closed.forget_gradients(self.network)
        for view in self._views:
            if view.wide.requires_grad:
                view.add_gradient(weight)

    @torch.no_grad()
    def keep(self, kept: Kept) -> Cuts:
        """Remove all channels but these, physically; `kept` must be part of what the network has now.

        Returns:
            What stayed of the private parameters that became smaller; their gradients become zero.
        """
        stays = remove_channels(self.network, self.shared.channel_map, before=self._in_network, after=kept)
        cuts = {} if self._may_widen else self._cut_private(stays)
        self.kept = self._in_network = dict(kept)
        self.is_wide, self._closed = False, ClosedGates()
        self.look_up()
        self.refresh()
        return cuts

    def follow(self, stays: Mapping[str, Indices]) -> Cuts:
        """Look up where parameters lie after θ was cut.

        Args:
            stays: what stayed of the parameters of θ that became smaller, by name.

        Returns:
            What stayed of private parameters that are as wide as θ; their gradients become zero.
        """
        cuts = self._cut_private(stays) if self._may_widen else {}
        self.look_up()
        return cuts

    @torch.no_grad()
    def widen(self) -> None:
        """Make the network as wide as θ, with closed gates before all that the level does not keep.

        It gives what it gave before, next to exactly, and its gradients are what they were; beside them stand those of
        the closed gates, which say what the channels would do to the loss. They are not added to θ's. `keep` makes it
        narrow again. Statistics of what comes back are those that θ began with.
        """
        shared, narrow = self.shared, self.network
        self.network = copy.deepcopy(shared.network).requires_grad_(requires_grad=True).train(narrow.training)
        indices = find_indices(self.network, shared.channel_map, wide=shared.kept, narrow=self.kept)
        buffers = dict(narrow.named_buffers())
        for name, buffer in self.network.named_buffers():
            rows, _ = indices[name]
            buffer[... if rows is None else rows] = buffers[name]
        device = next(self.network.parameters()).device
        self._closed = ClosedGates.of(shared.channel_map, wide=shared.kept, narrow=self.kept, device=device)
        self.is_wide, self._in_network = True, dict(shared.kept)
        self.look_up()
        self.refresh()

    def open_gates(self) -> None:
        """Give closed gates the parameters that they would have open, until `refresh`; gradients stay as they are."""
        self._closed.open(self.network, self._sources)

    def _cut_private(self, stays: Mapping[str, Indices]) -> Cuts:
        cuts = {parameter: stays[name] for name, parameter in self.private.items() if name in stays}
        for parameter, indices in cuts.items():
            parameter.grad, parameter.data = None, pick(parameter.data, indices)
            parameter.grad = torch.zeros_like(parameter)
        return cuts
