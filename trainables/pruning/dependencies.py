"""Find the channel groups of a network: what was followed through its graph, turned into a `ChannelMap`."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch_pruning import ops

from trainables.errors import InputError
from trainables.networks.models import shared_parameters
from trainables.pruning.channels import (
    BATCH_NORMS,
    LAYERS,
    Axis,
    ChannelGroup,
    ChannelMap,
    Member,
    is_blockwise,
    is_grouped,
    layer_widths,
    matches,
    skeleton,
)
from trainables.pruning.gates import find_gates
from trainables.pruning.tracing import (
    HeldError,
    Node,
    Places,
    classifier,
    dependency_graph,
    execution_order,
    follow,
    has_one_channel,
)

CLASS_SCORES = "its outputs are the class scores"
"""Why the channels of the last layer are held."""
_AS_ASKED = "is kept as asked"
_MOST_REASONS = 3
_TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def find_groups(network: nn.Module, input_shape: tuple[int, int, int], *, keep: Iterable[str] = ()) -> ChannelMap:
    """Trace a network and find which of its channels must be removed together; as `trace_groups` otherwise.

    Raises:
        InputError: if the network cannot be traced, or nothing of it can be removed, naming the layer in the way.
    """
    channel_map = trace_groups(network, input_shape, keep=keep)
    if not channel_map.groups:
        raise InputError(f"this {type(network).__name__} has no channels that could be removed{_why(channel_map.held)}")
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
    left_alone = _sharing(network) | dict.fromkeys(_asked(network, keep), _AS_ASKED)
    graph = dependency_graph(network, example)
    scores = classifier(order)
    gives_scores = layer_widths(scores)[0] == num_scores  # and not what another kind of head reads
    groups: list[ChannelGroup] = []
    held: dict[str, str] = {}
    met: set[Node] = set()
    roots = [(module, root) for module, root in graph.items() if module in names and _is_root(module)]
    # Twice: channels of which the first turn leaves some, since another layer may bring all, are held in the second.
    for turn, (module, root) in enumerate([*roots, *roots]):
        if root in met or names[module] in held:
            continue
        try:
            reached = follow(root)
            partly = _reached_in_part(reached)
            if partly is not None and turn < len(roots):
                continue  # all channels of that one may take these with them
            met |= {node for node, axis in reached if axis == "out"}
            if partly is not None:
                raise HeldError(f"its channels stand with some of those of layer {names[partly]}, but not with all")
            if gives_scores and any(node.module is scores for node, axis in reached if axis == "out"):
                raise HeldError(CLASS_SCORES)
            groups.extend(_groups(root, reached, names, left_alone))
        except HeldError as reason:
            held[names[module]] = str(reason)
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


def _why(held: Mapping[str, str]) -> str:
    """The first reasons why nothing is left, and the mend of those that the user gave."""
    reasons = [f"{layer}: {reason}" for layer, reason in held.items() if reason != CLASS_SCORES]
    if not reasons:
        return "".join(f"; {layer}: {reason}" for layer, reason in held.items())
    more = f"; and {len(reasons) - _MOST_REASONS} more" if len(reasons) > _MOST_REASONS else ""
    asked = any(reason.endswith(_AS_ASKED) for reason in held.values())
    mend = "; cascade.pruning.keep leaves none: change what stands between its layers instead" if asked else ""
    return "".join(f"; {reason}" for reason in reasons[:_MOST_REASONS]) + more + mend


def _sharing(network: nn.Module) -> dict[str, str]:
    """Layers whose parameters other layers have, too, and whose these are: narrowed, each would have its own."""
    sharing: dict[str, str] = {}
    for names in shared_parameters(network):
        layer, other = (name.rpartition(".")[0] for name in names)
        if layer != other:
            sharing |= {layer: f"shares its weights with {other}", other: f"shares its weights with {layer}"}
    return sharing


def _asked(network: nn.Module, keep: Iterable[str]) -> set[str]:
    layers = [name for name, layer in network.named_modules() if isinstance(layer, LAYERS)]
    asked: set[str] = set()
    for pattern in keep:
        found = {layer for layer in layers if matches(layer, pattern)}
        if not found and any(matches(name, pattern) for name, _ in network.named_modules() if name):
            raise InputError(
                f"cascade.pruning.keep has {pattern!r}, but no layer there can be narrowed: it stays whole as it is; "
                "leave it out"
            )
        if not found:
            raise InputError(
                f"cascade.pruning.keep has {pattern!r}, but no layer is called so; layers are {', '.join(layers[:3])} …"
            )
        asked |= found
    return asked


def _groups(
    root: Node,
    reached: Mapping[tuple[Node, Axis], Places],
    names: Mapping[nn.Module, str],
    left_alone: Mapping[str, str],
) -> list[ChannelGroup]:
    """Make groups of what was reached: one, or several where not all channels stand in the same layers.

    Raises:
        HeldError: if the channels must stay whole.
    """
    layers: dict[tuple[str, Axis], Places] = {}
    for (node, axis), places in reached.items():
        _check(node, names, left_alone)
        if _has_channels(node.module) and (axis == "out" or not is_blockwise(node.module)):
            _check_places(node.module, axis, places, names[node.module])
            layers[names[node.module], axis] = places
    gates = _gates(reached, names)
    num_channels = layer_widths(root.module)[0]
    channel_of = _tied(layers.values(), num_channels)
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


def _has_channels(module: nn.Module) -> bool:
    one_slope_for_all = isinstance(module, nn.PReLU) and module.num_parameters == 1
    return isinstance(module, LAYERS) and not one_slope_for_all


def _check(node: Node, names: Mapping[nn.Module, str], left_alone: Mapping[str, str]) -> None:
    module = node.module
    if node.type == ops.OPTYPE.PARAMETER:
        raise HeldError("it reaches a bare parameter, which cannot be narrowed; wrap it in a layer")
    if node.type == ops.OPTYPE.OUTPUT:
        raise HeldError("its channels are among what the network returns")
    if module not in names:
        return  # an operation without weights
    if names[module] in left_alone:
        raise HeldError(f"layer {names[module]} {left_alone[names[module]]}")
    if not isinstance(module, LAYERS):
        raise HeldError(f"layer {names[module]} is a {type(module).__name__}, which cannot be narrowed")
    if isinstance(module, BATCH_NORMS) and not module.affine:
        raise HeldError(f"layer {names[module]} is a batch norm without scale and shift, which gives no saliency")
    if is_grouped(module) and _reads_the_image(node):
        raise HeldError(f"layer {names[module]} reads the image's own channels in groups, which stay as many")
    if is_parametrized(module):
        raise HeldError(
            f"layer {names[module]} computes its weights by a parametrization, which cannot be narrowed; "
            "torch.nn.utils.parametrize.remove_parametrizations makes them plain"
        )
    own = [name for name in (*module._parameters, *module._buffers) if name not in _TENSORS]
    if own:
        raise HeldError(
            f"layer {names[module]} is a {type(module).__name__} with a tensor {own[0]!r} that nobody knows how to "
            "narrow it; put it into a module of its own"
        )


def _reads_the_image(node: Node) -> bool:
    """Whether nothing that gives channels anew stands between the image and a layer."""
    seen, waiting = {node}, [node]
    while waiting:
        here = waiting.pop()
        if not here.inputs and isinstance(here.module, LAYERS):  # any other that reads nothing is of a weight
            return True
        for before in here.inputs:
            if before not in seen and not isinstance(before.module, nn.Conv2d | nn.Linear):
                seen.add(before)
                waiting.append(before)
    return False


def _check_places(layer: nn.Module, axis: Axis, places: Places, name: str) -> None:
    """Hold channels of which some would stand beyond a layer's own."""
    width = layer_widths(layer)[0 if axis == "out" else 1]
    most = max(position for position, _ in places) + 1
    if most > width:
        raise HeldError(
            f"layer {name} has {width} {'outputs' if axis == 'out' else 'inputs'}, but as traced {most} channels come "
            "to it; something before it joins or splits channels, as glu, maxout or a pixel shuffle do"
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
