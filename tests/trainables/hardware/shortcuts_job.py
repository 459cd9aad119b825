"""Gradients of narrow convolutions of single pixels with a stride, as training computes them, against float64."""

import copy
import itertools

import torch
from torch import nn

from trainables.hardware.precision import autocast
from trainables.recipe import Recipe


def worst_difference() -> float:
    """Over channels, strides, layouts and numbers of threads; not a number where one of them is none."""
    found = []
    layouts = (torch.channels_last, torch.contiguous_format)
    for threads, channels, stride, layout in itertools.product((2, 1), range(1, 18), ((2,), (3, 2)), layouts):
        torch.set_num_threads(threads)
        layer = nn.Conv2d(channels, 9, 1, stride=stride, padding=(0,) * len(stride), bias=False)
        images = torch.randn(16, channels, 16, 16).contiguous(memory_format=layout)
        found += differences(layer, images)
    return float(torch.stack(found).max())


def differences(layer: nn.Conv2d, images: torch.Tensor) -> list[torch.Tensor]:
    """Of the answer, and of the gradients of images and parameters, as parts of their largest values."""
    images = images.requires_grad_()
    with autocast(Recipe(), layer, torch.device("cpu")):
        answer = layer(images)
    above = torch.randn_like(answer)
    found = [answer, *torch.autograd.grad(answer, [images, *layer.parameters()], above)]
    torch.set_num_threads(1)  # a loop over groups in which two threads wait for one another takes forty times as long
    exact_layer = copy.deepcopy(layer).double()
    exact = exact_layer(images.double())
    assert answer.stride() == exact.stride()
    true = [exact, *torch.autograd.grad(exact, [images, *exact_layer.parameters()], above.double())]
    pairs = zip(found, true, strict=True)
    return [((own - right).abs().max() / right.abs().max().clamp(min=1e-9)).detach() for own, right in pairs]
