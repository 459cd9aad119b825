"""Trace a network and follow channels through it, along torch-pruning's dependency graph.

Of torch-pruning only the graph is used: which operation reads which, and where channels stand behind a concatenation or
a flatten. Not its importances, which pass over batch norm; not its pruners; and not its walk over the graph, which does
not end on some networks.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch_pruning
from torch import nn
from torch.overrides import TorchFunctionMode
from torch_pruning import ops
from torch_pruning._helpers import _HybridIndex

from trainables.errors import InputError, first_line
from trainables.pruning.channels import BATCH_NORMS, LAYERS, Axis, is_grouped, layer_widths

Node = Any
"""torch-pruning's: `module`, the nodes that it reads (`inputs`) and that read it (`outputs`), and `dependencies`."""
Places = set[tuple[int, int]]
"""Positions along one axis of a node, each with the channel that stands there: `idx` and `root_idx`."""

_FEW_PLACES, _OF_WIDEST = 300_000, 2
"""Places that are looked at for one group before it is held: so many, or in the mean so many widest layers' each."""
_MOST_AT_ONCE = 500_000
"""Places that one reshape may make of others; the flatten of 512 channels of 31x31 pixels makes 492,032."""
_ENDLESS = (
    "its channels cannot be followed: they stand at ever more places; reshapes and shifts of whole images are not "
    "supported"
)
_ADDITIONS = (torch.add, torch.Tensor.add, torch.Tensor.add_)


class HeldError(Exception):
    """These channels stay whole; the message says why.

    Attributes:
        among: nodes that give such channels, as far as they were followed.
    """

    def __init__(self, reason: str, among: Iterable[Node] = ()) -> None:
        """Say why."""
        super().__init__(reason)
        self.among = frozenset(among)


def run_skeleton(network: nn.Module, example: torch.Tensor) -> object:
    """What a network on the meta device gives for images of which only the shape is known.

    Raises:
        InputError: if the forward pass fails, naming the part of the network in which it does.
    """
    running: list[str] = []
    hooks = []
    for name, part in network.named_modules():
        hooks += [
            part.register_forward_pre_hook(_entering(running, name)),
            part.register_forward_hook(_leaving(running)),
        ]
    try:
        with torch.no_grad():
            return network(example)
    except Exception as error:  # the user's own forward pass
        shape = "x".join(map(str, example.shape[1:]))
        part = network.get_submodule(running[-1]) if running else network
        where = f"part {running[-1]}, a {type(part).__name__}" if running and running[-1] else type(part).__name__
        raise InputError(
            f"the network fails on an image of {shape}{' in training' if network.training else ''}, in the forward "
            f"pass of {where}: {_explained(error, part)}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def _entering(running: list[str], name: str) -> Callable[..., None]:
    return lambda *_: running.append(name)


def _leaving(running: list[str]) -> Callable[..., None]:
    return lambda *_: running.__delitem__(-1)


def _explained(error: Exception, part: nn.Module) -> str:
    """What an error of a part on the meta device means to someone whose network runs on the CPU."""
    said = first_line(error)
    if "expected device" in said or "same device" in said:
        return (
            f"a tensor is not where the images are ({said}); make constants on the images' device, as by "
            "torch.ones(..., device=x.device), or register them as buffers; layers belong into an nn.ModuleList, as a "
            "plain list hides them"
        )
    if "device_type" in said and "'meta'" in said:
        return (
            f"layers are traced where an autocast has no device ({said}); give it one, as by "
            'torch.autocast("cpu" if x.is_meta else x.device.type)'
        )
    if "meta tensor" in said.lower():
        if isinstance(part, BATCH_NORMS) and part.momentum is None:
            return "its momentum=None, an average over all batches, is not supported; give it a number, such as 0.1"
        return (
            f"it asks for values of a tensor ({said}), but only shapes are known while layers are traced; leave out "
            "branches on what images hold, and compute with tensors alone, as by torch.where"
        )
    return said


def execution_order(network: nn.Module, example: torch.Tensor) -> tuple[list[nn.Module], int]:
    """Layers that could be narrowed, as one forward pass runs them, and how many class scores it gives.

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
        output = run_skeleton(network, example)
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        raise InputError("the network must return one tensor of class scores, images x classes")
    return order, output.shape[1]


def classifier(order: Sequence[nn.Module]) -> nn.Module:
    """The layer that gives the class scores, where one that can be narrowed does: the last that mixes its inputs.

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
        with warnings.catch_warnings(action="ignore"), _AddsNoZero():  # warnings on bare parameters, which are held
            graph = torch_pruning.DependencyGraph().build_dependency(network, example)
    except Exception as error:  # torch-pruning fails in many ways on what it does not know
        raise InputError(
            f"the channels of this {type(network).__name__} cannot be traced ({first_line(error)}); "
            "its forward pass must consist of ordinary layers on one image tensor"
        ) from error
    nodes: Mapping[nn.Module, Node] = graph.module2node
    return nodes


class _AddsNoZero(TorchFunctionMode):
    """Leaves additions of the number zero out of the graph, which does not know numbers: Python's `sum` begins so."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if function in _ADDITIONS and not kwargs and type(args[1]) in (int, float) and args[1] == 0:
            there = args[0]
            if isinstance(there, torch.Tensor) and there.is_floating_point():  # others change their type
                return there if function is torch.Tensor.add_ else there.clone()
        return function(*args, **kwargs or {})


def widest(network: nn.Module) -> int:
    """Places along the longest axis of a layer."""
    return max(max(layer_widths(layer)) for layer in network.modules() if has_channels(layer))


def follow(root: Node, width_of_widest: int) -> dict[tuple[Node, Axis], Places]:
    """All places of the channels that a layer gives: forwards to what reads them, back to what else gives them.

    Args:
        root: of the layer.
        width_of_widest: places along the longest axis of a layer, of which no node has many more.

    Raises:
        HeldError: if torch-pruning does not know where they go, or there is no end of them.
    """
    reached: dict[tuple[Node, Axis], Places] = defaultdict(set)
    num_out = layer_widths(root.module)[0]
    waiting: list[tuple[Node, Axis, Iterable[Any]]] = [(root, "out", [_HybridIndex(c, c) for c in range(num_out)])]
    num_places = 0
    while waiting:
        node, axis, places = waiting.pop()
        new = set(places) - reached.get((node, axis), set())
        if not new or (axis == "out" and has_one_channel(node.module)):
            continue
        if _is_joined_with_a_constant(node):
            raise HeldError(
                "torch.cat joins them with what no layer gives, such as the image or coordinates, which is followed "
                "only where it stands last, behind one tensor: torch.cat([channels, image], 1)"
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
        for way in ways:
            there = _mapped(way, new)
            if there is None:
                raise HeldError(_ENDLESS, among=_giving(reached))
            waiting.append((way.target, "out" if axis == "in" else "in", there))
    return reached


def _mapped(way: Any, places: Collection[Any]) -> Collection[Any] | None:  # noqa: ANN401
    """Where places are at the end of a way; `None` where one reshape makes too many of them.

    Raises:
        HeldError: if torch-pruning does not know where they go.
    """
    try:
        for mapping in way.index_mapping:
            of_each = 1 if getattr(mapping, "reverse", True) else getattr(mapping, "_stride", 1)
            if len(places) * of_each > _MOST_AT_ONCE:
                return None
            places = places if mapping is None else mapping(places)
    except Exception as error:  # as in `dependency_graph`
        raise HeldError(
            "its channels cannot be followed to what reads them, as where a recurrent layer does "
            f"({type(error).__name__}: {first_line(error)})"
        ) from error
    return places


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


def _is_joined_with_a_constant(node: Node) -> bool:
    """Whether channels are joined with a tensor without a gradient, which torch-pruning passes over, unless at the end.

    It takes them all to stand at the beginning then. Where images are joined side by side that is true.
    """
    if node.type != ops.OPTYPE.CONCAT or node.module.concat_sizes is None or node.module.offsets is not None:
        return False
    num_dims = len(node.grad_fn._input_metadata[0].shape)
    dim = (node.grad_fn._saved_dim + 2**63) % 2**64 - 2**63  # kept without its sign
    if dim % num_dims != (1 if num_dims == 4 else num_dims - 1):
        return False
    followed = [before is not None for before, _ in node.grad_fn.next_functions]
    return not all(followed) and not (followed[0] and sum(followed) == 1)


def has_one_channel(layer: nn.Module) -> bool:
    """Whether a layer gives one channel: all channels that it is multiplied with or added to are none of its own."""
    return isinstance(layer, LAYERS) and not isinstance(layer, nn.PReLU) and layer_widths(layer)[0] == 1


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
