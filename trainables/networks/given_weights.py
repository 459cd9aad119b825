"""Tensors by name that someone gives a network: that they are those that it needs."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.errors import InputError

COUNTER = "num_batches_tracked"
"""Of batches that a batch norm has seen: no weight depends on it."""


def check_shapes(given: object, network: nn.Module, *, where: str) -> None:
    """Compare tensors with what a network needs, name by name.

    Raises:
        InputError: naming the first parameter that differs, and both shapes.
    """
    if not isinstance(given, dict) or not all(isinstance(value, torch.Tensor) for value in given.values()):
        raise InputError(f"{where} is not a state dict: names with tensors")
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in given:
            raise InputError(f"{where} lacks {name}, of shape {_shape(tensor)}; is it of another network?")
        if given[name].shape != tensor.shape:
            raise InputError(
                f"{where} has {name} of shape {_shape(given[name])}, but the network needs {_shape(tensor)}; "
                "check model.name, model.width and the number of classes"
            )
    for name in given:
        if name not in wanted:
            raise InputError(f"{where} has {name}, which the network does not have; is it of another network?")


def check_kinds(given: Mapping[str, torch.Tensor], network: nn.Module, *, where: str) -> None:
    """Refuse tensors that torch would take for numbers that they are not; floating ones may be wider or narrower.

    Raises:
        InputError: naming the first one, and both kinds.
    """
    for name, wanted in network.state_dict().items():
        tensor = given[name]
        if tensor.layout is not torch.strided or (_kind(tensor) != _kind(wanted) and not name.endswith(COUNTER)):
            given_as = f"{tensor.layout} of {tensor.dtype}" if tensor.layout is not torch.strided else f"{tensor.dtype}"
            raise InputError(
                f"{where} has {name} as {given_as}, but the network needs {wanted.dtype}; give dense weights of that "
                "kind, such as those from before a quantisation"
            )


def _kind(tensor: torch.Tensor) -> str:
    return "floating" if tensor.is_floating_point() else "complex" if tensor.is_complex() else "integer"


def check_values(given: Mapping[str, torch.Tensor], network: nn.Module, *, where: str) -> None:
    """Refuse parameters and statistics that no network can compute with; constants may be infinite, as masks are.

    Raises:
        InputError: naming the first one, and such a value.
    """
    for layer_name, layer in network.named_modules():
        statistics = layer.named_buffers(recurse=False) if isinstance(layer, _BatchNorm) else ()
        for key, wanted in (*layer.named_parameters(recurse=False), *statistics):
            name = f"{layer_name}.{key}" if layer_name else key
            wrong = None
            if name in given and wanted.is_floating_point():
                tensor = given[name].to(wanted.dtype)
                if not bool(tensor.isfinite().all()):
                    wrong = f"{float(tensor[~tensor.isfinite()][0])}, but all must be finite"
                elif key == "running_var" and bool((tensor < 0).any()):
                    wrong = f"{float(tensor.min()):.4g}, but variances must not be below 0"
            if wrong is not None:
                raise InputError(
                    f"{where} has {name} with the value {wrong}; is it of a training that diverged? Give an earlier "
                    "checkpoint"
                )


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
