"""Torch-Pruning's own pruner comes to the size that was asked, and leaves the teacher alone."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from orchestrator.evidence import peer
from orchestrator.evidence.peer import pruned
from orchestrator.evidence.settings import Arm, Scope
from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.datasets.images import ImageSet
from trainables.errors import StageFailure
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.pruning.cost import count_macs
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe

CONFIG = CascadeConfig(macs_kept=(0.3,), recipe=Recipe(batch_size=16))


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "STEPS", 20)
    monkeypatch.setattr(peer, "STAYS", 0.85)
    monkeypatch.setattr(peer, "BATCHES", 1)


@pytest.fixture(scope="module")
def data() -> DataSplits:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (32, 1, 8, 8), generator=generator).to(torch.uint8)
    part = ImageSet(images_NCHW=images, labels_N=torch.arange(32) % 4)
    return DataSplits(train=part, val=part, mean=(0.5,), std=(0.3,), class_names=("a", "b", "c", "d"))


@pytest.mark.parametrize(
    "arm",
    [
        Arm(method="torch-pruning"),
        Arm(method="torch-pruning", importance="l1", scope="layer"),
        Arm(method="torch-pruning", importance="random"),
    ],
    ids=["taylor", "l1 of each layer", "random"],
)
def test_the_size_is_met(arm: Arm, data: DataSplits) -> None:
    teacher = build(ModelConfig(width=0.25), num_classes=4, in_channels=1).eval()
    before = copy.deepcopy(teacher.state_dict())
    dense = count_macs(teacher, data.input_shape)
    one, same = (pruned(teacher, arm, CONFIG, data, target=0.3 * dense) for _ in range(2))
    assert count_macs(one, data.input_shape) / dense == pytest.approx(0.3, rel=0.1)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name]), name
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name


class ConvolutionLast(nn.Module):
    """Its scores come from a convolution, before which linear layers excite channels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU())
        self.scores = nn.Conv2d(16, 4, 1)
        self.excite = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 16), nn.Sigmoid())

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        x = self.features(images_NCHW)
        scores_NK: torch.Tensor = self.scores(x * self.excite(x.mean((2, 3)))[:, :, None, None]).mean((2, 3))
        return scores_NK


def test_scores_of_a_convolution_stay_whole(data: DataSplits) -> None:
    torch.manual_seed(0)
    teacher = ConvolutionLast()
    dense = count_macs(teacher, data.input_shape)
    network = pruned(teacher, Arm(method="torch-pruning"), CONFIG, data, target=0.5 * dense)
    assert network(torch.zeros(2, *data.input_shape)).shape == (2, 4)
    assert count_macs(network, data.input_shape) / dense == pytest.approx(0.5, rel=0.1)


class Four(nn.Module):
    """Four convolutions of 16 channels, each followed by an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.Sequential(*(nn.Sequential(nn.Conv2d(n, 16, 3, padding=1), nn.ReLU()) for n in (1, 16, 16, 16)))
        self.scores = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores_NK: torch.Tensor = self.scores(self.parts(x).mean((2, 3)))
        return scores_NK


def widths(teacher: nn.Module, arm: Arm, pruning: Pruning, data: DataSplits, *, size: float) -> list[int]:
    target = size * count_macs(teacher, data.input_shape)
    network = pruned(teacher, arm, replace(CONFIG, pruning=pruning), data, target=target)
    assert network(torch.zeros(2, *data.input_shape)).shape == (2, 4)
    assert count_macs(network, data.input_shape) == pytest.approx(target, rel=0.35)
    return [network.get_submodule(f"parts.{number}.0").out_channels for number in range(4)]


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_layers_that_are_kept_stay_whole_and_so_does_what_they_read(scope: Scope, data: DataSplits) -> None:
    torch.manual_seed(0)
    arm = Arm(method="torch-pruning", importance="l2", scope=scope)
    one, two, three, four = widths(Four(), arm, Pruning(keep=("parts.2",)), data, size=0.6)
    assert two == three == 16
    assert min(one, four) < 16


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_widths_are_rounded(scope: Scope, data: DataSplits) -> None:
    torch.manual_seed(0)
    arm = Arm(method="torch-pruning", importance="l2", scope=scope)
    found = widths(Four(), arm, Pruning(round_to=8), data, size=0.6)
    assert set(found) == {8, 16}


def test_what_it_cannot_reach_is_a_failure(data: DataSplits) -> None:
    teacher = build(ModelConfig(width=0.25), num_classes=4, in_channels=1)
    arm = Arm(method="torch-pruning", importance="l2", max_pruning_ratio=0.2)
    with pytest.raises(StageFailure, match="raise max_pruning_ratio"):
        pruned(teacher, arm, CONFIG, data, target=0.1 * count_macs(teacher, data.input_shape))
