"""Even widths: the size asked for, the same part of every layer, weights from the seed."""

import pytest
import torch

from orchestrator.evidence.narrow import even_network
from trainables.errors import InputError
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.pruning.channels import network_widths
from trainables.pruning.cost import count_macs
from trainables.pruning_config import Pruning


@pytest.mark.parametrize("name", ["vgg-small", "resnet20"])
@pytest.mark.parametrize("size", [0.25, 0.05])
def test_the_size_is_met_with_the_same_part_of_every_layer(name: str, size: float) -> None:
    model, shape = ModelConfig(name=name), (3, 16, 16)
    dense = build(model, num_classes=4, in_channels=3)
    network = even_network(model, num_classes=4, input_shape=shape, size=size, seed=1)
    assert count_macs(network, shape) / count_macs(dense, shape) == pytest.approx(size, rel=0.02)
    wide, narrow = network_widths(dense), network_widths(network)
    for layer in wide:
        if wide[layer][0] >= 32:  # few channels round coarsely
            assert narrow[layer][0] / wide[layer][0] == pytest.approx(size**0.5, abs=0.08), layer
    assert network(torch.zeros(2, *shape)).shape == (2, 4)


def test_layers_that_are_kept_floors_and_multiples_hold() -> None:
    model, shape = ModelConfig(name="resnet20", width=2.0), (3, 16, 16)
    dense = build(model, num_classes=4, in_channels=3)
    pruning = Pruning(keep=("layer3.2.conv1",), floors={"layer3.0.conv1": 48}, round_to=8)
    network = even_network(model, num_classes=4, input_shape=shape, size=0.3, seed=1, pruning=pruning)
    wide, narrow = network_widths(dense), network_widths(network)
    assert narrow["layer3.2.conv1"][0] == wide["layer3.2.conv1"][0]
    assert narrow["layer3.0.conv1"][0] >= 48
    assert all(outputs % 8 == 0 for layer, (outputs, _) in narrow.items() if layer != "fc")
    assert 0.27 < count_macs(network, shape) / count_macs(dense, shape) <= 0.3
    assert network(torch.zeros(2, *shape)).shape == (2, 4)


def test_weights_come_from_the_seed() -> None:
    def weights(seed: int) -> torch.Tensor:
        network = even_network(ModelConfig(width=0.25), num_classes=4, input_shape=(1, 8, 8), size=0.3, seed=seed)
        return torch.cat([parameter.flatten() for parameter in network.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_a_size_that_no_widths_have_is_refused() -> None:
    with pytest.raises(InputError, match="no even widths come within 2 %"):
        even_network(ModelConfig(width=1 / 32), num_classes=4, input_shape=(1, 8, 8), size=0.01, seed=1)
