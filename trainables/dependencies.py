"""Find the channel groups of a network: torch-pruning's dependency graph, turned into a `ChannelMap`.

Of torch-pruning only the graph is used: which operation reads which, and where channels stand behind a concatenation or
a flatten. Not its importances, which pass over batch norm; not its pruners; and not its walk over the graph, which does
not end on some networks.
"""

import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch_pruning
from torch import nn
from torch_pruning import ops
from torch_pruning._helpers import _HybridIndex

from trainables.channels import (
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
from trainables.errors import InputError, first_line
from trainables.gates import find_gates

Node = Any
"""torch-pruning's: `module`, the nodes that it reads (`inputs`) and that read it (`outputs`), and `dependencies`."""
Places = set[tuple[int, int]]
"""Positions along one axis of a node, each with the channel that stands there: `idx` and `root_idx`."""

CLASS_SCORES = "its outputs are the class scores"
"""Why the channels of the last layer are held."""

_MOST_PLACES = 2_000_000
"""Places that are looked at for one group, some seconds' worth, before a network is refused."""


class _HeldError(Exception):
    """These channels stay whole; the message says why."""


def find_groups(network: nn.Module, input_shape: tuple[int, int, int], *, keep: Iterable[str] = ()) -> ChannelMap:
    """Trace a network and find which of its channels must be removed together.

    Channels stay whole where they are class scores, where a layer cannot be narrowed or `keep` names it, and where no
    gate can silence them; `held` says so. The network itself is left as it was.

    Args:
        network: on any device.
        input_shape: channels, height and width of an image.
        keep: layers that are left alone: names, names of parts that hold them, or patterns.

    Raises:
        InputError: if the network cannot be traced, or nothing of it can be removed, naming the layer in the way.
    """
    network = skeleton(network).requires_grad_(requires_grad=True)  # the graph is read off the gradients
    names = {module: name for name, module in network.named_modules()}
    # Two images: some networks squeeze a batch of one away.
    example = torch.zeros(2, *input_shape, device="meta")
    order = _execution_order(network, example)
    left_alone = _left_alone(network, keep)
    graph = _graph(network, example)
    scores = _classifier(order)
    groups: list[ChannelGroup] = []
    held: dict[str, str] = {}
    met: set[Node] = set()
    for module, root in graph.items():
        if module not in names or not isinstance(module, nn.Conv2d | nn.Linear) or root in met:
            continue
        reached = _reached(root)
        met |= {node for node, axis in reached if axis == "out"}
        try:
            if any(node.module is scores for node, axis in reached if axis == "out"):
                raise _HeldError(CLASS_SCORES)
            groups.append(_group(root, reached, names, left_alone))
        except _HeldError as reason:
            held[names[module]] = str(reason)
    if not groups:
        why = "".join(f"; {layer}: {reason}" for layer, reason in list(held.items())[-1:])
        raise InputError(f"this {type(network).__name__} has no channels that could be removed{why}")
    position = {names[module]: index for index, module in enumerate(order)}
    groups.sort(key=lambda group: min(position.get(member.layer, len(order)) for member in group.members))
    layers = sorted({member.layer for group in groups for member in group.members})
    return ChannelMap(
        groups=tuple(groups),
        widths={layer: layer_widths(network.get_submodule(layer)) for layer in layers},
        blockwise=frozenset(layer for layer in layers if is_blockwise(network.get_submodule(layer))),
        held=held,
    )


def _left_alone(network: nn.Module, keep: Iterable[str]) -> frozenset[str]:
    layers = [name for name, layer in network.named_modules() if isinstance(layer, LAYERS)]
    left_alone: set[str] = set()
    for pattern in keep:
        found = {layer for layer in layers if matches(layer, pattern)}
        if not found:
            raise InputError(
                f"pruning.keep has {pattern!r}, but no layer is called so; layers are {', '.join(layers[:3])} …"
            )
        left_alone |= found
    return frozenset(left_alone)


def _execution_order(network: nn.Module, example: torch.Tensor) -> list[nn.Module]:
    order: list[nn.Module] = []
    hooks = [
        module.register_forward_hook(lambda module, _inputs, _output: order.append(module))
        for module in network.modules()
        if isinstance(module, LAYERS)
    ]
    try:
        with torch.no_grad():
            output = network(example)
    except Exception as error:  # the user's own forward pass
        shape = "x".join(map(str, example.shape[1:]))
        raise InputError(f"the network fails on an image of {shape}: {first_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        raise InputError("the network must return one tensor of class scores, images x classes")
    return order


def _classifier(order: Sequence[nn.Module]) -> nn.Module:
    scoring = [module for module in order if isinstance(module, nn.Conv2d | nn.Linear)]
    if not scoring:
        raise InputError("the network has no convolution and no linear layer")
    return scoring[-1]


def _graph(network: nn.Module, example: torch.Tensor) -> Mapping[nn.Module, Node]:
    try:
        with warnings.catch_warnings(action="ignore"):  # on bare parameters, which are held
            graph = torch_pruning.DependencyGraph().build_dependency(network, example)
    except Exception as error:  # torch-pruning fails in many ways on what it does not know
        raise InputError(
            f"the channels of this {type(network).__name__} cannot be traced ({first_line(error)}); "
            "its forward pass must consist of ordinary layers on one image tensor"
        ) from error
    nodes: Mapping[nn.Module, Node] = graph.module2node
    return nodes


def _reached(root: Node) -> dict[tuple[Node, Axis], Places]:
    """All places of the channels that a layer gives: forwards to what reads them, back to what else gives them."""
    reached: dict[tuple[Node, Axis], Places] = defaultdict(set)
    num_out = layer_widths(root.module)[0]
    waiting: list[tuple[Node, Axis, Iterable[Any]]] = [(root, "out", [_HybridIndex(c, c) for c in range(num_out)])]
    num_places = 0
    while waiting:
        node, axis, places = waiting.pop()
        new = set(places) - reached.get((node, axis), set())
        if not new:
            continue
        reached[node, axis] |= new
        num_places += len(new)
        if num_places > _MOST_PLACES:
            raise InputError(
                f"the channels of {root.name.partition(' ')[0]} cannot be followed through the network: they stand "
                "at ever more places; reshapes and shifts of whole images are not supported"
            )
        across = _across(node, axis, new)
        if across:
            waiting.append((node, "in" if axis == "out" else "out", across))
        # torch-pruning lists the ways to the inputs first.
        ways = node.dependencies[: len(node.inputs)] if axis == "in" else node.dependencies[len(node.inputs) :]
        for way in ways:
            there: Iterable[Any] = new
            for mapping in way.index_mapping:
                there = there if mapping is None else mapping(there)
            waiting.append((way.target, "out" if axis == "in" else "in", there))
    return reached


def _across(node: Node, axis: Axis, places: Places) -> Iterable[Any]:
    """The same channels on a node's other side; none where it mixes them."""
    layer = node.module
    if is_grouped(layer):
        num_out, num_in = (width // layer.groups for width in layer_widths(layer))
        here, there = (num_out, num_in) if axis == "out" else (num_in, num_out)
        # One channel stands for its whole block, and on its way back it meets the others of the block.
        first = {position // here: channel for position, channel in sorted(places, reverse=True)}
        return [_HybridIndex(b * there + offset, channel) for b, channel in first.items() for offset in range(there)]
    return () if isinstance(layer, ops.TORCH_CONV | ops.TORCH_LINEAR) else places


def _group(
    root: Node,
    reached: Mapping[tuple[Node, Axis], Places],
    names: Mapping[nn.Module, str],
    left_alone: Collection[str],
) -> ChannelGroup:
    """Make a group of what was reached.

    Raises:
        _HeldError: if the channels must stay whole.
    """
    layers: dict[tuple[str, Axis], Places] = {}
    for (node, axis), places in reached.items():
        _check(node, names, left_alone)
        if _has_channels(node.module) and (axis == "out" or not is_blockwise(node.module)):
            layers[names[node.module], axis] = places
    channel_of = _tied(layers.values(), layer_widths(root.module)[0])
    num_channels = len(set(channel_of.values()))
    members = []
    for (layer, axis), places in layers.items():
        stands = dict(sorted((position, channel_of[channel]) for position, channel in places))
        member = Member(
            layer=layer,
            axis=axis,
            positions_N=torch.tensor(list(stands)),
            channels_N=torch.tensor(list(stands.values())),
        )
        counts = torch.bincount(member.channels_N, minlength=num_channels)
        if (counts != counts[0]).any():
            raise _HeldError(f"its channels meet layer {layer} unevenly")
        members.append(member)
    return ChannelGroup(
        name=names[root.module],
        num_channels=num_channels,
        members=tuple(members),
        gates=_gates(reached, names),
    )


def _has_channels(module: nn.Module) -> bool:
    one_slope_for_all = isinstance(module, nn.PReLU) and module.num_parameters == 1
    return isinstance(module, LAYERS) and not one_slope_for_all


def _check(node: Node, names: Mapping[nn.Module, str], left_alone: Collection[str]) -> None:
    module = node.module
    if node.type == ops.OPTYPE.PARAMETER:
        raise _HeldError("it reaches a bare parameter, which cannot be narrowed; wrap it in a layer")
    if node.type == ops.OPTYPE.OUTPUT:
        raise _HeldError("its channels are among what the network returns")
    if module not in names:
        return  # an operation without weights
    if names[module] in left_alone:
        raise _HeldError(f"layer {names[module]} is kept as asked")
    if not isinstance(module, LAYERS):
        raise _HeldError(f"layer {names[module]} is a {type(module).__name__}, which cannot be narrowed")
    if isinstance(module, BATCH_NORMS) and not module.affine:
        raise _HeldError(f"layer {names[module]} is a batch norm without scale and shift, which gives no saliency")


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
    nodes = {node for node, _ in reached}
    gates: set[str] = set()
    for node, axis in reached:
        if axis == "in" and isinstance(node.module, LAYERS) and not is_blockwise(node.module):
            silencing = find_gates(node, nodes)
            if silencing is None:
                raise _HeldError(f"no gate silences what layer {names[node.module]} reads, which is not zero at zero")
            gates |= {names[layer] for layer in silencing}
    if not gates:
        raise _HeldError("no layer reads its channels")
    return tuple(sorted(gates))
