"""The networks of docs/networks.md, by the code that writes it; those that take seconds are integration tests.

Deeper and wider ones of a family are checked by the command alone, `python -m benchmarks networks`.
"""

import pytest

from benchmarks.networks import NETWORKS, ONNX_IN_TESTS, PAGE, conformance
from trainables.pruning.probe import TOLERANCE
from trainables.pruning.selection import TOLERANCE as SIZE_TOLERANCE

QUICK = ("resnet20", "squeezenet1_1", "mobilenet_v3_small")
SLOW = (
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "regnet_y_400mf",
    "vgg11",
    "vgg11_bn",
    "mobilenet_v2",
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
EACH = [*QUICK, *(pytest.param(name, marks=pytest.mark.integration) for name in SLOW)]


@pytest.mark.parametrize("name", EACH)
def test_a_network_of_the_table_holds_the_contracts(name):
    found = conformance(NETWORKS[name], onnx=name in ONNX_IN_TESTS)
    assert found.findings.difference <= TOLERANCE
    assert found.macs_kept == pytest.approx(found.macs_asked, rel=SIZE_TOLERANCE)
    assert found.exported <= TOLERANCE
    assert not found.onnx > TOLERANCE
    assert f"| `{name}` | {NETWORKS[name].size} | {len(found.findings.channel_map.groups)} " in PAGE.read_text()
    assert all(f"- `{name}`: {reason}" in PAGE.read_text() for reason in found.held[:1])


def test_the_table_has_these_networks_and_no_others():
    rows = [line.split("`")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert rows == list(NETWORKS)
