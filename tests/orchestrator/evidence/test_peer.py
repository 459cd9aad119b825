"""Torch-Pruning's own pruner comes to the size that was asked, and leaves the teacher alone."""

import copy

import pytest
import torch
from torch import nn

from orchestrator.evidence import peer
from orchestrator.evidence.peer import pruned
from orchestrator.evidence.settings import Arm
from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.datasets.images import ImageSet
from trainables.errors import StageFailure
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.pruning.cost import count_macs
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


def test_what_it_cannot_reach_is_a_failure(data: DataSplits) -> None:
    teacher = build(ModelConfig(width=0.25), num_classes=4, in_channels=1)
    arm = Arm(method="torch-pruning", importance="l2", max_pruning_ratio=0.2)
    with pytest.raises(StageFailure, match="raise max_pruning_ratio"):
        pruned(teacher, arm, CONFIG, data, target=0.1 * count_macs(teacher, data.input_shape))
