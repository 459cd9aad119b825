"""Weights that someone gives a network: read from a file, and checked to be those that it needs."""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.errors import InputError, first_line

_COUNTER = "num_batches_tracked"  # of batches that a batch norm has seen: no weight depends on it
_WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
# Torchvision's networks with heads that are there for training alone, and how the names of those begin.
_HEADS = {"GoogLeNet": ("aux1.", "aux2."), "Inception3": ("AuxLogits.",)}


def load_weights(network: nn.Module, path: Path) -> None:
    """Read a teacher's weights into a network: safetensors, or a plain state dict; nothing else is unpickled.

    The state dict may lie under `state_dict`, `model` or `model_state_dict`, and its names may begin as those of a
    network that DistributedDataParallel or `torch.compile` wraps. Auxiliary heads of torchvision's GoogLeNet and
    Inception v3, which are there for training alone, are left out. What the file is called does not matter.

    Raises:
        InputError: if the file is missing or damaged, or a tensor is missing, unknown, of another shape or kind, or not
            finite.
    """
    if not path.is_file():
        raise InputError(f"model.weights is {path}, but there is no such file")
    try:
        given = _read_tensors(path)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(f"model.weights is {path}, but it cannot be read: {first_line(error)}") from error
    except Exception as error:  # UnpicklingError: the file is none of torch's, or holds more than plain values
        raise InputError(
            f"model.weights is {path}, but it is damaged or no file of tensors, or holds more than a plain state dict; "
            "save network.state_dict() itself"
        ) from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(given, dict) and isinstance(given.get(key), dict):
            given = given[key]
            break
    given = _counted(_without_heads(_unwrapped(given, network), network), network)
    where = f"model.weights {path}"
    check_shapes(given, network, where=where)
    check_kinds(given, network, where=where)
    check_values(given, network, where=where)
    network.load_state_dict(versioned(given, network))


def _read_tensors(path: Path) -> Any:  # noqa: ANN401 - whatever lies there
    with path.open("rb") as file:
        head = file.read(9)
        is_torchs = head.startswith((b"PK", b"\x80"))  # a ZIP archive, or in former times a pickle
        # Safetensors begin with eight bytes of length, then JSON; of a damaged one the name is left.
        if head[8:] == b"{" or (path.suffix == ".safetensors" and not is_torchs):
            return load_file(path)
        file.seek(0)
        return torch.load(file, "cpu", weights_only=True)


def _unwrapped(given: Any, network: nn.Module) -> Any:  # noqa: ANN401 - whatever was read
    """A state dict with the names of the network itself, where all of them begin as those of one that is wrapped."""
    own = network.state_dict().keys()
    while isinstance(given, dict) and not own & given.keys():
        prefix = next((p for p in _WRAPPERS if given and all(str(name).startswith(p) for name in given)), None)
        if prefix is None:
            break
        given = {name.removeprefix(prefix): value for name, value in given.items()}
    return given


def _without_heads(given: Any, network: nn.Module) -> Any:  # noqa: ANN401
    """Without the auxiliary heads that torchvision trains by default, where the network is built without them."""
    kind = type(network)
    heads = _HEADS.get(kind.__name__, ()) if kind.__module__.startswith("torchvision.models.") else ()
    if isinstance(given, dict) and heads:
        own = network.state_dict()
        left_out = [name for name in given if str(name).startswith(heads) and name not in own]
        given = copy.copy(given)  # with what it says of versions
        for name in left_out:
            del given[name]
    return given


def _counted(given: Any, network: nn.Module) -> Any:  # noqa: ANN401
    """With the counters of batch norms, which files from before there were any lack; torch takes these as they are."""
    own = network.state_dict()
    if isinstance(given, dict):
        given = copy.copy(given)  # with what it says of versions
        given.update({name: own[name] for name in own if name.endswith(_COUNTER) and name not in given})
    return given


def versioned(tensors: Mapping[str, torch.Tensor], network: nn.Module) -> Mapping[str, torch.Tensor]:
    """A state dict that says of which version its layers are; plain tensors by name are of the network's own.

    Some layers refuse to load what says nothing (torchvision's MNASNet), or take it for older than it is.
    """
    state = OrderedDict(tensors)
    state._metadata = getattr(tensors, "_metadata", None) or network.state_dict()._metadata  # type: ignore[attr-defined]
    return state


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
        if tensor.layout is not torch.strided or (_kind(tensor) != _kind(wanted) and not name.endswith(_COUNTER)):
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
