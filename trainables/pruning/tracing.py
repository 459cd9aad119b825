"""Run a network on shapes alone: whether its forward pass works, which layers it runs, and which gives the scores."""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from trainables.errors import InputError, first_line
from trainables.pruning.channels import BATCH_NORMS, LAYERS


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
