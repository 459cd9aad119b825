"""What of a study is looked at before it begins: networks and sizes that its runs would fail with are refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from orchestrator.evidence.arms import check_study
from orchestrator.evidence.plan import StudyPlan
from trainables.datasets.data import DataSplits
from trainables.datasets.images import ImageSet
from trainables.errors import InputError


class ChannelsLast(nn.Module):
    """Flattens a map place by place, where channels are looked for channel by channel."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.scores = nn.Linear(32, num_classes)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        scores_NK: torch.Tensor = self.scores(self.layers(images_NCHW).permute(0, 2, 3, 1).flatten(1))
        return scores_NK


class Few(nn.Module):
    """Six channels, each a sixth of the MACs."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.scores = nn.Linear(6, num_classes)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        scores_NK: torch.Tensor = self.scores(self.layers(images_NCHW))
        return scores_NK


@pytest.fixture(scope="module")
def data() -> DataSplits:
    images = torch.randint(0, 256, (96, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    part = ImageSet(images_NCHW=images, labels_N=torch.arange(96) % 4)
    return DataSplits(train=part, val=part, mean=(0.5,), std=(0.3,), class_names=("a", "b", "c", "d"))


@pytest.fixture
def check(plain: dict[str, Any], data: DataSplits, monkeypatch: pytest.MonkeyPatch):
    def check(network: Callable[..., nn.Module], **changes: Any) -> None:
        monkeypatch.setattr("torchvision.own_network_of_this_test", network, raising=False)
        model = {"name": "torchvision:own_network_of_this_test"}
        check_study(StudyPlan.from_dict(plain | {"model": model, "budget": {"amount": 9}} | changes), data)

    return check


def test_a_network_that_breaks_the_contracts_is_refused_as_by_a_search(check) -> None:
    with pytest.raises(InputError, match=r"^arms\.plain at size 0\.3: group layers\.0: the network .* mixes channels"):
        check(ChannelsLast)
    floors = {"cascade": {"pruning": {"floors": {"layers.0": 7}}}}
    with pytest.raises(InputError, match=r"^arms\.high at size 0\.5: cascade\.pruning\.floors of layers\.0 is 7, but"):
        check(Few, sizes=[0.5], arms={"plain": {}, "high": floors})


def test_a_network_that_is_all_frozen_is_refused(check) -> None:
    def frozen(num_classes: int) -> nn.Module:
        return Few(num_classes).requires_grad_(requires_grad=False)

    with pytest.raises(InputError, match="all parameters of the network are frozen"):
        check(frozen, sizes=[0.5])


@pytest.mark.parametrize(
    ("floor", "named"), [({"min_channels": 3}, "min_channels"), ({"floors": {"layers.*": 3}}, r"floors of layers\.\*")]
)
def test_floors_that_torch_pruning_does_not_hold_are_refused(check, floor: dict[str, Any], named: str) -> None:
    peer = {"plain": {}, "peer": {"method": "torch-pruning"}}
    message = rf"^arms\.peer at size 0\.5: cascade\.pruning\.{named} is 3, but .*round_to, which is 1; name such layers"
    with pytest.raises(InputError, match=message):
        check(Few, sizes=[0.5], arms=peer, cascade={"pruning": floor})
    check(Few, sizes=[0.5], arms=peer, cascade={"pruning": floor | {"round_to": 3}})
    check(Few, sizes=[0.5], arms={"plain": {"cascade": {"pruning": floor}}, "peer": peer["peer"]})


def test_sizes_between_those_of_whole_channels_are_refused_where_channels_are_chosen_to_meet_them(check) -> None:
    check(Few, sizes=[0.5])
    with pytest.raises(InputError, match=r"^arms\.plain at size 0\.4: macs_kept of level 1 would be 0\.4, .* 0\.3333"):
        check(Few, sizes=[0.4])
    with pytest.raises(InputError, match=r"level 1 would be 0\.7071, .* 0\.6667, .*assistants_at"):
        check(Few, sizes=[0.5], arms={"plain": {"assistants": 1}})
    check(Few, sizes=[0.4], arms={"plain": {"method": "torch-pruning"}})
