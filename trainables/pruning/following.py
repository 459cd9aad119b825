"""Follow channels through the graph of a network: where else they stand, and what else gives them."""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

from torch import nn
from torch_pruning import ops

from trainables.errors import first_line
from trainables.pruning.channels import LAYERS, Axis, is_grouped, layer_widths
from trainables.pruning.graph import Node, Place, Places, is_dealing
from trainables.pruning.held import HeldError
from trainables.pruning.moves import Moves

_FEW_PLACES, _OF_WIDEST = 300_000, 2
"""Places that are looked at for one group before it is held: so many, or in the mean so many widest layers' each."""
_MOST_AT_ONCE = 500_000
"""Places that one reshape may make of others; the flatten of 512 channels of 31x31 pixels makes 492,032."""
_ENDLESS = (
    "its channels cannot be followed: they stand at ever more places; reshapes and shifts of whole images are not "
    "supported"
)


def widest(network: nn.Module) -> int:
    """Places along the longest axis of a layer."""
    return max(max(layer_widths(layer)) for layer in network.modules() if has_channels(layer))


def follow(root: Node, width_of_widest: int, moves: Moves) -> dict[tuple[Node, Axis], Places]:
    """All places of the channels that a layer gives: forwards to what reads them, back to what else gives them.

    Args:
        root: of the layer.
        width_of_widest: places along the longest axis of a layer, of which no node has many more.
        moves: of the graph.

    Raises:
        HeldError: if it is not known where they go, or there is no end of them.
    """
    reached: dict[tuple[Node, Axis], Places] = defaultdict(set)
    num_out = layer_widths(root.module)[0]
    waiting: list[tuple[Node, Axis, Iterable[Place]]] = [(root, "out", [Place(c, c) for c in range(num_out)])]
    num_places = 0
    while waiting:
        node, axis, places = waiting.pop()
        new = set(places) - reached.get((node, axis), set())
        if not new or (axis == "out" and has_one_channel(node.module)):
            continue
        if is_dealing(node) and moves.deals(node):
            raise HeldError(
                "a reshape deals them into rows, as for a shuffle or attention, which is not followed",
                among=_giving(reached),
            )
        reached[node, axis] |= new
        num_places += len(new)
        width = _width(node.module, axis)
        come = max(position for position, _ in new) + 1
        if come > width:
            raise HeldError(
                f"layer {_name(node)} has {width} {'outputs' if axis == 'out' else 'inputs'}, but as traced {come} "
                "channels come to it; something before it joins or splits channels, as glu, maxout or a pixel shuffle "
                "do",
                among=_giving(reached),
            )
        if num_places > max(_FEW_PLACES, _OF_WIDEST * len(reached) * width_of_widest):
            raise HeldError(_ENDLESS, among=_giving(reached))
        across = _across(node, axis, new)
        if across:
            waiting.append((node, "in" if axis == "out" else "out", across))
        # torch-pruning lists the ways to the inputs first.
        ways = node.dependencies[: len(node.inputs)] if axis == "in" else node.dependencies[len(node.inputs) :]
        moved: set[Node] = set()
        for way in ways:
            if way.target in moved:
                continue  # on all ways at once
            there, at_once = _mapped(node, axis, way, new, moves)
            if at_once:
                moved.add(way.target)
            if there is None:
                raise HeldError(_ENDLESS, among=_giving(reached))
            waiting.append((way.target, "out" if axis == "in" else "in", there))
    return reached


def _mapped(
    node: Node,
    axis: Axis,
    way: Any,  # noqa: ANN401
    places: Places,
    moves: Moves,
) -> tuple[Collection[Place] | None, bool]:
    """Where places of a node are at the end of a way, and whether of all ways to there.

    They are `None` where one reshape makes too many of them.

    Raises:
        HeldError: if it is not known where they go.
    """
    backwards = axis == "in"
    lower, upper = (way.target, node) if backwards else (node, way.target)
    there: Collection[Place] = places
    try:
        if moves.is_scale(lower, upper):
            return (), False
        move = moves.find(lower, upper, backwards=backwards)
        # What torch-pruning guesses of a reshape it may also have put behind it.
        guessing = moves.stride(lower) is None
        guesses = [(mapping, _growth(mapping)) for mapping in way.index_mapping if mapping] if guessing else []
        if move is None:
            mappings = guesses
        else:
            of_reshape = guesses[:1] if lower.type == ops.OPTYPE.RESHAPE else []
            mappings = [move, *of_reshape] if backwards else [*of_reshape, move]
        for mapping, of_each in mappings:
            if len(there) * of_each > _MOST_AT_ONCE:
                return None, False
            there = mapping(there)
    except HeldError:
        raise
    except Exception as error:  # as in `dependency_graph`
        raise HeldError(
            f"its channels cannot be followed to what reads them ({type(error).__name__}: {first_line(error)})"
        ) from error
    return there, move is not None


def _growth(mapping: Any) -> int:  # noqa: ANN401
    """How many places a mapping of torch-pruning makes of one."""
    makes: int = 1 if getattr(mapping, "reverse", True) else getattr(mapping, "_stride", 1)
    return makes


def _giving(reached: Iterable[tuple[Node, Axis]]) -> list[Node]:
    return [node for node, axis in reached if axis == "out"]


def _name(node: Node) -> str:
    """A layer's name; torch-pruning writes its kind behind it."""
    name: str = node.name
    return name.partition(" ")[0]


def has_channels(module: nn.Module) -> bool:
    """Whether a module is a layer with weights for each channel."""
    one_slope_for_all = isinstance(module, nn.PReLU) and module.num_parameters == 1
    return isinstance(module, LAYERS) and not one_slope_for_all


def _width(module: nn.Module, axis: Axis) -> float:
    """Places along an axis of a layer; any number along that of anything else."""
    return layer_widths(module)[0 if axis == "out" else 1] if has_channels(module) else math.inf


def has_one_channel(layer: nn.Module) -> bool:
    """Whether a layer gives one channel: all channels that it is multiplied with or added to are none of its own."""
    return isinstance(layer, LAYERS) and not isinstance(layer, nn.PReLU) and layer_widths(layer)[0] == 1


def _across(node: Node, axis: Axis, places: Places) -> Iterable[Place]:
    """The same channels on a node's other side; none where it mixes them."""
    layer = node.module
    if is_grouped(layer):
        num_out, num_in = (width // layer.groups for width in layer_widths(layer))
        here, there = (num_out, num_in) if axis == "out" else (num_in, num_out)
        # One channel stands for its whole block, and on its way back it meets the others of the block.
        first = {position // here: channel for position, channel in sorted(places, reverse=True)}
        return [Place(b * there + offset, channel) for b, channel in first.items() for offset in range(there)]
    return () if isinstance(layer, ops.TORCH_CONV | ops.TORCH_LINEAR) else places
