"""Rank correlation between saliency and the true change of a level's loss when one channel is removed.

The network is a level in the middle of its ramp: a real stage has pruned it once and trained it on. The truth is the
level's own loss (cross-entropy and distillation) over all training images, in the batches of the recipe and with
train-mode batch norm, since that is the function that training follows: once as it is, once with one channel's gate at
zero. Saliency estimates a squared change and cannot tell a gain from a loss, so ranks are compared to the *size* of the
change; the signed change is reported beside it. All channels of all groups are ranked together.
"""

import copy
import statistics
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from scipy.stats import spearmanr
from torch import nn

from benchmarks.table import Row
from orchestrator.datasets import load_splits
from trainables.config import CascadeConfig, DataConfig, ModelConfig, Pruning, Recipe
from trainables.cost import count_macs, count_params
from trainables.channels import BATCH_NORMS, ChannelMap, Kept
from trainables.data import DataSplits, normalise
from trainables.distillation import distillation_loss
from trainables.levels import Level
from trainables.models import build
from trainables.saliency import SaliencyMeter, find_criterion
from trainables.stages import CascadeStage, StagePlan, TeacherSize
from trainables.teacher import TeacherStage
from trainables.training import unprefixed

NUM_THREADS = 1
SEEDS = (0, 1, 2)
BATCH = 64
MICRO_BATCHES = (1, 4, 16, 64)
Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Case:
    """A level that is about to be pruned, and what its stage knows.

    Attributes:
        teacher: what it learns from.
        level: the level.
        engine_scores: saliency that the stage gathered while it trained, by group.
        config: of the cascade.
        data: its images.
    """

    teacher: nn.Module
    level: Level
    engine_scores: Mapping[str, torch.Tensor]
    config: CascadeConfig
    data: DataSplits

    @property
    def channel_map(self) -> ChannelMap:
        """The groups."""
        return self.level.shared.channel_map

    def loss(self, network: nn.Module, batch: Batch, *, temperature: float | None = None) -> torch.Tensor:
        """The level's own loss."""
        images, labels = batch
        with torch.no_grad():
            larger = self.teacher(images)
        return distillation_loss(
            network(images),
            larger,
            labels,
            temperature=self.config.temperature,
            weight=self.config.distillation_weight,
        )

    def batches(self, size: int) -> Iterator[Batch]:
        """All training images in one fixed, mixed order."""
        images = normalise(self.data.train.images_NCHW, self.data.mean, self.data.std)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        for start in range(0, len(order) - BATCH + 1, size):
            yield images[order[start : start + size]], self.data.train.labels_N[order[start : start + size]]


def make_case(seed: int) -> Case:
    """A teacher of six epochs, and its level at half of the ramp, one epoch after its last pruning."""
    data = load_splits(DataConfig(name="digits"))
    teacher = build(ModelConfig(name="vgg-small", width=0.5), num_classes=10, in_channels=1, seed=seed)
    recipe = Recipe(epochs=6, batch_size=BATCH, learning_rate=0.05)
    training = TeacherStage(teacher, recipe=recipe, data=data, seed=seed)
    while not training.finished:
        training.step()
    config = CascadeConfig(
        macs_kept=(0.2,), pruning=Pruning(num_prunings=2), recipe=Recipe(epochs=8, batch_size=BATCH), seed=seed
    )
    stage = CascadeStage(
        teacher,
        plan=StagePlan(name="cascade", levels=(1,), epochs=8, first_epoch=0),
        config=config,
        teacher_size=TeacherSize(macs=count_macs(teacher, data.input_shape), params=count_params(teacher)),
        data=data,
    )
    for _ in range(3):
        stage.step()
    level = stage.levels[0]
    level.refresh()
    tensors, _ = stage.state()
    return Case(teacher=teacher, level=level, engine_scores=unprefixed("saliency.1", tensors), config=config, data=data)


def measured(case: Case, criterion: str, *, micro_batch: int, training: bool, num_images: int | None = None) -> Kept:
    """Scores of every channel, by group, over the training images in micro-batches, weights at rest."""
    network = copy.deepcopy(case.level.network).requires_grad_(requires_grad=True)
    network.train(training)
    meter = SaliencyMeter(find_criterion(criterion), case.channel_map)
    meter.reset(network, case.level.kept)
    for number, batch in enumerate(case.batches(micro_batch)):
        if num_images is not None and number * micro_batch >= num_images:
            break
        network.zero_grad()
        case.loss(network, batch).backward()  # type: ignore[no-untyped-call]
        meter.update()
    return meter.scores()


@contextmanager
def removed(network: nn.Module, case: Case, group: str, channel: int) -> Iterator[None]:
    """The network with one gate at zero."""
    positions = case.channel_map.kept_positions(case.level.kept)
    (found,) = (candidate for candidate in case.channel_map.groups if candidate.name == group)
    hooks = []
    for member in found.members:
        if member.axis == "out" and member.layer in found.gates:
            gone_N = member.positions_N[member.channels_N == case.level.kept[group][channel]]
            here_N = torch.searchsorted(positions[member.layer, "out"], gone_N)
            layer = network.get_submodule(member.layer)
            hooks.append(
                layer.register_forward_hook(lambda _layer, _in, output, gone=here_N: output.index_fill(1, gone, 0.0))
            )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def true_changes(case: Case, *, training: bool) -> dict[str, torch.Tensor]:
    """Change of the loss over all training images when a channel goes, signed, by group."""
    network = copy.deepcopy(case.level.network).train(training)
    for layer in network.modules():
        if isinstance(layer, BATCH_NORMS):
            layer.momentum = 0.0  # statistics at rest
    batches = list(case.batches(BATCH))

    def mean_loss() -> float:
        return statistics.fmean(float(case.loss(network, batch)) for batch in batches)

    whole = mean_loss()
    changes = {}
    for group, kept in case.level.kept.items():
        changes[group] = torch.zeros(len(kept), dtype=torch.float64)
        for channel in range(len(kept)):
            with removed(network, case, group, channel):
                changes[group][channel] = mean_loss() - whole
    return changes


def correlation(scores: Mapping[str, torch.Tensor], truth: Mapping[str, torch.Tensor]) -> float:
    """Spearman's rank correlation over all channels of all groups."""
    names = list(truth)
    return float(spearmanr(torch.cat([scores[n] for n in names]), torch.cat([truth[n] for n in names])).statistic)


def compare(seed: int) -> dict[str, float]:
    """Correlations of one network, by what was compared."""
    case = make_case(seed)
    signed = {mode: true_changes(case, training=mode == "train") for mode in ("train", "eval")}
    size = {mode: {name: change.abs() for name, change in signed[mode].items()} for mode in signed}
    found = {
        "the engine's own scores": correlation(case.engine_scores, size["train"]),
        "the same, signed change": correlation(case.engine_scores, signed["train"]),
        "weight magnitude": correlation(
            measured(case, "weight-magnitude", micro_batch=BATCH, training=True), size["train"]
        ),
    }
    for micro_batch in MICRO_BATCHES:
        for mode in ("train", "eval") if micro_batch > 1 else ("eval",):
            scores = measured(case, "gate-gradient", micro_batch=micro_batch, training=mode == "train")
            found[f"{mode} mode, micro-batch {micro_batch}"] = correlation(scores, size["train"])
            found[f"{mode} mode, micro-batch {micro_batch}, truth in eval mode"] = correlation(scores, size["eval"])
    few = measured(case, "gate-gradient", micro_batch=BATCH, training=True, num_images=5 * BATCH)
    found["train mode, five batches of 64"] = correlation(few, size["train"])
    within = [
        float(spearmanr(case.engine_scores[name], size["train"][name]).statistic)
        for name in case.engine_scores
        if len(case.engine_scores[name]) > 2
    ]
    found["the engine's own scores, within groups (mean)"] = statistics.fmean(within)
    return found


def run() -> list[Row]:
    """Measure it."""
    torch.set_num_threads(NUM_THREADS)
    found = []
    for seed in SEEDS:
        found.append(compare(seed))
        print(f"saliency: seed {seed}: {found[-1]}", file=sys.stderr)
    rows = []
    for name in found[0]:
        values = [figures[name] for figures in found]
        spread = f"mean of {len(SEEDS)} seeds, {min(values):.2f} … {max(values):.2f}"
        if name == "the engine's own scores":
            rows.append(
                Row(
                    name=f"rank correlation: {name}",
                    figure=statistics.fmean(values),
                    rule="at least",
                    target=0.8,
                    note=spread,
                )
            )
        else:
            rows.append(Row(name=f"rank correlation: {name}", figure=statistics.fmean(values), note=spread))
    return rows
