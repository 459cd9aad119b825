"""What is computed in which precision, and that it is fit to train."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from trainables.hardware import convolutions
from trainables.hardware.precision import autocast
from trainables.recipe import Recipe

BF16 = Recipe(precision="bf16")
CPU = torch.device("cpu")


def precision_of(layer: nn.Conv2d, layout: torch.memory_format) -> torch.dtype:
    with autocast(BF16, layer, CPU):
        answer: torch.Tensor = layer(torch.ones(2, layer.in_channels, 4, 4).contiguous(memory_format=layout))
    return answer.dtype


@pytest.mark.parametrize(
    ("layer", "layout", "precision"),
    [
        (nn.Conv2d(4, 4, 3, groups=4, stride=2), torch.contiguous_format, torch.float32),
        (nn.Conv2d(4, 8, 3, groups=4), torch.channels_last, torch.float32),
        (nn.Conv2d(4, 4, 3, groups=4, padding="same"), torch.channels_last, torch.float32),
        (nn.Conv2d(4, 4, 3, groups=4, stride=2), torch.channels_last, torch.bfloat16),
        (nn.Conv2d(4, 4, 3, groups=2), torch.contiguous_format, torch.bfloat16),
        (nn.Conv2d(4, 4, 1), torch.contiguous_format, torch.bfloat16),
        (nn.Conv2d(1, 4, 3), torch.contiguous_format, torch.bfloat16),  # of images in grey
    ],
)
def test_on_a_processor_some_depthwise_convolutions_alone_stay_in_float32(
    layer: nn.Conv2d, layout: torch.memory_format, precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolutions, "has_kernels_for_bf16", lambda: True)
    assert precision_of(layer, layout) == precision
    assert layer.weight.dtype == torch.float32


def test_on_a_processor_without_kernels_for_them_all_depthwise_convolutions_stay_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(convolutions, "has_kernels_for_bf16", lambda: False)
    assert precision_of(nn.Conv2d(4, 4, 3, groups=4), torch.channels_last) == torch.float32
    assert precision_of(nn.Conv2d(4, 4, 3, groups=2), torch.channels_last) == torch.bfloat16


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize("size", [1, 5])
def test_a_convolution_of_single_pixels_says_what_torch_says(
    size: int,
    stride: int | tuple[int, int],
    bias: bool,  # noqa: FBT001
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 7, 1, stride=stride, bias=bias)
    images = torch.randn(3, 5, size, size).contiguous(memory_format=torch.channels_last).requires_grad_()
    answers, gradients = [], []
    for context in (autocast(BF16, layer, CPU), torch.autocast("cpu", dtype=torch.bfloat16)):
        with context:
            answer = layer(images)
        assert answer.dtype == torch.bfloat16
        assert answer.is_contiguous(memory_format=torch.channels_last)
        answers.append(answer.float())
        gradients.append(torch.autograd.grad(answer.float().square().sum(), [images, *layer.parameters()]))
    torch.testing.assert_close(*answers, rtol=0.02, atol=0.02)
    for own, of_torch in zip(*gradients, strict=True):
        torch.testing.assert_close(own, of_torch, rtol=0.03, atol=0.03 * float(of_torch.abs().max()))


@pytest.mark.parametrize(
    ("layer", "size", "layout", "as_product"),
    [
        (nn.Conv2d(4, 6, 1), 16, torch.channels_last, True),
        (nn.Conv2d(4, 6, 1, padding="valid"), 2, torch.channels_last, True),
        (nn.Conv2d(4, 6, 1, stride=2), 8, torch.channels_last, True),
        (nn.Conv2d(4, 6, 1), 17, torch.channels_last, False),
        (nn.Conv2d(4, 6, 1), 4, torch.contiguous_format, False),
        (nn.Conv2d(4, 6, 1, stride=2), 9, torch.channels_last, False),
        (nn.Conv2d(4, 6, 1, padding=1), 4, torch.channels_last, False),
        (nn.Conv2d(4, 6, 1, groups=2), 4, torch.channels_last, False),
        (nn.Conv2d(4, 6, 3), 4, torch.channels_last, False),
    ],
)
def test_what_is_computed_as_a_product(
    layer: nn.Conv2d,
    size: int,
    layout: torch.memory_format,
    as_product: bool,  # noqa: FBT001
) -> None:
    images = torch.ones(2, 4, size, size).contiguous(memory_format=layout)
    with autocast(BF16, layer, CPU), torch.profiler.profile() as seen:
        answer = layer(images)
    assert ("aten::linear" in {event.name for event in seen.events()}) == as_product
    assert answer.shape == layer(images).shape


def test_strides_of_one_number_are_taken_as_torch_takes_them() -> None:
    images = torch.ones(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    for kernel in (1, 3):
        layer = nn.Conv2d(4, 5, kernel, stride=(2,))  # type: ignore[arg-type]
        with autocast(BF16, layer, CPU):
            assert layer(images).shape == layer(images.double().float()).shape


def test_images_of_one_channel_whose_channels_come_first_stay_so() -> None:
    layer = nn.Conv2d(1, 5, 1)
    with autocast(BF16, layer, CPU):
        assert layer(torch.ones(2, 1, 4, 4)).view(2, -1).shape == (2, 80)


def test_one_image_alone_stays_in_float32_behind_a_depthwise_convolution() -> None:
    layer = nn.Conv2d(4, 4, 3, groups=4)
    with autocast(BF16, layer, CPU):
        assert layer(torch.ones(4, 8, 8)).dtype == torch.float32


def test_wrong_channels_are_refused_in_the_words_of_torch() -> None:
    images = torch.ones(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    layer = nn.Conv2d(4, 5, 1)
    with autocast(BF16, layer, CPU), pytest.raises(RuntimeError, match=r"expected input.* to have 4 channels"):
        layer(images)


def test_fp32_changes_nothing() -> None:
    layer, images = nn.Conv2d(3, 4, 1), torch.ones(2, 3, 4, 4)
    with autocast(Recipe(precision="fp32"), layer, CPU):
        answer = layer(images)
    assert torch.equal(answer, layer(images))


@pytest.mark.parametrize(
    "runs", [lambda network: network, lambda network: torch.compile(network, dynamic=False, backend="aot_eager")]
)
def test_gradients_of_bf16_are_near_those_of_fp32(runs: Callable[[nn.Module], nn.Module]) -> None:
    """Through layers that go from one precision to the other, forward and back; compiled, too."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=8, stride=2), nn.Conv2d(8, 4, 1)
    network = nn.Sequential(*layers)
    gradients = []
    for recipe in (Recipe(precision="fp32"), BF16):
        images = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
        images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
        with autocast(recipe, network, CPU):
            answer = runs(network)(images)
        network.zero_grad()
        answer.float().square().sum().backward()
        gradients.append([images.grad, *(parameter.grad for parameter in network.parameters())])
    for exact, rounded in zip(*gradients, strict=True):
        assert exact is not None
        assert rounded is not None
        assert rounded.dtype == torch.float32
        assert 0 < (exact - rounded).norm() < 0.02 * exact.norm()


class Own(nn.Module):
    """Layers of which those in the middle have an autocast of their own."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.ModuleList([nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1, stride=2)])
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        with torch.autocast("cpu", self.dtype, enabled=self.dtype is not None):
            x = x if self.dtype is not None else x.float()
            for layer in self.middle:
                x = layer(x)
        return x


@pytest.mark.parametrize("own", [torch.bfloat16, torch.float16, None])
@pytest.mark.parametrize("recipe", [Recipe(precision="fp32"), BF16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    "runs", [lambda network: network, lambda network: torch.compile(network, dynamic=False, backend="aot_eager")]
)
def test_an_autocast_of_the_networks_own_holds_in_its_part(
    recipe: Recipe,
    own: torch.dtype | None,
    layout: torch.memory_format,
    runs: Callable[[nn.Module], nn.Module],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(convolutions, "has_kernels_for_bf16", lambda: True)
    monkeypatch.setattr(convolutions, "has_matrix_unit", lambda: True)
    torch.manual_seed(0)
    network = Own(own)
    images = torch.randn(2, 3, 6, 6).contiguous(memory_format=layout)
    answers, gradients = [], []
    in_recipe = torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.precision == "bf16")
    for context, run in ((autocast(recipe, network, CPU), runs(network)), (in_recipe, network)):
        with context:
            answers.append(run(images))
        gradients.append(torch.autograd.grad(answers[-1].float().square().sum(), [*network.parameters()]))
    assert answers[0].dtype == answers[1].dtype == (own or torch.float32)
    torch.testing.assert_close(*answers, rtol=0.03, atol=0.03)
    for found, of_torch in zip(*gradients, strict=True):
        torch.testing.assert_close(found, of_torch, rtol=0.05, atol=0.03 * float(of_torch.abs().max()))


@pytest.mark.parametrize("layer", [nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3)])
def test_numbers_of_64_bits_stay_so(layer: nn.Conv2d, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "has_kernels_for_bf16", lambda: True)
    monkeypatch.setattr(convolutions, "has_matrix_unit", lambda: True)
    images = torch.ones(2, 8, 4, 4, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    with autocast(BF16, layer.double(), CPU):
        answer = layer(images)
    assert torch.equal(answer, layer(images))


@pytest.mark.parametrize("recipe", [Recipe(precision="fp32"), BF16])
@pytest.mark.parametrize("layer", [nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1, stride=2), nn.Conv2d(8, 4, 3)])
def test_layers_may_be_mapped_over_parts_of_images(
    layer: nn.Conv2d, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolutions, "has_kernels_for_bf16", lambda: True)
    monkeypatch.setattr(convolutions, "has_matrix_unit", lambda: True)
    parts = torch.randn(2, 3, 8, 4, 4)
    with autocast(recipe, layer, CPU):
        answers = torch.func.vmap(layer)(parts)
        answers.sum().backward()
    one_by_one = torch.stack([layer(images) for images in parts])
    torch.testing.assert_close(answers.float(), one_by_one, rtol=0.02, atol=0.02)
    assert layer.weight.grad is not None
