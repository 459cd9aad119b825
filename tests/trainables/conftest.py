"""Small networks, images and plans of removal that the engine's tests share."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.datasets.images import ImageSet
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.plan import StagePlan
from trainables.pruning.channels import BATCH_NORMS, ChannelMap
from trainables.pruning.cost import LatencyTable, LayerTime
from trainables.pruning.dependencies import find_groups
from trainables.pruning.network_size import NetworkSize
from trainables.stages.cascade import CascadeStage

NUM_CLASSES = 4
INPUT_SHAPE = (3, 16, 16)

BUILT_IN = {
    "vgg-small": ModelConfig(name="vgg-small", width=1 / 8),
    "resnet18": ModelConfig(name="resnet18", width=1 / 16),
    "resnet18-imagenet": ModelConfig(name="resnet18", width=1 / 16, stem="imagenet"),
    "resnet50": ModelConfig(name="resnet50", width=1 / 16),
}


class Own(nn.Module):
    """A user's network: depthwise, concatenation, a convolution without norm, a hidden layer behind a 2x2 map."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU())
        self.plain = nn.Conv2d(8, 6, 3, stride=2, padding=1)
        self.normed = nn.Sequential(nn.Conv2d(8, 4, 1, stride=2, bias=False), nn.BatchNorm2d(4))
        self.merged = nn.Conv2d(10, 8, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Linear(32, 12)
        self.dropout = nn.Dropout(0.2)
        self.scores = nn.Linear(12, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.depthwise(self.stem(x))
        x = torch.cat([self.plain(x).relu(), self.normed(x)], dim=1)
        x = self.pool(self.merged(x).relu()).flatten(1)
        scores: torch.Tensor = self.scores(self.dropout(self.hidden(x).relu()))
        return scores


class Modern(nn.Module):
    """A user's network: PReLU, grouped convolutions of equal and unequal sides, squeeze-excitation, a gated unit."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.PReLU(16))
        self.equal = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(16), nn.SiLU())
        self.more = nn.Sequential(nn.Conv2d(16, 24, 3, stride=2, padding=1, groups=8), nn.PReLU())
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 6, 1), nn.ReLU())
        self.excite = nn.Sequential(nn.Conv2d(6, 24, 1), nn.Sigmoid())
        self.value = nn.Conv2d(24, 20, 1)
        self.open = nn.Conv2d(24, 20, 1)
        self.scores = nn.Linear(20, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = self.more(x + self.equal(x))
        x = self.excite(self.squeeze(x)) * x
        x = self.open(x).sigmoid() * self.value(x)
        scores: torch.Tensor = self.scores(x.mean((2, 3)))
        return scores


OWN = {"own": Own, "modern": Modern}


def make_network(name: str) -> nn.Module:
    """A network whose batch norms look as if it had been trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = (
            OWN[name](NUM_CLASSES)
            if name in OWN
            else build(BUILT_IN[name], num_classes=NUM_CLASSES, in_channels=3, seed=1)
        )
        for layer in network.modules():
            if isinstance(layer, BATCH_NORMS):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, std=0.5)
                nn.init.normal_(layer.running_mean, std=0.3)
                nn.init.uniform_(layer.running_var, 0.5, 2.0)
                layer.num_batches_tracked.fill_(10)
    return network.eval()


class Networks:
    """Networks by name, and their channel groups; copies, so that a test may do with them what it likes."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[nn.Module, ChannelMap]] = {}

    def __call__(self, name: str) -> tuple[nn.Module, ChannelMap]:
        if name not in self._made:
            network = make_network(name)
            self._made[name] = network, find_groups(network, INPUT_SHAPE)
        network, channel_map = self._made[name]
        return copy.deepcopy(network), channel_map


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks as small as these are slower on several threads, and results are exact only on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def networks() -> Networks:
    return Networks()


@pytest.fixture(scope="session")
def table_of(networks: Networks) -> Callable[[str], LatencyTable]:
    """A made-up table of the times of a network's layers."""

    def make(name: str) -> LatencyTable:
        network, channel_map = networks(name)
        layers = {
            layer: LayerTime(
                fixed_ms=0.25, output_ms=0.5 + index / 8, product_ms=0.0 if layer in channel_map.blockwise else 0.125
            )
            for index, layer in enumerate(channel_map.widths)
        }
        bare = LatencyTable(layers=layers, fixed_ms=3.0, full_ms=0.0, num_threads=1, batch_size=1)
        return replace(bare, full_ms=bare.total(network))

    return make


@pytest.fixture(scope="session")
def own_builders() -> dict[str, type[nn.Module]]:
    return OWN


@pytest.fixture(params=[*BUILT_IN, *OWN], scope="session")
def architecture(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def _plan(channel_map: ChannelMap, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    kept = {}
    for group in channel_map.groups:
        count = int(torch.randint(1, group.num_channels + 1, (), generator=generator))
        kept[group.name] = torch.randperm(group.num_channels, generator=generator)[:count].sort().values
    return kept


@pytest.fixture(scope="session")
def random_plan() -> Callable[[ChannelMap, int], dict[str, torch.Tensor]]:
    """Of every group any number of channels, and any of them, drawn from a seed."""
    return _plan


def _image_set(count: int, generator: torch.Generator) -> ImageSet:
    labels = torch.arange(count) % NUM_CLASSES
    images = torch.randint(0, 96, (count, *INPUT_SHAPE), generator=generator)
    for row, label in enumerate(labels.tolist()):  # a bright quarter tells the class
        top, left = 8 * (label // 2), 8 * (label % 2)
        images[row, :, top : top + 8, left : left + 8] += 128
    return ImageSet(images_NCHW=images.to(torch.uint8), labels_N=labels)


@pytest.fixture(scope="session")
def data() -> DataSplits:
    generator = torch.Generator().manual_seed(0)
    return DataSplits(
        train=_image_set(64, generator),
        val=_image_set(32, generator),
        mean=(0.3, 0.3, 0.3),
        std=(0.25, 0.25, 0.25),
        class_names=("a", "b", "c", "d"),
    )


@pytest.fixture
def joint_stage(networks: Networks, data: DataSplits) -> Callable[..., CascadeStage]:
    """A stage that trains all levels of a cascade at once, in training mode, and nothing of it done."""

    def make(config: CascadeConfig, *, teacher: nn.Module | None = None, images: DataSplits = data) -> CascadeStage:
        teacher = networks("vgg-small")[0] if teacher is None else teacher
        levels = tuple(range(1, config.num_levels + 1))
        stage = CascadeStage(
            teacher,
            plan=StagePlan(name="cascade", levels=levels, epochs=config.recipe.epochs, first_epoch=0),
            config=config,
            teacher_size=NetworkSize.count(teacher, images.input_shape),
            data=images,
        )
        for level in stage.levels:
            level.network.train()
        return stage

    return make
