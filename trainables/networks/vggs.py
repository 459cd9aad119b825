"""VGGs with batch norm for small images."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from torch import nn

from trainables.networks.layers import initialise, scaled

_VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")
_VGG_SMALL = (32, 32, "pool", 64, 64, "pool", 128, 128)


def vgg(*, plan: Sequence[int | str], num_classes: int, in_channels: int, width: float) -> nn.Module:
    """Convolutions with batch norm, global average pooling, one linear layer (after Simonyan & Zisserman 2015).

    Args:
        plan: channels of each 3x3 convolution, and `pool` where a 2x2 maximum halves the image.
        num_classes: outputs.
        in_channels: channels of an image.
        width: multiplier of all channels.
    """
    layers: list[nn.Module] = []
    channels = in_channels
    for entry in plan:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2))
            continue
        wide = scaled(entry, width)
        layers += [nn.Conv2d(channels, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
        channels = wide
    network = nn.Sequential()
    network.add_module("features", nn.Sequential(*layers))
    network.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    network.add_module("classifier", nn.Linear(channels, num_classes))
    initialise(network)
    return network


VGGS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {"vgg16": partial(vgg, plan=_VGG16), "vgg-small": partial(vgg, plan=_VGG_SMALL)}
)
