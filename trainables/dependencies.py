"""Find the channel groups of a network: torch-pruning's dependency graph, turned into a `ChannelMap`.

Of torch-pruning only the graph is used: not its importances, which pass over batch norm, and not its pruners.
"""

import copy
import re
import warnings
from typing import Any

import torch
import torch_pruning
from torch import nn
from torch_pruning import ops

from trainables.channels import (
    BATCH_NORMS,
    LAYERS,
    Axis,
    ChannelGroup,
    ChannelMap,
    Member,
    is_depthwise,
    layer_widths,
)
from trainables.errors import InputError

# Operations that move channels about or add them up, so that a normalisation layer behind them still comes first.
_PASSES_THROUGH = re.compile(r"_ConcatOp|_SplitOp|_ReshapeOp|_ElementWiseOp_\d+\(AddBackward")


def find_groups(network: nn.Module, input_shape: tuple[int, int, int]) -> ChannelMap:
    """Trace a network and find which of its channels must be removed together.

    The layer that gives the class scores keeps its outputs. The network itself is left as it was.

    Args:
        network: on any device.
        input_shape: channels, height and width of an image.

    Raises:
        InputError: if the network cannot be traced or has a layer that cannot be narrowed, naming it.
    """
    network = (
        copy.deepcopy(network).cpu().eval().requires_grad_(requires_grad=True)
    )  # the graph is read off the gradients
    names = {module: name for name, module in network.named_modules()}
    # Two images: some networks squeeze a batch of one away.
    example = torch.zeros(2, *input_shape)
    order = _execution_order(network, example)
    try:
        with warnings.catch_warnings(action="ignore"):  # on bare parameters, which are refused below where they matter
            graph = torch_pruning.DependencyGraph().build_dependency(network, example)
            found = list(graph.get_all_groups(ignored_layers=[_classifier(order)]))
    except Exception as error:  # torch-pruning fails in many ways on what it does not know
        raise InputError(
            f"the channels of this {type(network).__name__} cannot be traced ({_one_line(error)}); "
            "its forward pass must consist of ordinary layers on one image tensor"
        ) from error
    position = {module: index for index, module in enumerate(order)}
    found.sort(key=lambda group: min(position.get(item.dep.target.module, len(order)) for item in group))
    groups = tuple(_group(group, names) for group in found)
    if not groups:
        raise InputError(f"this {type(network).__name__} has no channels that could be removed")
    layers = sorted({member.layer for group in groups for member in group.members})
    return ChannelMap(
        groups=groups,
        widths={layer: layer_widths(network.get_submodule(layer)) for layer in layers},
        elementwise=frozenset(layer for layer in layers if _is_elementwise(network.get_submodule(layer))),
    )


def _is_elementwise(layer: nn.Module) -> bool:
    return isinstance(layer, BATCH_NORMS) or is_depthwise(layer)


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
        raise InputError(f"the network fails on an image of {shape}: {_one_line(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        raise InputError("the network must return one tensor of class scores, images x classes")
    return order


def _one_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _classifier(order: list[nn.Module]) -> nn.Module:
    scoring = [module for module in order if isinstance(module, nn.Conv2d | nn.Linear)]
    if not scoring:
        raise InputError("the network has no convolution and no linear layer")
    return scoring[-1]


def _group(found: Any, names: dict[nn.Module, str]) -> ChannelGroup:
    root = names[found[0].dep.target.module]
    num_channels = len(found[0].idxs)
    members: dict[tuple[str, Axis], Member] = {}
    gates: list[str] = []
    for item in found:
        node = item.dep.target
        if node.type == ops.OPTYPE.PARAMETER:
            raise InputError(f"group {root} reaches a bare parameter, which cannot be narrowed; wrap it in a layer")
        if node.module not in names:
            continue  # an operation without weights
        layer = names[node.module]
        _check(node.module, layer)
        gives_out = (
            item.dep.handler
            == torch_pruning.DependencyGraph.get_pruner_of_module(found._DG, node.module).prune_out_channels
        )
        axis: Axis = "out" if gives_out or _is_elementwise(node.module) else "in"
        if (layer, axis) in members:
            continue
        members[layer, axis] = Member(
            layer=layer, axis=axis, positions_N=torch.tensor(item.idxs), channels_N=torch.tensor(item.root_idxs)
        )
        if axis == "out" and (isinstance(node.module, BATCH_NORMS) or not _is_normalised(node)):
            gates.append(layer)
    for member in members.values():
        if len(member.positions_N) % num_channels != 0:
            raise InputError(f"group {root} meets layer {member.layer} unevenly, which is not supported")
    return ChannelGroup(name=root, num_channels=num_channels, members=tuple(members.values()), gates=tuple(gates))


def _check(module: nn.Module, layer: str) -> None:
    if not isinstance(module, LAYERS):
        raise InputError(
            f"layer {layer} is a {type(module).__name__}, whose channels cannot be removed; "
            "Conv2d, Linear and BatchNorm layers can be narrowed"
        )
    if isinstance(module, BATCH_NORMS) and not module.affine:
        raise InputError(
            f"layer {layer} is a batch norm without scale and shift, which gives no saliency; use affine=True"
        )
    if isinstance(module, nn.Conv2d) and module.groups > 1 and not is_depthwise(module):
        raise InputError(
            f"layer {layer} is a convolution in {module.groups} groups, whose channels cannot be removed; "
            "plain and depthwise convolutions can be narrowed"
        )


def _is_normalised(node: Any) -> bool:
    """Tell whether every path onwards meets a batch norm before anything else that changes the values."""
    waiting, seen = list(node.outputs), set()
    while waiting:
        following = waiting.pop()
        if following in seen or isinstance(following.module, BATCH_NORMS):
            continue
        if not _PASSES_THROUGH.match(following.name) or not following.outputs:
            return False
        seen.add(following)
        waiting.extend(following.outputs)
    return bool(node.outputs)
