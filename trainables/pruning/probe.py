"""Channels of a network are removed in two ways that must agree; where they do not, the groups at fault are named.

Weights are drawn anew, so that nothing hides behind a weight that is zero.
"""

import copy
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from trainables.errors import InputError, first_line
from trainables.pruning.channels import BATCH_NORMS, ChannelGroup, ChannelMap, Kept, network_widths, resize
from trainables.pruning.closed_gates import ClosedGates, not_scaled_by_weights
from trainables.pruning.cost import count_macs, count_params, size_model
from trainables.pruning.draws import Draw
from trainables.pruning.levels import Level, SharedWeights
from trainables.pruning.selection import possible_counts
from trainables.pruning_config import UNITS, Pruning, SizeUnit

TOLERANCE = 1e-4
"""Largest difference between the gated and the narrow network, relative to what closing the gates changes."""

_RESOLUTION = 1e-6  # of float32, relative to the scores themselves


@torch.no_grad()
def draw_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Give all parameters and statistics values of a usual size, none of them zero or one."""
    for parameter in network.parameters():
        if parameter.numel() == 0:
            continue
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.uniform_(0.5, 1.5, generator=generator)
    for layer in network.modules():
        if isinstance(layer, BATCH_NORMS) and layer.track_running_stats:
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.uniform_(-0.5, 0.5, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)


@dataclass(frozen=True, slots=True, eq=False)
class _Culprit:
    """A group that breaks a contract: what is said of it, with which draw, and the groups that fail with it."""

    group: ChannelGroup
    together: str
    error: InputError
    draw: Draw
    groups: Sequence[ChannelGroup]


class Probe:
    """A network with weights of its own, of which channels are removed in two ways.

    Attributes:
        sizes: the closed form of its sizes, in MACs and in parameters.
        dense_NK: its scores while all channels are there.
    """

    def __init__(
        self,
        network: nn.Module,
        channel_map: ChannelMap,
        images_NCHW: torch.Tensor,
        generator: torch.Generator,
    ) -> None:
        """Copy a network and draw its weights."""
        self._network = copy.deepcopy(network).eval()
        draw_weights(self._network, generator)
        self._channel_map = channel_map
        self._images_NCHW = images_NCHW
        self._shared = SharedWeights(self._network, channel_map)
        _, channels, height, width = images_NCHW.shape
        self._input_shape = (channels, height, width)
        units: tuple[SizeUnit, ...] = ("macs", "params")
        self.sizes = {unit: size_model(self._network, channel_map, self._input_shape, unit=unit) for unit in units}
        gates = {gate for group in channel_map.groups for gate in group.gates}
        with torch.no_grad(), not_scaled_by_weights(self._network, gates) as self._not_gates:
            self.dense_NK: torch.Tensor = self._network(images_NCHW)

    def check(self, draws: Sequence[Draw], pruning: Pruning) -> float:
        """Remove channels; the largest difference, relative to what silencing them changes.

        Args:
            draws: channels that are kept, one time after the other.
            pruning: what the user keeps, and the floors.

        Raises:
            InputError: naming a group at fault, and what leaves all of them alone.
        """
        culprits: dict[str, _Culprit] = {}
        difference = 0.0
        for draw in draws:
            fine = [group for group in self._channel_map.groups if group.name not in culprits]
            try:
                difference = max(difference, self._compare(draw, fine))
            except InputError:
                whole = self._fails(draw, fine, whole=False) is None
                culprits |= self._culprits(draw, _by_root(fine), whole=whole)
        if culprits:
            raise self._refusal(draws, culprits, pruning)
        return difference

    def _culprits(self, draw: Draw, parts: Sequence[Sequence[ChannelGroup]], *, whole: bool) -> dict[str, _Culprit]:
        """Groups that fail where channels of them are removed, by name; of those that fail together only, each.

        Args:
            draw: channels that are kept.
            parts: groups, those together that are looked at as one.
            whole: whether more must be looked at than scores, of which it shows sooner.
        """
        groups = [group for part in parts for group in part]
        error = self._fails(draw, groups, whole=whole)
        if error is None:
            return {}
        middle = len(parts) // 2
        halves = (parts[:middle], parts[middle:]) if middle else ()
        found = {name: one for half in halves for name, one in self._culprits(draw, half, whole=whole).items()}
        together = f" with {len(groups) - 1} others" if len(parts) > 1 else ""
        return found or {group.name: _Culprit(group, together, error, draw, groups) for group in groups}

    def _refusal(self, draws: Sequence[Draw], culprits: Mapping[str, _Culprit], pruning: Pruning) -> InputError:
        """What is wrong with the first, and what leaves all of them alone, if the others can be narrowed then.

        It offers a floor where the network can do with fewer channels than all, but not with so few.
        """
        groups = self._channel_map.groups
        at_fault = [group for group in groups if group.name in culprits]
        first = culprits[at_fault[0].name]
        can_be_fewer = self._fails(replace(first.draw, kept=first.draw.most), first.groups) is None
        floor = ", or give it a floor in cascade.pruning.floors" if can_be_fewer else ""
        more = f"; {len(culprits)} of {len(groups)} groups fail" if len(culprits) > 1 else ""
        said = f"group {first.group.name}{first.together}: {first.error}{floor}; {_between(first.group)}{more}"
        fine = [group for group in groups if group.name not in culprits]
        if not fine or any(self._fails(draw, fine) is not None for draw in draws):
            return InputError(said)
        keep = dict.fromkeys([*pruning.keep, *(_layer_apart(group, fine) for group in at_fault)])
        idle = [pattern for pattern in pruning.floors if not any(group.gives(pattern) for group in fine)]
        without = f" and without cascade.pruning.floors of {', '.join(idle)}" if idle else ""
        left = self._smallest(at_fault, pruning)
        return InputError(
            f"{said}; with cascade.pruning.keep=[{', '.join(map(_as_yaml, keep))}]{without} the rest holds, down to "
            f"{100 * left:.3g} % of the MACs"
        )

    def _smallest(self, kept: Sequence[ChannelGroup], pruning: Pruning) -> float:
        """Part of the MACs that is left where these groups are left alone and the others at their floors."""
        groups, macs = self._channel_map.groups, self.sizes["macs"]
        full_G = np.array([group.num_channels for group in groups])
        least_G = [group.num_channels if group in kept else possible_counts(group, pruning)[0] for group in groups]
        return macs.total(np.array(least_G)) / macs.total(full_G)

    def _fails(self, draw: Draw, groups: Sequence[ChannelGroup], *, whole: bool = True) -> InputError | None:
        try:
            self._compare(draw, groups, whole=whole)
        except InputError as error:
            return error
        return None

    @torch.no_grad()
    def _compare(self, draw: Draw, groups: Sequence[ChannelGroup], *, whole: bool = True) -> float:
        for group in groups:
            _require_gates(group, self._not_gates)
        kept = self._channel_map.everything() | {group.name: draw.kept[group.name] for group in groups}
        level = Level(1, self._shared, shared_affine=False)
        level.keep(kept)
        narrow = level.network.eval()
        narrow_NK, gated_NK = self._run(narrow, draw), self._gated(kept)
        effect = float((gated_NK - self.dense_NK).abs().max())
        difference = float((narrow_NK - gated_NK).abs().max()) if narrow_NK.shape == gated_NK.shape else math.inf
        if not difference <= TOLERANCE * effect + _RESOLUTION * float(gated_NK.abs().max()):
            raise InputError(
                f"the network {draw.text} gives other scores than with these silenced; something between its layers "
                "mixes channels or is not zero at zero; name its layer in cascade.pruning.keep"
            )
        if whole:
            self._check_count(narrow, kept, draw)
            self._check_reading_back(narrow, narrow_NK)
            self._run(narrow.train(), draw)
        return difference / max(effect, torch.finfo().tiny)

    def _run(self, narrow: nn.Module, draw: Draw) -> torch.Tensor:
        try:
            scores_NK: torch.Tensor = narrow(self._images_NCHW)
        except Exception as error:  # the user's own forward pass
            training = " in training" if narrow.training else ""
            raise InputError(
                f"{draw.text}, the network fails{training} ({first_line(error)}); name its layer in "
                "cascade.pruning.keep, or let the forward pass take shapes from what it is given"
            ) from error
        return scores_NK

    def _gated(self, kept: Kept) -> torch.Tensor:
        """Scores of the whole network with the gates of all other channels closed."""
        everything, device = self._channel_map.everything(), self._images_NCHW.device
        gates = ClosedGates.of(self._channel_map, wide=everything, narrow=kept, device=device)
        gates.close(self._network, factor=0.0)
        scores_NK: torch.Tensor = self._network(self._images_NCHW)
        gates.open(self._network, dict(self._shared.network.named_parameters()))
        return scores_NK

    def _check_count(self, narrow: nn.Module, kept: Kept, draw: Draw) -> None:
        counts_G = np.array([len(kept[group.name]) for group in self._channel_map.groups])
        counted = {"macs": count_macs(narrow, self._input_shape), "params": count_params(narrow)}
        for unit, sizes in self.sizes.items():
            wanted = sizes.total(counts_G)
            if round(wanted) != counted[unit]:
                raise InputError(
                    f"the network {draw.text} has {counted[unit]} {UNITS[unit]}, but {wanted:.0f} were predicted; it "
                    "must compute the same for each image and size, and no convolution or product outside of a layer "
                    "may shrink with channels, as by a filter that is expanded to those of its input: make it an "
                    "nn.Conv2d; or name its layer in cascade.pruning.keep"
                )

    def _check_reading_back(self, narrow: nn.Module, narrow_NK: torch.Tensor) -> None:
        again = copy.deepcopy(self._network)
        resize(again, network_widths(narrow))
        again.load_state_dict(narrow.state_dict())
        if not torch.equal(again(self._images_NCHW), narrow_NK):
            raise InputError(
                "its narrow network gives other scores when it is built anew from its state dict; "
                "what it computes must depend on its parameters and buffers alone"
            )


def _require_gates(group: ChannelGroup, not_gates: Collection[str]) -> None:
    for gate in group.gates:
        if gate in not_gates:
            raise InputError(
                f"with half its weights, layer {gate} does not give about half of what it gives, as where a layer "
                "normalises its own weights, whose gradients then tell no channels apart; put a batch norm behind it, "
                "or name it in cascade.pruning.keep"
            )


def _by_root(groups: Iterable[ChannelGroup]) -> list[list[ChannelGroup]]:
    """Put groups together that are parts of the channels of one layer, and stay whole together where it is kept."""
    parts: dict[str, list[ChannelGroup]] = defaultdict(list)
    for group in groups:
        parts[group.name.partition("[")[0]].append(group)
    return list(parts.values())


def _layer_apart(group: ChannelGroup, others: Iterable[ChannelGroup]) -> str:
    """A layer to keep for a group's sake, which leaves others free if there is such a one."""
    taken = {member.layer for other in others for member in other.members}
    giving = [member.layer for member in group.members if member.axis == "out"]
    return next((layer for layer in giving if layer not in taken), giving[0])


def _as_yaml(name: str) -> str:
    """A name or pattern that is read back as text."""
    return name if re.fullmatch(r"[A-Za-z_][\w.]*", name) else f'"{name}"'


def _between(group: ChannelGroup) -> str:
    """Where to look for what is wrong with a group."""
    give, read = (sorted({m.layer for m in group.members if m.axis == axis}) for axis in ("out", "in"))
    return f"its channels go from {_few(give)} to {_few(read)}"


def _few(layers: Sequence[str]) -> str:
    return ", ".join(layers[:3]) + (" …" if len(layers) > 3 else "")
