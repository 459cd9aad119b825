"""Two ranks against one process with the same whole batches: how far losses differ, and whether channels do.

A teacher is trained on the digits; a cascade of two levels is then trained and pruned by one process, and by two that
talk over gloo. Sums in another order round in another way, and training can make more of that: where a score is next to
another or a value next to zero, 1e-7 decides. So one process is also compared with itself, with the teacher's weights
changed by a ten-millionth: no program that rounds in another way can be closer than that. In float64, where rounding is
too small to decide anything, what is left is what ranks really do otherwise.
"""

import copy
import multiprocessing
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from benchmarks.table import Row
from orchestrator.data.datasets import load_splits
from trainables.config import CascadeConfig
from trainables.data_config import DataConfig
from trainables.datasets.data import DataSplits
from trainables.hardware.ranks import ALONE, Ranks, join, leave
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.plan import stage_plans
from trainables.pruning.network_size import NetworkSize
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe
from trainables.stages.cascade import CascadeStage
from trainables.stages.teacher import TeacherStage

SEEDS = (0, 1, 2)
NETWORKS = {
    "small VGG": ModelConfig(name="vgg-small", width=0.5),
    "ResNet-20, half as wide": ModelConfig(name="resnet20", width=0.5),
}
DATA = DataConfig(name="digits", image_size=16, augmentation="crop")
RECIPE = Recipe(epochs=3, batch_size=127, learning_rate=0.05)  # 63 images for one rank, 64 for the other
CASCADE = CascadeConfig(macs_kept=(0.5, 0.2), recipe=RECIPE, pruning=Pruning(num_prunings=6))
_ROUNDING = 1e-7
WAIT = timedelta(minutes=5)

Outcome = tuple[torch.Tensor, list[dict[str, list[int]]], float]
"""Losses of all steps and levels, channels that levels keep in the end, and seconds."""


class _InFloat64(nn.Module):
    """A network that computes in float64, whatever it is given."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        scores: torch.Tensor = self.network(images.double())
        return scores


class _Recorded(CascadeStage):
    """Keeps every step's losses."""

    losses: list[torch.Tensor]

    def train_step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One step."""
        self.losses.append(super().train_step(images, labels).clone())
        return self.losses[-1]


def train(ranks: Ranks, teacher: nn.Module, data: DataSplits, config: CascadeConfig) -> Outcome:
    """Train a cascade as one of some ranks."""
    stage = _Recorded(
        copy.deepcopy(teacher),
        plan=stage_plans(config)[0],
        config=config,
        teacher_size=NetworkSize.count(teacher, data.input_shape),
        data=data,
        augmentation=DATA.augmentation,
        ranks=ranks,
    )
    stage.losses = []
    started = time.perf_counter()
    while not stage.finished:
        stage.train_epoch()
    seconds = time.perf_counter() - started
    kept = [{group: channels.tolist() for group, channels in level.kept.items()} for level in stage.levels]
    return torch.stack(stage.losses), kept, seconds


def _trained_teacher(model: ModelConfig, data: DataSplits, seed: int) -> nn.Module:
    network = build(model, num_classes=data.num_classes, in_channels=data.in_channels, seed=seed)
    stage = TeacherStage(network, recipe=RECIPE, data=data, augmentation=DATA.augmentation, seed=seed)
    while not stage.finished:
        stage.train_epoch()
    return network.eval()


def _case(model: ModelConfig, seed: int, weights: dict[str, torch.Tensor], precision: str) -> tuple[Any, ...]:
    """Network, images and cascade of a seed, in whichever process."""
    data = load_splits(DATA)
    network = build(model, num_classes=data.num_classes, in_channels=data.in_channels).eval()
    network.load_state_dict(weights)
    network = _InFloat64(network) if precision == "float64" else network
    return network, data, CascadeConfig.from_dict(CASCADE.to_dict() | {"seed": seed})


def second_rank(meeting: Path, connection: Connection) -> None:
    """Live as rank 1 until nothing more comes."""
    torch.set_num_threads(1)
    ranks = join(1, 2, meeting=meeting, backend="gloo", wait=WAIT)
    for case in iter(connection.recv, None):
        train(ranks, *_case(*case))
    leave()


def _rounded(network: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1 + _ROUNDING * torch.randn(parameter.shape, generator=generator))
    return other


def _rows(name: str, model: ModelConfig, ranks: Ranks, other: Connection) -> list[Row]:
    data = load_splits(DATA)
    found: dict[str, list[_Compared]] = {"float64": [], "float32": [], "itself": []}
    seconds = []
    for seed in SEEDS:
        print(f"{name}, seed {seed}", file=sys.stderr)
        weights = _trained_teacher(model, data, seed).state_dict()
        for precision in ("float64", "float32"):
            case = (model, seed, weights, precision)
            network, images, config = _case(*case)
            alone = train(ALONE, network, images, config)
            other.send(case)
            both = train(ranks, network, images, config)
            found[precision].append(_Compared.of(both, alone))
        found["itself"].append(_Compared.of(train(ALONE, _rounded(network, seed), images, config), alone))
        seconds.append(both[2] / alone[2])
    steps, levels = alone[0].shape
    all_found = {kind: "; ".join(map(str, compared)) for kind, compared in found.items()}
    return [
        Row(
            name=f"{name}, float64: loss of any level at any step, on two ranks less that of one process",
            figure=max(each.far for each in found["float64"]),
            rule="at most",
            target=1e-5,
            note=f"{len(SEEDS)} seeds x {steps} steps x {levels} levels: {all_found['float64']}",
        ),
        Row(
            name=f"{name}, float64: seeds in which all levels keep the same channels",
            figure=sum(each.same for each in found["float64"]) / len(SEEDS),
            rule="at least",
            target=1.0,
        ),
        Row(
            name=f"{name}, float32: the same difference of losses",
            figure=max(each.far for each in found["float32"]),
            note=f"{all_found['float32']}; one process from weights changed by 1e-7: {all_found['itself']}",
        ),
        Row(
            name=f"{name}: time on two ranks, a thread each, against one process with a thread",
            figure=sum(seconds) / len(seconds),
            note="small batches of a small network, two cores",
        ),
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Compared:
    """How two trainings of a cascade differ: by how much their losses do, and whether channels are the same."""

    far: float
    same: bool

    @classmethod
    def of(cls, one: Outcome, other: Outcome) -> Self:
        """Compare two."""
        return cls(far=float((one[0] - other[0]).abs().max()), same=one[1] == other[1])

    def __str__(self) -> str:
        return f"{self.far:.1e}, {'same' if self.same else 'other'} channels"


def run() -> list[Row]:
    """Measure."""
    torch.set_num_threads(1)
    here, there = multiprocessing.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        other = multiprocessing.get_context("spawn").Process(target=second_rank, args=(meeting, there))
        other.start()
        there.close()
        ranks = join(0, 2, meeting=meeting, backend="gloo", wait=WAIT)
        rows = [row for name, model in NETWORKS.items() for row in _rows(name, model, ranks, here)]
        here.send(None)
        leave()
        other.join()
    return rows
