"""What a network costs: multiply-accumulates and parameters, of a network and of widths that it might have.

MACs count convolutions, linear layers and other matrix products (attention), one for each multiply-add, as
`torch.utils.flop_counter` finds them; biases, normalisation and pooling count nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trainables.channels import ChannelMap, skeleton
from trainables.errors import InputError, first_line

FloatVector = npt.NDArray[np.float64]
IntVector = npt.NDArray[np.int64]


def count_params(network: nn.Module) -> int:
    """Number of parameters; those that are shared count once."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of one forward pass on one image of channels x height x width.

    Raises:
        InputError: if the network fails on such an image.
    """
    macs, _ = _trace(network, input_shape)
    return macs


def _trace(network: nn.Module, input_shape: tuple[int, int, int]) -> tuple[int, dict[str, int]]:
    """MACs of one image, and how often it uses each weight of a convolution (output pixels) or linear layer."""
    network = skeleton(network)
    uses: dict[str, int] = {}

    def count(name: str, layer: nn.Module, output: torch.Tensor) -> None:
        pixels = output[0].numel() // (output.shape[1] if isinstance(layer, nn.Conv2d) else output.shape[-1])
        uses[name] = uses.get(name, 0) + pixels

    for name, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(lambda layer, _inputs, output, name=name: count(name, layer, output))
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(2, *input_shape, device="meta"))
    except Exception as error:  # the user's own forward pass
        shape = "x".join(map(str, input_shape))
        raise InputError(
            f"the MACs of the network on an image of {shape} cannot be counted: {first_line(error)}"
        ) from error
    return counter.get_total_flops() // 4, uses  # two images, and two operations for each multiply-add


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SizeModel:
    """MACs as a function of how many channels each group keeps, in closed form.

    A layer with o outputs and i inputs costs `unit · o · i`; o and i are linear in the groups' counts.
    Shape legend: L layers, G groups, B choices of counts.

    Attributes:
        fixed: MACs outside these layers (attention), which no group changes.
        unit_L: MACs for one output and one input channel.
        out_L: outputs that no group owns.
        in_L: inputs that no group owns; of a grouped convolution those of one block, which go only with it.
        out_LG: outputs that come with each channel of a group.
        in_LG: inputs that come with each channel of a group.
    """

    fixed: float
    unit_L: FloatVector
    out_L: FloatVector
    in_L: FloatVector
    out_LG: FloatVector
    in_LG: FloatVector

    def macs(self, counts_G: IntVector) -> float:
        """MACs when group g keeps `counts_G[g]` channels."""
        return float(self.macs_each(counts_G[None])[0])

    def macs_each(self, counts_BG: IntVector) -> FloatVector:
        """MACs of several choices of counts at once."""
        macs_B: FloatVector = self.fixed + (self._outputs(counts_BG) * self._inputs(counts_BG)) @ self.unit_L
        return macs_B

    def saved(self, counts_G: IntVector, removed_G: IntVector) -> FloatVector:
        """MACs saved by removing `removed_G[g]` channels of group g alone, for each g."""
        weighted_out_L = self.unit_L * self._outputs(counts_G)
        weighted_in_L = self.unit_L * self._inputs(counts_G)
        linear_G = self.in_LG.T @ weighted_out_L + self.out_LG.T @ weighted_in_L
        square_G = (self.unit_L[:, None] * self.out_LG * self.in_LG).sum(axis=0)
        saved: FloatVector = removed_G * linear_G - removed_G.astype(np.float64) ** 2 * square_G
        return saved

    def _outputs(self, counts_G: IntVector) -> FloatVector:
        outputs: FloatVector = self.out_L + counts_G @ self.out_LG.T
        return outputs

    def _inputs(self, counts_G: IntVector) -> FloatVector:
        inputs: FloatVector = self.in_L + counts_G @ self.in_LG.T
        return inputs


def size_model(network: nn.Module, channel_map: ChannelMap, input_shape: tuple[int, int, int]) -> SizeModel:
    """Derive the closed form from one trace of the network."""
    macs, uses = _trace(network, input_shape)
    names = list(uses)
    layers = [network.get_submodule(name) for name in names]
    out_LG, in_LG = np.zeros((2, len(names), len(channel_map.groups)))
    for column, group in enumerate(channel_map.groups):
        for member in group.members:
            if member.layer in uses:
                matrix = out_LG if member.axis == "out" else in_LG
                matrix[names.index(member.layer), column] += len(member.positions_N) / group.num_channels
    full_G = np.array([group.num_channels for group in channel_map.groups])
    unit_L = np.array([uses[name] * _pixels(layer) for name, layer in zip(names, layers, strict=True)], np.float64)
    return SizeModel(
        fixed=macs - float((_outputs(layers) * _inputs(layers)) @ unit_L),
        unit_L=unit_L,
        out_L=_outputs(layers) - out_LG @ full_G,
        in_L=_inputs(layers) - in_LG @ full_G,
        out_LG=out_LG,
        in_LG=in_LG,
    )


def _pixels(layer: nn.Module) -> int:
    return int(np.prod(layer.kernel_size)) if isinstance(layer, nn.Conv2d) else 1


def _outputs(layers: Sequence[nn.Module]) -> FloatVector:
    return np.array([_weight(layer).shape[0] for layer in layers], np.float64)


def _inputs(layers: Sequence[nn.Module]) -> FloatVector:
    # A grouped convolution's weight has the inputs of one block, and so has the closed form.
    return np.array([_weight(layer).shape[1] for layer in layers], np.float64)


def _weight(layer: nn.Module) -> torch.Tensor:
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    return layer.weight
