"""Tensors by name: put under a prefix, told from others by a digest, and buffers that a network does not save."""

import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import nn

Tensors = dict[str, torch.Tensor]


def prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The same tensors under `prefix.name`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unprefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """The tensors under `prefix.`, by what follows it."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def unsaved_buffers(network: nn.Module) -> Tensors:
    """Buffers that a network has and its state dict has not, by name."""
    saved = network.state_dict()
    return {name: buffer for name, buffer in network.named_buffers() if name not in saved}


def load_unsaved(network: nn.Module, buffers: Mapping[str, torch.Tensor]) -> None:
    """Put back what `unsaved_buffers` gave; those that are not given, as by earlier versions, stay."""
    for name, buffer in unsaved_buffers(network).items():
        if name in buffers:
            buffer.copy_(buffers[name])


def all_finite(tensors: Iterable[torch.Tensor]) -> bool:
    """Whether no value of any is infinite or not a number."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors)


def laid_out(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A copy on a parameter's device, which lies in memory as the parameter does where both have one shape.

    Files hold tensors row by row, a network's may lie channels last; torch's fused optimisers go by memory alone.
    """
    if tensor.shape != parameter.shape:
        return tensor.to(parameter.device).clone()
    return torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def tensors_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Digest of tensors' names, types, shapes and values; where they lie does not count."""
    sums = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sums.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sums.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return sums.hexdigest()[:32]
