"""ResNets of torchvision's blocks; in a module of its own, as torchvision takes a second to import."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from trainables.model_config import Stem
from trainables.networks.layers import initialise, scaled


class ResNet(nn.Module):
    """Residual network of torchvision's blocks, under torchvision's names, with a width and a choice of stem.

    With four stages, at width 1 and the `imagenet` stem, its state dict is torchvision's (He et al. 2016). Where a
    block changes the number of channels its shortcut is a 1x1 convolution.
    """

    def __init__(
        self,
        *,
        block: type[BasicBlock | Bottleneck],
        depths: Sequence[int],
        num_classes: int,
        in_channels: int,
        width: float,
        stem: Stem,
        planes: Sequence[int] = (64, 128, 256, 512),
    ) -> None:
        """Build it.

        Args:
            block: torchvision's `BasicBlock` or `Bottleneck`.
            depths: blocks of each stage; a stage after the first halves the image.
            num_classes: outputs.
            in_channels: channels of an image.
            width: multiplier of all channels.
            stem: `small` keeps the image's size before the stages, `imagenet` quarters it.
            planes: channels of each stage's 3x3 convolutions at width 1.
        """
        super().__init__()
        self.inplanes = scaled(planes[0], width)
        if stem == "small":
            self.conv1 = nn.Conv2d(in_channels, self.inplanes, 3, padding=1, bias=False)
            self.maxpool: nn.Module = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(in_channels, self.inplanes, 7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(self.inplanes)
        self.relu = nn.ReLU(inplace=True)
        self.stages = tuple(f"layer{number}" for number in range(1, len(depths) + 1))
        for name, channels, depth in zip(self.stages, planes, depths, strict=True):
            stride = 1 if name == "layer1" else 2
            self.add_module(name, self._stage(block, scaled(channels, width), depth, stride=stride))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.inplanes, num_classes)
        initialise(self)

    def _stage(self, block: type[BasicBlock | Bottleneck], planes: int, depth: int, *, stride: int) -> nn.Sequential:
        outplanes = planes * block.expansion
        blocks = []
        for index in range(depth):
            step = stride if index == 0 else 1
            downsample = None
            if step != 1 or self.inplanes != outplanes:
                downsample = nn.Sequential(
                    nn.Conv2d(self.inplanes, outplanes, 1, stride=step, bias=False), nn.BatchNorm2d(outplanes)
                )
            blocks.append(block(self.inplanes, planes, step, downsample))
            self.inplanes = outplanes
        return nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores, images x classes, of images x channels x height x width."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        scores: torch.Tensor = self.fc(self.avgpool(x).flatten(1))
        return scores


_CIFAR = (16, 32, 64)
RESNETS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "resnet18": partial(ResNet, block=BasicBlock, depths=(2, 2, 2, 2)),
        "resnet20": partial(ResNet, block=BasicBlock, depths=(3, 3, 3), planes=_CIFAR),
        "resnet50": partial(ResNet, block=Bottleneck, depths=(3, 4, 6, 3)),
        "resnet56": partial(ResNet, block=BasicBlock, depths=(9, 9, 9), planes=_CIFAR),
    }
)
