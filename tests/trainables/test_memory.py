"""What training keeps is what was foretold from shapes alone."""

import pytest
import torch
from torch import nn

from trainables import memory
from trainables.config import CascadeConfig
from trainables.errors import InputError
from trainables.memory import Footprint, footprint, require_room_for_network
from trainables.model_config import ModelConfig
from trainables.networks.models import BUILT_IN, build
from trainables.recipe import Recipe

SHAPE = (3, 16, 16)
ROUND = Footprint(weights=1000, kept=10, kept_an_image=100, shown_an_image=30)


def kept_in_training(network, num_images, precision):
    """Bytes that a real pass keeps for its backward pass, parameters and buffers apart."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*network.parameters(), *network.buffers()]}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is given out twice
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"),
    ):
        network.train()(torch.rand(num_images, *SHAPE))
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["vgg-small", "resnet20"])
def test_a_real_pass_keeps_as_much_as_shapes_say(name, precision):
    network = build(ModelConfig(name=name, width=0.25), num_classes=4, in_channels=3)
    known = footprint(network, SHAPE, precision=precision)
    assert known.weights == 4 * sum(parameter.numel() for parameter in network.parameters())
    for number in (6, 11):
        seen = kept_in_training(network, number, precision)
        assert known.kept + number * known.kept_an_image == pytest.approx(seen, rel=0.01)


def test_the_network_is_left_as_it_was():
    network = build(ModelConfig(name="vgg-small", width=0.25), num_classes=4, in_channels=3).eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    footprint(network.requires_grad_(requires_grad=False), SHAPE, precision="fp32")
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_the_widest_layer_is_what_validation_takes():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    known = footprint(network, SHAPE, precision="fp32")
    assert known.shown_an_image == 4 * 2 * 8 * 16 * 16


class LooksAtValues(nn.Module):
    def __init__(self):
        super().__init__()
        self.scores = nn.Conv2d(3, 4, 16)

    def forward(self, x):
        scores = self.scores(x).flatten(1)
        return scores if float(scores.sum()) > 0 else -scores


def test_of_a_network_that_looks_at_values_nothing_is_known():
    assert footprint(LooksAtValues(), SHAPE, precision="fp32") is None


@pytest.mark.parametrize(
    ("recipe", "copies", "images"),
    [
        ({}, 3, 128),
        ({"momentum": 0.0}, 2, 128),
        ({"optimizer": "adamw", "learning_rate": 0.01}, 4, 128),
        ({"ema": 0.9}, 4, 128),
        ({"accumulate": 3}, 3, 43),
        ({"batch_size": 4096}, 3, 200),  # no more images than there are
    ],
)
def test_a_teacher_takes_its_weights_with_what_is_remembered_of_them_and_a_micro_batch(recipe, copies, images):
    assert ROUND.teacher_peak(Recipe(**recipe), num_train=200, num_val=1) == 1000 * copies + 10 + 100 * images


def test_validation_counts_where_it_takes_more():
    assert ROUND.teacher_peak(Recipe(batch_size=2), num_train=200, num_val=100) == 3000 + 30 * 100
    assert ROUND.teacher_peak(Recipe(batch_size=2), num_train=200, num_val=10_000) == 3000 + 30 * 512


@pytest.mark.parametrize(("schedule", "copies"), [("joint", 2 + 3 + 2 * 3), ("sequential", 2 + 3 + 2)])
def test_a_cascade_takes_each_level_that_is_trained_at_once(schedule, copies):
    config = CascadeConfig(macs_kept=(0.5, 0.3, 0.1), schedule=schedule)
    assert ROUND.cascade_peak(config, num_train=200, num_val=1) == 1000 * copies + 10 + 100 * 128


@pytest.mark.parametrize("name", BUILT_IN)
def test_networks_that_do_not_fit_are_refused(monkeypatch, name):
    config = ModelConfig(name=name, width=0.25)
    network = build(config, num_classes=3, in_channels=1)
    needed = 8 * sum(parameter.numel() for parameter in network.parameters())
    monkeypatch.setattr(memory, "machine_bytes", lambda: needed)
    require_room_for_network(config, num_classes=3, in_channels=1)
    monkeypatch.setattr(memory, "machine_bytes", lambda: needed - 1)
    with pytest.raises(InputError, match=r"model\.width is 0\.25, at which weights .* this machine has"):
        require_room_for_network(config, num_classes=3, in_channels=1)
