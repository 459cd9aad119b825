"""A network as a folder that MLflow loads and serves: an exported program, so that nothing is unpickled.

The program takes images as float32 in [0, 1] of shape (N, C, H, W) and gives a probability for each class: what `mlflow
models serve` answers needs no further knowledge of the network.
"""

import importlib.metadata
from pathlib import Path

import torch
from torch import nn

from trainables.files.checkpoint import load_network
from trainables.files.input_spec import InputSpec
from trainables.networks.models import Builder

_EXAMPLE = 2  # images; torch.export takes a batch of one for a fixed size


class ServedNetwork(nn.Module):
    """A network with its normalisation before it and probabilities after it."""

    mean_C11: torch.Tensor
    std_C11: torch.Tensor

    def __init__(self, network: nn.Module, spec: InputSpec) -> None:
        """Take the network and what it expects."""
        super().__init__()
        self.network = network
        self.multi_label = spec.multi_label
        self.register_buffer("mean_C11", torch.tensor(spec.mean)[:, None, None])
        self.register_buffer("std_C11", torch.tensor(spec.std)[:, None, None])

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Probabilities of each class, of shape (N, K), for images in [0, 1]."""
        logits_NK: torch.Tensor = self.network((images_NCHW - self.mean_C11) / self.std_C11)
        return logits_NK.sigmoid() if self.multi_label else logits_NK.softmax(dim=1)


def package_network(network: Path, destination: Path, *, builder: Builder | None = None) -> None:
    """Write a saved network as an MLflow model.

    Args:
        network: folder as `checkpoint.save_network` wrote it.
        destination: folder to write, which is not there yet.
        builder: for a network of the user's own, its function.

    Raises:
        InputError: if the network is missing or damaged.
        Exception: whatever `torch.export` raises of a network that it cannot express.
    """
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    saved = load_network(network, builder=builder)
    spec = saved.input
    images = np.random.default_rng(0).random((_EXAMPLE, *spec.shape), dtype=np.float32)
    mlflow.pytorch.save_model(
        ServedNetwork(saved.network, spec).eval(),
        str(destination),
        input_example=images,
        signature=ModelSignature(
            inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *spec.shape))]),
            outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, spec.num_classes))]),
        ),
        pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in ("mlflow", "numpy", "torch")],
        serialization_format="pt2",
        metadata={"class_names": list(spec.class_names), "input": "float32 images in [0, 1], of shape N, C, H, W"},
    )
