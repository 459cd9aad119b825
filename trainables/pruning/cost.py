"""What a network costs: multiply-accumulates, parameters and time, of a network and of widths that it might have.

MACs count convolutions, linear layers and other matrix products (attention), one for each multiply-add, as
`torch.utils.flop_counter` finds them; biases, normalisation and pooling count nothing. Time is a sum over layers, by a
table that was measured once (`layer_times.py`), so that whoever has the table finds the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trainables.errors import InputError, first_line
from trainables.pruning.channels import ChannelMap, is_blockwise, layer_widths, skeleton, tensor_axes
from trainables.pruning_config import SizeUnit

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


def _trace(network: nn.Module, input_shape: tuple[int, int, int]) -> tuple[int, dict[str, float]]:
    """MACs of one image, and how often it uses each weight of a convolution (output pixels) or linear layer."""
    network = skeleton(network)
    uses: dict[str, float] = {}

    def count(name: str, layer: nn.Module, output: torch.Tensor) -> None:
        channels = output.shape[1] if isinstance(layer, nn.Conv2d) else output.shape[-1]
        # Of two images; the first dimension may hold windows or pixels of theirs, or what is computed once for both.
        uses[name] = uses.get(name, 0) + output.numel() / (2 * channels)

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
    """MACs, parameters or milliseconds as a function of how many channels each group keeps, in closed form.

    A weight with o outputs and i inputs costs `unit · o · i`; o and i are linear in the groups' counts.
    Shape legend: L weights, G groups, B choices of counts.

    Attributes:
        fixed: what no group changes, such as attention's MACs.
        unit_L: cost of one output and one input channel.
        out_L: outputs that no group owns.
        in_L: inputs that no group owns; of a grouped convolution those of one block, which go only with it; 1 where a
            weight has no inputs.
        out_LG: outputs that come with each channel of a group.
        in_LG: inputs that come with each channel of a group.
    """

    fixed: float
    unit_L: FloatVector
    out_L: FloatVector
    in_L: FloatVector
    out_LG: FloatVector
    in_LG: FloatVector

    def total(self, counts_G: IntVector) -> float:
        """Cost when group g keeps `counts_G[g]` channels."""
        return float(self.totals(counts_G[None])[0])

    def totals(self, counts_BG: IntVector) -> FloatVector:
        """Costs of several choices of counts at once."""
        totals_B: FloatVector = self.fixed + (self._outputs(counts_BG) * self._inputs(counts_BG)) @ self.unit_L
        return totals_B

    def saved(self, counts_G: IntVector, removed_G: IntVector) -> FloatVector:
        """What is saved by removing `removed_G[g]` channels of group g alone, for each g.

        Of a weight with o outputs and i inputs, of which p and q come with each of r channels that go, what is saved is
        o·i − (o − r·p)·(i − r·q) = r·(q·o + p·i) − r²·p·q.
        """
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


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerTime:
    """What a layer takes, in milliseconds: `fixed + output · outputs + product · outputs · inputs`.

    Attributes:
        fixed_ms: at any width.
        output_ms: for each output.
        product_ms: for each output and input; 0 for a blockwise layer.
    """

    fixed_ms: float
    output_ms: float
    product_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyTable:
    """The milliseconds of a network as a function of its layers' widths.

    Attributes:
        layers: what each layer takes whose channels can be removed, by name.
        fixed_ms: what all else takes; below 0 where the layers one by one took longer than the whole.
        full_ms: what the network takes that was measured, by this table.
        num_threads: CPU threads it was measured with.
        batch_size: images a batch.
    """

    layers: Mapping[str, LayerTime]
    fixed_ms: float
    full_ms: float
    num_threads: int
    batch_size: int

    def total(self, network: nn.Module) -> float:
        """Milliseconds of a network that has these layers, at whatever widths."""
        total = self.fixed_ms
        for name, time in self.layers.items():
            num_out, num_in = layer_widths(network.get_submodule(name))
            total += time.fixed_ms + time.output_ms * num_out + time.product_ms * num_out * num_in
        return total

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON, from which the very same table is made again."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LatencyTable":
        """Make one from what `to_dict` gave.

        Raises:
            InputError: if it is something else.
        """
        try:
            layers = {name: LayerTime(**times) for name, times in values["layers"].items()}
            return cls(**{**values, "layers": layers})
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f"the table of layers' times is damaged ({error!r}); search under another name") from error


def size_model(
    network: nn.Module,
    channel_map: ChannelMap,
    input_shape: tuple[int, int, int],
    *,
    unit: SizeUnit,
    latency: LatencyTable | None = None,
) -> SizeModel:
    """The closed form of what sizes are counted in.

    Args:
        network: any network of one image tensor.
        channel_map: its groups.
        input_shape: channels, height and width of an image.
        unit: what is counted.
        latency: the table that sizes in latency take.

    Raises:
        InputError: if sizes are in latency and there is no table.
    """
    if unit == "params":
        return params_model(network, channel_map)
    if unit == "macs":
        return macs_model(network, channel_map, input_shape)
    return latency_model(network, channel_map, require_table(latency))


def require_table(latency: LatencyTable | None) -> LatencyTable:
    """The table that sizes in latency take.

    Raises:
        InputError: if there is none.
    """
    if latency is None:
        raise InputError(
            "pruning.size_in is 'latency', but no layers' times were measured; set cascade.pruning.size_in of the "
            "search itself to latency, and not in its space alone"
        )
    return latency


def latency_model(network: nn.Module, channel_map: ChannelMap, table: LatencyTable) -> SizeModel:
    """The closed form of the milliseconds; layers that the table does not know are in its fixed part."""
    weights = []
    for name, time in table.layers.items():
        layer = network.get_submodule(name)
        num_out, num_in = layer_widths(layer)
        weights.append(_Weight(layer=name, num_out=num_out, num_in=1, unit=time.output_ms, has_inputs=False))
        if not is_blockwise(layer):
            weights.append(_Weight(layer=name, num_out=num_out, num_in=num_in, unit=time.product_ms, has_inputs=True))
    return _closed_form(weights, table.total(network), channel_map)


def macs_model(network: nn.Module, channel_map: ChannelMap, input_shape: tuple[int, int, int]) -> SizeModel:
    """Derive the MACs' closed form from one trace of the network."""
    macs, uses = _trace(network, input_shape)
    layers = {name: network.get_submodule(name) for name in uses}
    weights = [
        _Weight(
            layer=name,
            num_out=_weight(layer).shape[0],
            # A grouped convolution's weight has the inputs of one block, and so has the closed form.
            num_in=_weight(layer).shape[1],
            unit=uses[name] * _pixels(layer),
            has_inputs=True,
        )
        for name, layer in layers.items()
    ]
    return _closed_form(weights, macs, channel_map)


def params_model(network: nn.Module, channel_map: ChannelMap) -> SizeModel:
    """Derive the closed form of the number of parameters."""
    weights = []
    for name in channel_map.widths:
        layer = network.get_submodule(name)
        for tensor, parameter in layer.named_parameters(recurse=False):
            axes = tensor_axes(layer, tensor)
            num_out, num_in = parameter.shape[0], parameter.shape[1] if len(axes) > 1 else 1
            weights.append(
                _Weight(
                    layer=name,
                    num_out=num_out,
                    num_in=num_in,
                    unit=parameter.numel() // (num_out * num_in),
                    has_inputs=len(axes) > 1,
                )
            )
    return _closed_form(weights, count_params(network), channel_map)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Weight:
    """A row of the closed form; one without inputs grows with its layer's outputs alone."""

    layer: str
    num_out: int
    num_in: int
    unit: float
    has_inputs: bool


def _closed_form(weights: Sequence[_Weight], total: float, channel_map: ChannelMap) -> SizeModel:
    out_LG, in_LG = np.zeros((2, len(weights), len(channel_map.groups)))
    rows: dict[str, list[int]] = {}
    for row, weight in enumerate(weights):
        rows.setdefault(weight.layer, []).append(row)
    for column, group in enumerate(channel_map.groups):
        for member in group.members:
            for row in rows.get(member.layer, ()):
                if member.axis == "out":
                    out_LG[row, column] += len(member.positions_N) / group.num_channels
                elif weights[row].has_inputs:
                    in_LG[row, column] += len(member.positions_N) / group.num_channels
    full_G = np.array([group.num_channels for group in channel_map.groups])
    unit_L, out_L, in_L = (
        np.array([getattr(weight, name) for weight in weights], np.float64) for name in ("unit", "num_out", "num_in")
    )
    return SizeModel(
        fixed=total - float((out_L * in_L) @ unit_L),
        unit_L=unit_L,
        out_L=out_L - out_LG @ full_G,
        in_L=in_L - in_LG @ full_G,
        out_LG=out_LG,
        in_LG=in_LG,
    )


def _pixels(layer: nn.Module) -> int:
    return int(np.prod(layer.kernel_size)) if isinstance(layer, nn.Conv2d) else 1


def _weight(layer: nn.Module) -> torch.Tensor:
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    return layer.weight
