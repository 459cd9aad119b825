"""Layers that look at the whole batch while a rank has a part of it: batch norm in training, and dropout.

Statistics of a batch norm are those of all ranks' images, forward and backward, and the mask of a dropout is drawn for
all of them, so that what a rank computes of its images is what one process computes of them among all. The functions
that layers call are replaced while a network runs, whatever the network; it is left as it is.

Shape legend: N images of a rank, C channels, R ranks.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from trainables.hardware.ranks import Ranks

_DROPOUTS: Mapping[Callable[..., torch.Tensor], inspect.Signature] = {
    function: inspect.signature(function) for function in (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)
}


def whole_batch(ranks: Ranks, num_images: int) -> AbstractContextManager[object]:
    """Within it a network runs on this rank's part of so many images as if it had all of them.

    All ranks must run the same network at the same time, and have the same state of torch's generator. Layers that
    draw by other means than torch's dropout functions draw alike on every rank.

    Args:
        ranks: who share the images.
        num_images: of all ranks together.
    """
    return nullcontext() if ranks.size == 1 else _WholeBatch(ranks, num_images)


class _WholeBatch(TorchFunctionMode):
    def __init__(self, ranks: Ranks, num_images: int) -> None:
        super().__init__()
        self._ranks = ranks
        self._num_images = num_images

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's signature
        given = dict(kwargs or {})
        if func is F.batch_norm:
            return _batch_norm(self._ranks, *args, **given)
        if func in _DROPOUTS:
            return self._dropout(func, *args, **given)
        return func(*args, **given)

    def _dropout(self, function: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Drop what one process drops of these images, if they come first among the dimensions."""
        given = _DROPOUTS[function].bind(*args, **kwargs)
        given.apply_defaults()
        images, p, training = (given.arguments[name] for name in ("input", "p", "training"))
        own = self._ranks.part(self._num_images)
        if not training or len(images) != own.stop - own.start:
            return function(*args, **kwargs)
        alike = images.new_ones((self._num_images, *images.shape[1:]))
        if images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last):
            alike = alike.contiguous(memory_format=torch.channels_last)
        kept = function(alike, p, training=True)
        dropped: torch.Tensor = images * kept[own]
        return dropped


def _batch_norm(  # noqa: PLR0913
    ranks: Ranks,
    input: torch.Tensor,  # noqa: A002 - torch's names
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,  # noqa: FBT001, FBT002
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """`torch.nn.functional.batch_norm` on the images of all ranks."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
    mean_C, var_C, number = _statistics(ranks, input.detach())
    if running_mean is not None and running_var is not None:
        unbiased_C = var_C * (number / (number - 1).clamp(min=1))
        running_mean.mul_(1 - momentum).add_(mean_C.to(running_mean.dtype), alpha=momentum)
        running_var.mul_(1 - momentum).add_(unbiased_C.to(running_var.dtype), alpha=momentum)
    scale_C = torch.ones_like(mean_C) if weight is None else weight
    shift_C = torch.zeros_like(mean_C) if bias is None else bias
    normalised: torch.Tensor = _Normalise.apply(input, scale_C, shift_C, mean_C, var_C, number, eps, ranks)
    return normalised


def _statistics(ranks: Ranks, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and variance of each channel over all ranks, and how many numbers they are over."""
    dims = [dim for dim in range(images.ndim) if dim != 1]
    wide = torch.promote_types(images.dtype, torch.float32)
    var_C, mean_C = torch.var_mean(images.to(wide), dims, correction=0)
    number = mean_C.new_full((1,), images.numel() / images.shape[1])
    found_R = ranks.collect(torch.cat([mean_C, var_C, number]))
    mean_RC, var_RC, number_R1 = found_R.tensor_split((len(mean_C), 2 * len(mean_C)), dim=1)
    total = number_R1.sum()
    mean_C = (mean_RC * number_R1).sum(0) / total
    # Chan et al. 1979, eq. 2.1: squares about the ranks' own means, and of these about the mean of all.
    var_C = ((var_RC + (mean_RC - mean_C).square()) * number_R1).sum(0) / total
    return mean_C, var_C, total


class _Normalise(torch.autograd.Function):
    """γ·(x − mean)/√(var + ε) + β, where mean and variance depend on all ranks' x."""

    @staticmethod
    def forward(  # noqa: PLR0913
        ctx: Any,  # noqa: ANN401 - torch's
        images: torch.Tensor,
        scale_C: torch.Tensor,
        shift_C: torch.Tensor,
        mean_C: torch.Tensor,
        var_C: torch.Tensor,
        number: torch.Tensor,
        eps: float,
        ranks: Ranks,
    ) -> torch.Tensor:
        ctx.save_for_backward(images, scale_C, mean_C, var_C, number)
        ctx.eps, ctx.ranks = eps, ranks
        return F.batch_norm(images, mean_C, var_C, scale_C, shift_C, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        images, scale_C, mean_C, var_C, number = ctx.saved_tensors
        # As if the statistics were constants (of scale and shift it is all there is): as in evaluation.
        training, wanted = False, [True, True, True]
        of_images, of_scale_C, of_shift_C = torch.ops.aten.native_batch_norm_backward(
            gradient, images, scale_C, mean_C, var_C, None, None, training, ctx.eps, wanted
        )
        # What flows through the statistics: −γ/σ · (Σ∂y + x̂·Σ∂y·x̂)/n (Ioffe & Szegedy 2015, section 3).
        sums_2C = torch.stack([of_shift_C, of_scale_C]).to(mean_C.dtype)
        ctx.ranks.add_up([sums_2C])
        shift_sum_C, scale_sum_C = sums_2C / number
        inverse_C = (var_C + ctx.eps).rsqrt()
        slope_C = -scale_C * inverse_C.square() * scale_sum_C
        offset_C = -scale_C * inverse_C * shift_sum_C - slope_C * mean_C
        along = (1, -1) + (1,) * (images.ndim - 2)
        of_images = of_images + (images.to(mean_C.dtype) * slope_C.view(along) + offset_C.view(along)).to(
            of_images.dtype
        )
        return of_images, of_scale_C, of_shift_C, None, None, None, None, None
