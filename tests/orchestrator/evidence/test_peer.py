"""Torch-Pruning's own pruner comes to the size that was asked, and leaves the teacher alone."""

import copy

import pytest
import torch

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


def test_what_it_cannot_reach_is_a_failure(data: DataSplits) -> None:
    teacher = build(ModelConfig(width=0.25), num_classes=4, in_channels=1)
    arm = Arm(method="torch-pruning", importance="l2", max_pruning_ratio=0.2)
    with pytest.raises(StageFailure, match="raise max_pruning_ratio"):
        pruned(teacher, arm, CONFIG, data, target=0.1 * count_macs(teacher, data.input_shape))
