"""Find the channel groups of a network: what was followed through its graph, turned into a `ChannelMap`."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import nn

from trainables.errors import InputError
from trainables.pruning.channels import (
    LAYERS,
    Axis,
    ChannelGroup,
    ChannelMap,
    Member,
    is_blockwise,
    layer_widths,
    skeleton,
)
from trainables.pruning.following import follow, has_channels, has_one_channel, widest
from trainables.pruning.gates import find_gates
from trainables.pruning.graph import Node, Places, dependency_graph
from trainables.pruning.held import CLASS_SCORES, HeldError, first_reasons, layers_left_alone, require_narrowable
from trainables.pruning.moves import Moves
from trainables.pruning.tracing import classifier, execution_order


def find_groups(network: nn.Module, input_shape: tuple[int, int, int], *, keep: Iterable[str] = ()) -> ChannelMap:
    """Trace a network and find which of its channels must be removed together; as `trace_groups` otherwise.

    Raises:
        InputError: if the network cannot be traced, or nothing of it can be removed, naming the layer in the way.
    """
    channel_map = trace_groups(network, input_shape, keep=keep)
    if not channel_map.groups:
        reasons = first_reasons(channel_map.held)
        raise InputError(f"this {type(network).__name__} has no channels that could be removed{reasons}")
    return channel_map


def trace_groups(network: nn.Module, input_shape: tuple[int, int, int], *, keep: Iterable[str] = ()) -> ChannelMap:
    """Trace a network and find its groups, of which a network may have none, as where each has one channel left.

    Channels stay whole where they are class scores, where a layer cannot be narrowed, shares its weights or is named by
    `keep`, and where no gate can silence them; `held` says so. The network itself is left as it was.

    Args:
        network: on any device.
        input_shape: channels, height and width of an image.
        keep: layers that are left alone: names, names of parts that hold them, or patterns.

    Raises:
        InputError: if the network cannot be traced.
    """
    network = skeleton(network).requires_grad_(requires_grad=True)  # the graph is read off the gradients
    names = {module: name for name, module in network.named_modules()}
    # Two images: some networks squeeze a batch of one away.
    example = torch.zeros(2, *input_shape, device="meta")
    order, num_scores = execution_order(network, example)
    scores = classifier(order)
    left_alone = layers_left_alone(network, keep)
    graph = dependency_graph(network, example)
    gives_scores = layer_widths(scores)[0] == num_scores  # and not what another kind of head reads
    width_of_widest, moves = widest(network), Moves()
    groups: list[ChannelGroup] = []
    held: dict[str, str] = {}
    met: set[Node] = set()
    roots = [(module, root) for module, root in graph.items() if module in names and _is_root(module)]
    # Twice: channels of which the first turn leaves some, since another layer may bring all, are held in the second.
    for turn, (module, root) in enumerate([*roots, *roots]):
        if root in met or names[module] in held:
            continue
        try:
            reached = follow(root, width_of_widest, moves)
            partly = _reached_in_part(reached)
            if partly is not None and turn < len(roots):
                continue  # all channels of that one may take these with them
            met |= {node for node, axis in reached if axis == "out"}
            if partly is not None:
                raise HeldError(f"its channels stand with some of those of layer {names[partly]}, but not with all")
            if gives_scores and any(node.module is scores for node, axis in reached if axis == "out"):
                raise HeldError(CLASS_SCORES)
            groups.extend(_groups(root, reached, names, left_alone, moves))
        except HeldError as reason:
            held[names[module]] = str(reason)
            met |= reason.among
    position = {names[module]: index for index, module in enumerate(order)}
    groups.sort(key=lambda group: min(position.get(member.layer, len(order)) for member in group.members))
    layers = sorted({member.layer for group in groups for member in group.members})
    return ChannelMap(
        groups=tuple(groups),
        widths={layer: layer_widths(network.get_submodule(layer)) for layer in layers},
        blockwise=frozenset(layer for layer in layers if is_blockwise(network.get_submodule(layer))),
        held=held,
    )


def _is_root(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Linear) and not has_one_channel(module)


def _reached_in_part(reached: Mapping[tuple[Node, Axis], Places]) -> nn.Module | None:
    """A layer of whose own channels some were reached, and others not; what merely passes them on is none."""
    for (node, axis), places in reached.items():
        module: nn.Module = node.module
        if axis == "out" and isinstance(module, nn.Conv2d | nn.Linear) and not is_blockwise(module):
            width = layer_widths(module)[0]
            if len({position for position, _ in places if position < width}) < width:
                return module
    return None


def _groups(
    root: Node,
    reached: Mapping[tuple[Node, Axis], Places],
    names: Mapping[nn.Module, str],
    left_alone: Mapping[str, str],
    moves: Moves,
) -> list[ChannelGroup]:
    """Make groups of what was reached: one, or several where not all channels stand in the same layers.

    Raises:
        HeldError: if the channels must stay whole.
    """
    layers: dict[tuple[str, Axis], Places] = {}
    for (node, axis), places in reached.items():
        require_narrowable(node, names, left_alone)
        if has_channels(node.module) and (axis == "out" or not is_blockwise(node.module)):
            layers[names[node.module], axis] = places
    gates = _gates(reached, names)
    num_channels = layer_widths(root.module)[0]
    channel_of = _tied(layers.values(), num_channels)
    _require_even_parts(reached, channel_of, moves)
    if len(set(channel_of.values())) == 1 < num_channels:
        raise HeldError(
            f"its {num_channels} channels could only go together, as what stands between layers puts each in the "
            "place of others"
        )
    stands = {
        axis: dict(sorted((position, channel_of[channel]) for position, channel in places))
        for axis, places in layers.items()
    }
    name = names[root.module]
    alike = _alike(stands.values(), len(set(channel_of.values())))
    return [
        _group(name if len(alike) == 1 else f"{name}[{number}]", channels, stands, gates)
        for number, channels in enumerate(alike)
    ]


def _require_even_parts(
    reached: Mapping[tuple[Node, Axis], Places], channel_of: Mapping[int, int], moves: Moves
) -> None:
    """Hold channels that a split or a slice parts, unless each stands in every part: the parts would not fit any more.

    Raises:
        HeldError: if one does not.
    """
    for (node, axis), places in reached.items():
        for part, width in moves.parts_read(node) if axis == "out" else []:
            stands = {(position, channel_of[channel]) for position, channel in places}
            in_all = Counter(channel for _, channel in stands)
            in_part = Counter(channel for position, channel in stands if position in part)
            if any(in_part[channel] * width != number * len(part) for channel, number in in_all.items()):
                raise HeldError(
                    "torch.split, chunk or a slice parts them at fixed places, which are others once channels have gone"
                )


def _alike(stands: Iterable[Mapping[int, int]], num_channels: int) -> list[list[int]]:
    """Sort channels by how often they stand in each layer; behind a concatenation that differs."""
    counts = torch.stack([torch.bincount(torch.tensor([*at.values()]), minlength=num_channels) for at in stands], dim=1)
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for channel, often in enumerate(counts.tolist()):
        alike[tuple(often)].append(channel)
    return list(alike.values())


def _group(
    name: str,
    channels: Sequence[int],
    stands: Mapping[tuple[str, Axis], Mapping[int, int]],
    gates: Collection[str],
) -> ChannelGroup:
    number = {channel: index for index, channel in enumerate(channels)}
    members = []
    for (layer, axis), at in stands.items():
        places = [(position, number[channel]) for position, channel in at.items() if channel in number]
        if places:
            positions_N, channels_N = torch.tensor(places).T
            members.append(Member(layer=layer, axis=axis, positions_N=positions_N, channels_N=channels_N))
    give = {member.layer for member in members if member.axis == "out"}
    return ChannelGroup(
        name=name,
        num_channels=len(channels),
        members=tuple(members),
        gates=tuple(sorted(give & set(gates))),
    )


def _tied(layers: Iterable[Places], num_channels: int) -> dict[int, int]:
    """Count anew, after those that stand at one place have become one, as in a block of a grouped convolution."""
    parent = list(range(num_channels))

    def head(channel: int) -> int:
        while parent[channel] != channel:
            parent[channel] = channel = parent[parent[channel]]
        return channel

    for places in layers:
        at: dict[int, int] = {}
        for position, channel in places:
            one, other = sorted((head(at.setdefault(position, channel)), head(channel)))
            parent[other] = one
    heads = {first: number for number, first in enumerate(sorted({head(channel) for channel in range(num_channels)}))}
    return {channel: heads[head(channel)] for channel in range(num_channels)}


def _gates(reached: Mapping[tuple[Node, Axis], Places], names: Mapping[nn.Module, str]) -> tuple[str, ...]:
    giving = {node for node, axis in reached if axis == "out"}
    gates: set[str] = set()
    for node, axis in reached:
        if axis == "in" and isinstance(node.module, LAYERS) and not is_blockwise(node.module):
            silencing = find_gates(node, giving)
            if silencing is None:
                raise HeldError(f"no gate silences what layer {names[node.module]} reads, which is not zero at zero")
            gates |= {names[layer] for layer in silencing}
    if not gates:
        raise HeldError("no layer reads its channels")
    return tuple(sorted(gates))
