"""What is computed in which precision, and that it is fit to train."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from trainables.precision import autocast
from trainables.recipe import Recipe

BF16 = Recipe(precision="bf16")
CPU = torch.device("cpu")


def precision_of(layer: nn.Conv2d, image_channels: int) -> torch.dtype:
    with autocast(BF16, CPU):
        answer: torch.Tensor = layer(torch.ones(2, image_channels, 4, 4))
    return answer.dtype


@pytest.mark.parametrize(
    ("layer", "precision"),
    [
        (nn.Conv2d(4, 4, 3, groups=4, stride=2), torch.float32),
        (nn.Conv2d(4, 8, 3, groups=4), torch.float32),
        (nn.Conv2d(4, 4, 3, groups=2), torch.bfloat16),
        (nn.Conv2d(4, 4, 1), torch.bfloat16),
        (nn.Conv2d(1, 4, 3), torch.bfloat16),  # of images in grey
    ],
)
def test_on_a_processor_depthwise_convolutions_alone_stay_in_float32(layer: nn.Conv2d, precision: torch.dtype) -> None:
    assert precision_of(layer, layer.in_channels) == precision
    assert layer.weight.dtype == torch.float32


def test_fp32_changes_nothing() -> None:
    layer, images = nn.Conv2d(3, 4, 1), torch.ones(2, 3, 4, 4)
    with autocast(Recipe(precision="fp32"), CPU):
        answer = layer(images)
    assert torch.equal(answer, layer(images))


@pytest.mark.parametrize(
    "runs", [lambda network: network, lambda network: torch.compile(network, dynamic=False, backend="aot_eager")]
)
def test_gradients_of_bf16_are_near_those_of_fp32(runs: Callable[[nn.Module], nn.Module]) -> None:
    """Through layers that go from one precision to the other, forward and back; compiled, too."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8, stride=2), nn.Conv2d(8, 4, 1)
    network = nn.Sequential(*layers)
    gradients = []
    for recipe in (Recipe(precision="fp32"), BF16):
        images = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8).requires_grad_()
        with autocast(recipe, CPU):
            answer = runs(network)(images)
        network.zero_grad()
        answer.float().square().sum().backward()
        gradients.append([images.grad, *(parameter.grad for parameter in network.parameters())])
    for exact, rounded in zip(*gradients, strict=True):
        assert exact is not None
        assert rounded is not None
        assert rounded.dtype == torch.float32
        assert 0 < (exact - rounded).norm() < 0.02 * exact.norm()
