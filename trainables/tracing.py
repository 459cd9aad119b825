"""Trace a network and follow channels through it, along torch-pruning's dependency graph.

Of torch-pruning only the graph is used: which operation reads which, and where channels stand behind a concatenation or
a flatten. Not its importances, which pass over batch norm; not its pruners; and not its walk over the graph, which does
not end on some networks.
"""

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch_pruning
from torch import nn
from torch_pruning import ops
from torch_pruning._helpers import _HybridIndex

from trainables.channels import LAYERS, Axis, is_grouped, layer_widths
from trainables.errors import InputError, first_line

Node = Any
"""torch-pruning's: `module`, the nodes that it reads (`inputs`) and that read it (`outputs`), and `dependencies`."""
Places = set[tuple[int, int]]
"""Positions along one axis of a node, each with the channel that stands there: `idx` and `root_idx`."""

_MOST_PLACES = 2_000_000
"""Places that are looked at for one group, some seconds' worth, before a network is refused."""


def execution_order(network: nn.Module, example: torch.Tensor) -> list[nn.Module]:
    """Layers that could be narrowed, as one forward pass runs them.

    Raises:
        InputError: if the forward pass fails, or gives something else than class scores.
    """
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


def classifier(order: Sequence[nn.Module]) -> nn.Module:
    """The layer that gives the class scores: the last that mixes its inputs.

    Raises:
        InputError: if there is none.
    """
    scoring = [module for module in order if isinstance(module, nn.Conv2d | nn.Linear)]
    if not scoring:
        raise InputError("the network has no convolution and no linear layer")
    return scoring[-1]


def dependency_graph(network: nn.Module, example: torch.Tensor) -> Mapping[nn.Module, Node]:
    """Nodes of all operations and layers that a forward pass runs, from the scores backwards.

    Raises:
        InputError: if torch-pruning cannot follow it.
    """
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


def follow(root: Node) -> dict[tuple[Node, Axis], Places]:
    """All places of the channels that a layer gives: forwards to what reads them, back to what else gives them.

    Raises:
        InputError: if there is no end of them.
    """
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
