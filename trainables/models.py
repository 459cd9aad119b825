"""Networks by name: small-image VGGs and ResNets, torchvision's, or a function of the user's own."""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from trainables.config import ModelConfig, Stem
from trainables.errors import InputError, first_line
from trainables.imports import import_function, is_import_path

Builder = Callable[..., nn.Module]

_VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")
_VGG_SMALL = (32, 32, "pool", 64, 64, "pool", 128, 128)


def _wide(channels: int, width: float) -> int:
    return max(1, round(channels * width))


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
        wide = _wide(entry, width)
        layers += [nn.Conv2d(channels, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
        channels = wide
    network = nn.Sequential()
    network.add_module("features", nn.Sequential(*layers))
    network.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    network.add_module("classifier", nn.Linear(channels, num_classes))
    _initialise(network)
    return network


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
        self.inplanes = _wide(planes[0], width)
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
            self.add_module(name, self._stage(block, _wide(channels, width), depth, stride=stride))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(self.inplanes, num_classes)
        _initialise(self)

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


def _initialise(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")


_VGGS: dict[str, Builder] = {"vgg16": partial(vgg, plan=_VGG16), "vgg-small": partial(vgg, plan=_VGG_SMALL)}
_CIFAR = (16, 32, 64)
_RESNETS: dict[str, Builder] = {
    "resnet18": partial(ResNet, block=BasicBlock, depths=(2, 2, 2, 2)),
    "resnet20": partial(ResNet, block=BasicBlock, depths=(3, 3, 3), planes=_CIFAR),
    "resnet50": partial(ResNet, block=Bottleneck, depths=(3, 4, 6, 3)),
    "resnet56": partial(ResNet, block=BasicBlock, depths=(9, 9, 9), planes=_CIFAR),
}
# Heads that are there for training alone, and slow draws of weights that batch norm makes pointless.
_INCEPTION = {"aux_logits": False, "init_weights": False}
_TORCHVISION_OPTIONS = {"googlenet": _INCEPTION, "inception_v3": _INCEPTION}
BUILT_IN = (*_VGGS, *_RESNETS)


def build(config: ModelConfig, *, num_classes: int, in_channels: int, seed: int = 0) -> nn.Module:
    """Build a network by its configuration, with random weights drawn from `seed`.

    Raises:
        InputError: for an unknown name, or a user's function that is missing, fails, or does not give a network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # networks are built on the CPU; other devices' states stay
        if config.name in _VGGS:
            return _VGGS[config.name](num_classes=num_classes, in_channels=in_channels, width=config.width)
        if config.name in _RESNETS:
            return _RESNETS[config.name](
                num_classes=num_classes, in_channels=in_channels, width=config.width, stem=config.stem
            )
        if config.name in torchvision.models.list_models(module=torchvision.models):
            return _from_torchvision(config, num_classes=num_classes, in_channels=in_channels)
        return call_builder(find_builder(config.name), num_classes=num_classes, in_channels=in_channels)


def _from_torchvision(config: ModelConfig, *, num_classes: int, in_channels: int) -> nn.Module:
    if config.width != 1.0 or in_channels != 3:
        wrong = f"images have {in_channels} channels" if config.width == 1.0 else f"model.width is {config.width!r}"
        raise InputError(
            f"{wrong}, but {config.name} is torchvision's and takes 3 channels at width 1; "
            f"use one of {', '.join(BUILT_IN)}, or your own function"
        )
    options = _TORCHVISION_OPTIONS.get(config.name, {})
    network: nn.Module = torchvision.models.get_model(config.name, num_classes=num_classes, **options)
    return network


def find_builder(name: str) -> Builder:
    """Import a user's function `package.module:function`.

    Raises:
        InputError: if the name is neither built in nor such a path, or nothing callable is there.
    """
    if not is_import_path(name):
        raise InputError(
            f"model.name is {name!r}, but must be one of {', '.join(BUILT_IN)}, a classification network of "
            "torchvision by its name there, or your own function as package.module:function"
        )
    return import_function(name, key="model.name")


def call_builder(builder: Builder, *, num_classes: int, in_channels: int) -> nn.Module:
    """Call a user's function with `num_classes`, and `in_channels` if it takes that.

    Raises:
        InputError: if it fails or gives something else than a network.
    """
    arguments = {"num_classes": num_classes}
    if "in_channels" in inspect.signature(builder).parameters:
        arguments["in_channels"] = in_channels
    try:
        network = builder(**arguments)
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"model.name: your function failed with {reason}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"model.name: your function gave a {type(network).__name__}, but must give an nn.Module")
    return network


def load_weights(network: nn.Module, path: Path) -> None:
    """Read a teacher's weights into a network: safetensors, or a plain state dict; nothing else is unpickled.

    Raises:
        InputError: if the file is missing or damaged, or a tensor is missing, unknown or of another shape.
    """
    if not path.is_file():
        raise InputError(f"model.weights is {path}, but there is no such file")
    try:
        given = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(f"model.weights is {path}, but it cannot be read: {first_line(error)}") from error
    except Exception as error:  # UnpicklingError: the file holds more than tensors and plain values
        raise InputError(
            f"model.weights is {path}, but it holds more than a plain state dict; save network.state_dict() itself"
        ) from error
    if isinstance(given, dict) and isinstance(given.get("state_dict"), dict):
        given = given["state_dict"]
    check_shapes(given, network, where=f"model.weights {path}")
    network.load_state_dict(versioned(given, network))


def versioned(tensors: Mapping[str, torch.Tensor], network: nn.Module) -> Mapping[str, torch.Tensor]:
    """A state dict that says of which version its layers are; plain tensors by name are of the network's own.

    Some layers refuse to load what says nothing (torchvision's MNASNet), or take it for older than it is.
    """
    state = OrderedDict(tensors)
    state._metadata = getattr(tensors, "_metadata", None) or network.state_dict()._metadata  # type: ignore[attr-defined]
    return state


def check_shapes(given: object, network: nn.Module, *, where: str) -> None:
    """Compare tensors with what a network needs, name by name.

    Raises:
        InputError: naming the first parameter that differs, and both shapes.
    """
    if not isinstance(given, dict) or not all(isinstance(value, torch.Tensor) for value in given.values()):
        raise InputError(f"{where} is not a state dict: names with tensors")
    wanted = network.state_dict()
    for name, tensor in wanted.items():
        if name not in given:
            raise InputError(f"{where} lacks {name}, of shape {_shape(tensor)}; is it of another network?")
        if given[name].shape != tensor.shape:
            raise InputError(
                f"{where} has {name} of shape {_shape(given[name])}, but the network needs {_shape(tensor)}; "
                "check model.name, model.width and the number of classes"
            )
    for name in given:
        if name not in wanted:
            raise InputError(f"{where} has {name}, which the network does not have; is it of another network?")


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
