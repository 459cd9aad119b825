"""What the built-in networks have in common: a width multiplier and initial weights."""

from torch import nn


def scaled(channels: int, width: float) -> int:
    """Channels at this width, at least one."""
    return max(1, round(channels * width))


def initialise(network: nn.Module) -> None:
    """Draw the weights of convolutions from torch's generator (He et al. 2015)."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
