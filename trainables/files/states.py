"""The state of a stage or trial on disk: one safetensors file, which carries its plain values as metadata."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from trainables.errors import InputError
from trainables.files.whole import written_whole

if TYPE_CHECKING:  # of the files that train, so that reading a network takes torch and safetensors alone
    from trainables.tensors import Tensors


def on_cpu(tensors: Mapping[str, torch.Tensor]) -> "Tensors":
    """Copies on the CPU, as safetensors refuses tensors that share memory."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def save_state(path: Path, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
    """Write tensors and plain values as one file, whole or not at all, even if the machine stops meanwhile."""
    with written_whole(path) as aside:
        save_file(on_cpu(tensors), aside, metadata={"values": json.dumps(values)})


def load_state(path: Path) -> "tuple[Tensors, dict[str, Any]]":
    """Read what `save_state` wrote.

    Raises:
        InputError: if the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()["values"])
            return {name: file.get_tensor(name) for name in file.keys()}, values  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is missing or damaged: {error}") from error
