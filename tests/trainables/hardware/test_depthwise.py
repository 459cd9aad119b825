"""Which of the library's kernels depthwise convolutions are computed by; that they are right, `test_convolutions`."""

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from tests.trainables.hardware.rounded import require_those_of_float64
from trainables.hardware import convolutions
from trainables.hardware.library import Steps
from trainables.hardware.precision import autocast
from trainables.recipe import Recipe

BACKWARD = "aten::convolution_backward"


def kernels_of_gradients(layer: nn.Conv2d, size: int, recipe: Recipe) -> list[Sequence[int]]:
    """Rows and columns of the kernels, and of images, whose weights' gradient the library is asked for."""
    images = torch.randn(2, layer.in_channels, size, size).contiguous(memory_format=torch.channels_last)
    with autocast(recipe, layer, torch.device("cpu")):
        answer = layer(images)
    with torch.profiler.profile(record_shapes=True) as seen:
        answer.sum().backward()
    shapes = [event.input_shapes for event in seen.events() if event.name == BACKWARD]
    return [weight[2:] + images[2:] for _, images, weight, *_ in shapes]


@pytest.mark.parametrize(
    ("kernel", "size", "asked"),
    [
        ((3, 3), 8, [[3, 3, 8, 8]]),
        ((3, 3), 3, [[3, 3, 5, 5]]),  # with its padding
        ((5, 5), 8, [[5, 3, 12, 10], [5, 2, 12, 9]]),
        ((7, 7), 8, [[7, 3, 14, 10], [7, 3, 14, 10], [7, 1, 14, 8]]),
        ((7, 1), 8, [[7, 1, 8, 8]]),
        ((7, 1), 7, [[7, 1, 13, 7]]),
        ((1, 5), 8, [[1, 5, 8, 8]]),
    ],
)
def test_gradients_of_weights_are_computed_in_strips(
    kernel: tuple[int, int], size: int, asked: list[list[int]]
) -> None:
    layer = nn.Conv2d(16, 16, kernel, padding=(kernel[0] // 2, kernel[1] // 2), groups=16)
    assert kernels_of_gradients(layer, size, Recipe()) == asked


def test_in_bf16_a_kernel_of_one_row_is_computed_in_strips_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "has_kernels_for_bf16", lambda: True)
    layer = nn.Conv2d(16, 16, (1, 5), padding=(0, 2), groups=16)
    assert kernels_of_gradients(layer, 8, Recipe(precision="bf16")) == [[1, 3, 8, 10], [1, 2, 8, 9]]


def test_with_dilation_nothing_is_computed_in_strips() -> None:
    layer = nn.Conv2d(16, 16, 5, padding=4, dilation=2, groups=16)
    assert kernels_of_gradients(layer, 8, Recipe()) == [[5, 5, 8, 8]]


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 2), (3, 1)])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 2), (7, 7)])
@pytest.mark.parametrize("size", [1, 2, 9, 16])
def test_gradients_of_bf16_are_those_of_float64_rounded(
    size: int, kernel: tuple[int, int], stride: tuple[int, int], dilation: int
) -> None:
    torch.manual_seed(0)
    steps = Steps(stride, (dilation * (kernel[0] // 2), dilation * (kernel[1] // 2)), (dilation, dilation))
    images = torch.randn(2, 9, size, size + 2).bfloat16().contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(9, 1, *kernel).bfloat16(), torch.randn(9).bfloat16()
    require_those_of_float64(images, weight, bias, steps, groups=9)
