"""The networks of docs/networks.md, by the code that writes it; those that take seconds are integration tests.

The contracts are checked of networks of the table. What follows on them, a cascade, reading back and an export, is
checked of the small ones and, for families that have none, of shallow networks of the same layers. The command checks
all of it of all networks, `python -m benchmarks networks`.
"""

from functools import partial

import pytest
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.googlenet import BasicConv2d, Inception
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.resnet import Bottleneck
from torchvision.models.vgg import make_layers

from benchmarks.networks import NETWORKS, PAGE, Network, conformance, contract_cells, contracts, held
from trainables.model_config import ModelConfig
from trainables.pruning.probe import TOLERANCE
from trainables.pruning.selection import TOLERANCE as SIZE_TOLERANCE

SMALL = ("resnet20", "squeezenet1_1")
OTHERS = (
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "regnet_y_400mf",
    "alexnet",
    "vgg11_bn",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "mnasnet1_0",
    "efficientnet_b0",
    "densenet121",
    "googlenet",
    "shufflenet_v2_x1_0",
    "inception_v3",
    "convnext_tiny",
    "vit_b_16",
)


def vgg(num_classes: int) -> nn.Module:
    """Torchvision's own has a hundred million weights behind its convolutions, however few these are."""
    hidden = (nn.Linear(24 * 49, 40), nn.ReLU(), nn.Dropout(), nn.Linear(40, 40), nn.ReLU(), nn.Dropout())
    layers = (make_layers([16, "M", 24, "M"], batch_norm=True), nn.AdaptiveAvgPool2d(7), nn.Flatten())
    return nn.Sequential(*layers, *hidden, nn.Linear(40, num_classes))


def inception(num_classes: int) -> nn.Module:
    stem = BasicConv2d(3, 16, kernel_size=3, stride=2, padding=1)
    branching = Inception(16, 8, 12, 16, 4, 8, 8), Inception(40, 12, 12, 16, 4, 8, 8)
    return nn.Sequential(stem, *branching, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(44, num_classes))


MOBILE = [
    InvertedResidualConfig(16, 3, 16, 16, use_se=True, activation="RE", stride=2, dilation=1, width_mult=1.0),
    InvertedResidualConfig(16, 3, 72, 24, use_se=False, activation="RE", stride=1, dilation=1, width_mult=1.0),
    InvertedResidualConfig(24, 5, 96, 24, use_se=True, activation="HS", stride=1, dilation=1, width_mult=1.0),
]
SHALLOW = {
    "resnext": partial(models.ResNet, Bottleneck, [1, 1, 1, 1], groups=8, width_per_group=4),
    "vgg": vgg,
    "mobilenet_v3": partial(models.MobileNetV3, MOBILE, last_channel=64),
    "inception": inception,
    "densenet": partial(models.DenseNet, growth_rate=8, block_config=(2, 3), num_init_features=16),
    "shufflenet": partial(models.ShuffleNetV2, [2, 1, 1], [8, 16, 32, 32, 64]),
    "convnext": partial(
        models.ConvNeXt, [CNBlockConfig(24, 32, 2), CNBlockConfig(32, None, 2)], stochastic_depth_prob=0.1
    ),
    "vit": partial(
        models.VisionTransformer, image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64
    ),
}
WHOLE = {
    **{name: NETWORKS[name] for name in SMALL},
    **{name: Network(model=ModelConfig(name=f"{__name__}:{name}")) for name in SHALLOW},
}
IN_ONNX = ("resnet20", "mobilenet_v3")


def __getattr__(name: str):
    """A shallow network by its name, as a search finds one in a module of the user's own."""
    if name not in SHALLOW:
        raise AttributeError(name)
    return lambda num_classes: SHALLOW[name](num_classes=num_classes)


@pytest.mark.integration
@pytest.mark.parametrize("name", OTHERS)
def test_a_network_of_the_table_holds_the_contracts(name):
    _, findings = contracts(NETWORKS[name])
    assert_holds_as_the_page_says(name, findings)


def assert_holds_as_the_page_says(name, findings):
    assert findings.difference <= TOLERANCE
    page = PAGE.read_text()
    (row,) = (line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
    start, smallest = contract_cells(name, findings)
    assert row.startswith(start)
    assert smallest in row
    assert all(f"- `{name}`: {reason}" in page for reason in held(findings)[:1])


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.integration) for name in SHALLOW)])
def test_a_network_of_each_family_goes_through_a_cascade_to_its_files(name):
    found = conformance(WHOLE[name], onnx=name in IN_ONNX)
    if name in SMALL:
        assert_holds_as_the_page_says(name, found.findings)
    assert found.findings.difference <= TOLERANCE
    assert found.macs_kept == pytest.approx(found.macs_asked, rel=SIZE_TOLERANCE)
    assert found.exported <= TOLERANCE
    assert not found.onnx > TOLERANCE


def test_the_table_has_these_networks_and_no_others():
    rows = [line.split("`")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert rows == list(NETWORKS)
