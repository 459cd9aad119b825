"""A convolution and its gradients in bfloat16, held against those of float64."""

import torch
import torch.nn.functional as F

from trainables.hardware.library import Steps
from trainables.hardware.own_gradients import convolve


def require_those_of_float64(
    images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, steps: Steps, *, groups: int
) -> None:
    """Rounded; the answer lies channels last."""
    given = [tensor.requires_grad_() for tensor in (images, weight, bias)]
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    answer = convolve(images, weight, bias, steps, groups=groups)
    right = F.conv2d(*exact, *steps, groups=groups)  # type: ignore[arg-type]
    assert answer.dtype == torch.bfloat16
    assert answer.is_contiguous(memory_format=torch.channels_last)
    above = torch.randn_like(answer)
    found = torch.autograd.grad(answer, given, above)
    true = torch.autograd.grad(right, exact, above.double())
    for own, other in zip([answer, *found], [right, *true], strict=True):
        torch.testing.assert_close(own.double(), other, rtol=0.01, atol=0.01 * float(other.detach().abs().max()))
