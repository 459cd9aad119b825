"""Convolutions to few pixels: which they are, and that their gradients are right."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.trainables.hardware.rounded import require_those_of_float64
from trainables.hardware import convolutions
from trainables.hardware.library import Steps
from trainables.hardware.precision import autocast
from trainables.recipe import Precision, Recipe


@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 3)])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 7), (5, 2)])
@pytest.mark.parametrize("size", [1, 2, 4, 9])
def test_gradients_are_those_of_float64_rounded(
    size: int, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    padding = (dilation[0] * (kernel[0] // 2), dilation[1] * (kernel[1] // 2) + 1)
    steps = Steps(stride, padding, dilation)
    images = torch.randn(3, 5, size, size + 1).bfloat16().contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(6, 5, *kernel).bfloat16(), torch.randn(6).bfloat16()
    assert steps.outputs(images.shape[2:], weight.shape[2:]) == F.conv2d(images, weight, None, *steps).shape[2:]
    require_those_of_float64(images, weight, bias, steps, groups=1)


@pytest.mark.parametrize(
    ("layer", "size", "precision", "has_unit", "as_product"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), 4, "bf16", True, True),
        (nn.Conv2d(4, 6, 3, padding=1, stride=2), 8, "bf16", True, True),
        (nn.Conv2d(4, 6, 3, padding=1), 5, "bf16", True, False),
        (nn.Conv2d(4, 6, 3, padding=1), 4, "bf16", False, False),
        (nn.Conv2d(4, 6, 3, padding=1), 4, "fp32", True, False),
        (nn.Conv2d(4, 6, 3, padding=1, groups=2), 4, "bf16", True, False),
        (nn.Conv2d(4, 6, 3, padding="same"), 4, "bf16", True, False),
    ],
)
def test_where_outputs_are_few_the_weights_gradient_is_a_product(  # noqa: PLR0913, PLR0917
    layer: nn.Conv2d,
    size: int,
    precision: Precision,
    has_unit: bool,  # noqa: FBT001
    as_product: bool,  # noqa: FBT001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(convolutions, "has_matrix_unit", lambda: has_unit)
    images = torch.randn(2, 4, size, size).contiguous(memory_format=torch.channels_last)
    with autocast(Recipe(precision=precision), layer, torch.device("cpu")):
        answer = layer(images)
    with torch.profiler.profile() as seen:
        answer.float().square().sum().backward()
    assert ("aten::mm" in {event.name for event in seen.events()}) == as_product
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32


def test_wrong_channels_are_refused_in_the_words_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "has_matrix_unit", lambda: True)
    layer, images = nn.Conv2d(4, 5, 3), torch.ones(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    with (
        autocast(Recipe(precision="bf16"), layer, torch.device("cpu")),
        pytest.raises(RuntimeError, match=r"expected input.* to have 4 channels"),
    ):
        layer(images)
