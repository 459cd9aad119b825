"""What must hold of a network before it is pruned, checked on the network itself in seconds.

The dense network with its gates closed and the narrow network agree; the closed form of the MACs is the count of the
narrow network; what is saved of the narrow network gives its outputs back; a training step succeeds and tells channels
apart. Weights are drawn anew for the first of these, so that nothing hides behind a weight that is zero.
"""

import copy
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from trainables.errors import InputError, first_line
from trainables.networks.models import require_real_parameters
from trainables.pruning.channels import BATCH_NORMS, ChannelGroup, ChannelMap, Kept, network_widths, resize
from trainables.pruning.closed_gates import ClosedGates
from trainables.pruning.cost import count_macs, count_params, size_model
from trainables.pruning.dependencies import find_groups
from trainables.pruning.first_step import require_none_kept, take_step
from trainables.pruning.levels import Level, SharedWeights
from trainables.pruning.possible_sizes import floor_fraction
from trainables.pruning.selection import possible_counts
from trainables.pruning_config import UNITS, Pruning, SizeUnit
from trainables.recipe import Precision
from trainables.seeds import seeded_layers

TOLERANCE = 1e-4
"""Largest difference between the gated and the narrow network, relative to what closing the gates changes."""

_STEPS = (5**0.5 / 2 - 0.5, 2**0.5 - 1)  # multiples of such numbers, modulo 1, keep apart
_RESOLUTION = 1e-6  # of float32, relative to the scores themselves


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Findings:
    """What was found out about a network that keeps the contracts.

    Attributes:
        channel_map: its channel groups, and what is held whole and why.
        silent: groups whose saliency is zero for every channel, as behind a zero-initialised layer.
        smallest: fraction of the MACs, or of the parameters where sizes are counted in these, that is left when all
            groups are at their floors, in (0, 1). Of latency nothing is known yet.
        difference: between the scores of the gated and the narrow network, relative to what closing the gates changes.
        probabilities: whether the scores are none below zero and sum to one for each image, as behind a softmax.
    """

    channel_map: ChannelMap
    silent: tuple[str, ...]
    smallest: float
    difference: float
    probabilities: bool


def check_contracts(
    network: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    pruning: Pruning,
    criteria: Sequence[str] = (),
    precisions: Sequence[Precision] = ("fp32",),
) -> Findings:
    """Check a network as it will be used; it is left as it was.

    Args:
        network: on the CPU.
        input_shape: channels, height and width of an image.
        pruning: what is kept, and the floors.
        criteria: names of those for saliency, of which the user's own are tried.
        precisions: that training steps are tried in.

    Raises:
        InputError: if a contract does not hold, naming the group of channels and the reason, or a criterion gives no
            scores.
    """
    require_real_parameters(network)
    channel_map = find_groups(network, input_shape, keep=pruning.keep)
    require_none_kept(network)  # hooks that are functions write to the network itself when its copy is traced
    for pattern, floor in pruning.floors.items():
        widths = [group.num_channels * group.block for group in channel_map.groups if group.gives(pattern)]
        if not widths:
            raise InputError(
                f"cascade.pruning.floors has {pattern!r}, but no layer whose channels can be removed is called so; "
                f"there are {', '.join(group.name for group in channel_map.groups[:3])} …"
            )
        if floor > max(widths):
            raise InputError(
                f"cascade.pruning.floors of {pattern} is {floor}, but what is called so has {max(widths)} channels at "
                "the most; lower it, or leave them all alone by cascade.pruning.keep"
            )
    generator = torch.Generator().manual_seed(0)
    images_NCHW = torch.randn(2, *input_shape, generator=generator)
    unit: SizeUnit = "params" if pruning.size_in == "params" else "macs"
    with seeded_layers(0, torch.device("cpu")):
        silent = take_step(network, channel_map, images_NCHW, criteria, precisions)
        probe = _Probe(network, channel_map, images_NCHW, generator)
        difference = probe.check(_draws(channel_map.groups, pruning, generator), pruning)
    return Findings(
        channel_map=channel_map,
        silent=silent,
        smallest=floor_fraction(probe.sizes[unit], channel_map, pruning),
        difference=difference,
        probabilities=_gives_probabilities(probe.dense_NK),
    )


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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Draw:
    """Channels of each group that are kept, what is said of them, and the most of each that may be left of fewer."""

    text: str
    kept: Kept
    most: Kept


def _draws(groups: Sequence[ChannelGroup], pruning: Pruning, generator: torch.Generator) -> list[_Draw]:
    """Other numbers of channels in each group, twice, and as few in each as a level can be left with."""

    def kept(numbers: Iterable[int]) -> Kept:
        return {
            group.name: torch.randperm(group.num_channels, generator=generator)[:number].sort()[0]
            for group, number in zip(groups, numbers, strict=True)
        }

    unlike = [_unlike(group, turn, pruning) for turn, group in enumerate(groups, start=1)]
    most = kept(_fewer(group, pruning)[-1] for group in groups)
    return [
        *(
            _Draw(text="without some of its channels", kept=kept(numbers), most=most)
            for numbers in zip(*unlike, strict=True)
        ),
        _Draw(
            text="with as few channels as it may be left with",
            kept=kept(possible_counts(group, pruning)[0] for group in groups),
            most=most,
        ),
    ]


def _fewer(group: ChannelGroup, pruning: Pruning) -> list[int]:
    """How many channels may be left of a group that loses some, ascending; all of them where none can go."""
    counts = possible_counts(group, pruning)
    return [number for number in counts if number < group.num_channels] or [*counts]


def _unlike(group: ChannelGroup, turn: int, pruning: Pruning) -> tuple[int, int]:
    """Two numbers of channels, of parts that are far apart where groups follow one another; alike if there is but one.

    Where a network cuts its channels in two halves or turns their order around, half of them may be right by chance,
    so that is taken only if there are no two others.
    """
    fewer = _fewer(group, pruning)
    not_half = [number for number in fewer if 2 * number != group.num_channels]
    choices = not_half if len(not_half) > 1 else fewer
    one, other = (int(turn * step % 1 * len(choices)) for step in _STEPS)
    return choices[one], choices[other if other != one else one - 1]


@dataclass(frozen=True, slots=True, eq=False)
class _Culprit:
    """A group that breaks a contract: what is said of it, with which draw, and the groups that fail with it."""

    group: ChannelGroup
    together: str
    error: InputError
    draw: _Draw
    groups: Sequence[ChannelGroup]


class _Probe:
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
        self._network = copy.deepcopy(network).eval()
        draw_weights(self._network, generator)
        self._channel_map = channel_map
        self._images_NCHW = images_NCHW
        self._shared = SharedWeights(self._network, channel_map)
        _, channels, height, width = images_NCHW.shape
        self._input_shape = (channels, height, width)
        units: tuple[SizeUnit, ...] = ("macs", "params")
        self.sizes = {unit: size_model(self._network, channel_map, self._input_shape, unit=unit) for unit in units}
        with torch.no_grad():
            self.dense_NK: torch.Tensor = self._network(images_NCHW)

    def check(self, draws: Sequence[_Draw], pruning: Pruning) -> float:
        """Remove channels; the largest relative difference, or an error that names the culprits, and what mends it."""
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

    def _culprits(self, draw: _Draw, parts: Sequence[Sequence[ChannelGroup]], *, whole: bool) -> dict[str, _Culprit]:
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

    def _refusal(self, draws: Sequence[_Draw], culprits: Mapping[str, _Culprit], pruning: Pruning) -> InputError:
        """What is wrong with the first, and what leaves all of them alone, if the others can be narrowed then.

        It offers a floor where the network can do with fewer channels than all, but not with so few.
        """
        groups, first = self._channel_map.groups, next(iter(culprits.values()))
        can_be_fewer = self._fails(replace(first.draw, kept=first.draw.most), first.groups) is None
        floor = ", or give it a floor in cascade.pruning.floors" if can_be_fewer else ""
        more = f"; {len(culprits)} of {len(groups)} groups fail" if len(culprits) > 1 else ""
        said = f"group {first.group.name}{first.together}: {first.error}{floor}; {_between(first.group)}{more}"
        fine = [group for group in groups if group.name not in culprits]
        if not fine or any(self._fails(draw, fine) is not None for draw in draws):
            return InputError(said)
        keep = dict.fromkeys([*pruning.keep, *(_layer_apart(culprits[name].group, fine) for name in culprits)])
        idle = [pattern for pattern in pruning.floors if not any(group.gives(pattern) for group in fine)]
        without = f" and without cascade.pruning.floors of {', '.join(idle)}" if idle else ""
        left = self._smallest([group for group in groups if group.name in culprits], pruning)
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

    def _fails(self, draw: _Draw, groups: Sequence[ChannelGroup], *, whole: bool = True) -> InputError | None:
        try:
            self._compare(draw, groups, whole=whole)
        except InputError as error:
            return error
        return None

    @torch.no_grad()
    def _compare(self, draw: _Draw, groups: Sequence[ChannelGroup], *, whole: bool = True) -> float:
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

    def _run(self, narrow: nn.Module, draw: _Draw) -> torch.Tensor:
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

    def _check_count(self, narrow: nn.Module, kept: Kept, draw: _Draw) -> None:
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


def _gives_probabilities(scores_NK: torch.Tensor) -> bool:
    """Tell whether each image's scores are a distribution over the classes."""
    sums_N = scores_NK.sum(1)
    return bool((scores_NK >= 0).all()) and torch.allclose(sums_N, torch.ones_like(sums_N), atol=TOLERANCE)


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
