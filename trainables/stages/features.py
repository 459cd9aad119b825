"""What a level learns of a larger network beside its scores: where in the image its channels answer.

At every boundary, where a layer reads channels of a group, a network has a map of features. Summed over channels, the
squares say how strongly each place of the image is answered to; brought to length 1 this is its attention map
(Zagoruyko & Komodakis 2017, "Paying more attention to attention", section 3.1, p = 2). Such a map has a number a place
and none a channel. So networks of any widths can be compared, whichever channels they keep, without the regressors that
hints need (Romero et al. 2015, "FitNets"), and scales, which differ with what is kept, do not matter.

Shape legend: N images, C channels, H x W places of a map, P of them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import nn

from trainables.errors import InputError
from trainables.pruning.channels import ChannelMap, skeleton

Maps = Mapping[str, torch.Tensor]
"""Attention maps, N x P, by the name of the layer that reads the features."""

Hook = Callable[[nn.Module, tuple[object, ...], dict[str, object]], None]
"""Called with a layer, and with what the layer is called with, by place and by name."""

_SHORTEST = 1e-6  # length that a map which is zero nearly everywhere is not stretched from


def find_boundaries(network: nn.Module, channel_map: ChannelMap, input_shape: tuple[int, int, int]) -> tuple[str, ...]:
    """Layers that read a group's channels at more than one place, in their order; of several with one input, the first.

    Args:
        network: left as it was.
        channel_map: its groups.
        input_shape: channels, height and width of an image.

    Raises:
        InputError: if there is none.
    """
    reading = {member.layer for group in channel_map.groups for member in group.members if member.axis == "in"}
    bare = skeleton(network)
    met: dict[str, torch.Tensor] = {}  # held, so that no two of them can be one

    def look(layer: str) -> Hook:
        def hook(module: nn.Module, inputs: tuple[object, ...], named: dict[str, object]) -> None:
            features = _first(inputs, named)
            if not isinstance(features, torch.Tensor) or features.ndim != 4:
                return
            if _channels_first(features, module).shape[2:].numel() < 2:
                return
            if not any(features is other for other in met.values()):
                met[layer] = features

        return hook

    for layer in reading:
        bare.get_submodule(layer).register_forward_pre_hook(look(layer), with_kwargs=True)
    with torch.no_grad():
        bare(torch.zeros(2, *input_shape, device="meta"))
    if not met:
        raise InputError(
            "feature_weight is above 0, but no layer of the network reads channels that can be removed at more than "
            "one place of an image; leave it at 0"
        )
    return tuple(met)


@contextmanager
def attention_maps(network: nn.Module, boundaries: tuple[str, ...]) -> Iterator[Maps]:
    """Within it a forward pass leaves its attention maps in what is given; a layer that runs twice, those of the last.

    Args:
        network: left as it was.
        boundaries: names of layers of it, as `find_boundaries` gives them.
    """
    maps: dict[str, torch.Tensor] = {}

    def read(layer: str) -> Hook:
        def hook(module: nn.Module, inputs: tuple[object, ...], named: dict[str, object]) -> None:
            features = _first(inputs, named)
            assert isinstance(features, torch.Tensor)
            maps[layer] = attention(_channels_first(features, module))

        return hook

    hooks = [
        network.get_submodule(layer).register_forward_pre_hook(read(layer), with_kwargs=True) for layer in boundaries
    ]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()


def _first(inputs: tuple[object, ...], named: dict[str, object]) -> object:
    """What a layer reads, whether it is called by place or by name, as in `conv(input=x)`."""
    return next(iter((*inputs, *named.values())), None)


def _channels_first(features: torch.Tensor, layer: nn.Module) -> torch.Tensor:
    """Features, N x C x H x W, of what a layer reads: linear layers, as those of ConvNeXt, read channels last."""
    return features.movedim(-1, 1) if isinstance(layer, nn.Linear) else features


def attention(features_NCHW: torch.Tensor) -> torch.Tensor:
    """Squares summed over channels, of length 1 for each image, N x P; float32 or wider."""
    wide = torch.promote_types(features_NCHW.dtype, torch.float32)
    return F.normalize(features_NCHW.square().sum(1, dtype=wide).flatten(1), dim=1, eps=_SHORTEST)


def attention_distance(maps: Maps, larger_maps: Maps) -> torch.Tensor:
    """½·‖a_larger − a‖², which is 1 − cos of the two maps, the mean over images and boundaries; a scalar in [0, 1].

    Args:
        maps: of a level.
        larger_maps: of a larger network; no gradient flows into them.
    """
    apart = [
        0.5 * (map_NP - larger_maps[layer].detach()).square().sum(1).mean()
        for layer, map_NP in maps.items()
        if layer in larger_maps  # a network may leave layers out by chance
    ]
    return torch.stack(apart).mean()
