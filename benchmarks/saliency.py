"""Rank correlation between saliency and the true change of loss when one channel is removed.

Two networks are looked at. The first is a small trained network: trained to its end on the labels, loss cross-entropy.
The second is a level in the middle of its ramp: a real stage has pruned it once and trained it on at a high learning
rate, loss its own (cross-entropy and distillation); there the engine's own scores, gathered while weights moved, are
compared too. The truth is the loss over the training images, in the batches of the recipe and with train-mode batch
norm, since that is the function that training follows: once as it is, once with one channel's gate at zero. All
channels of all groups are ranked together. The change is signed.

Beside the engine's squares of a batch's gate gradient stands the second-order expansion of the loss in the gate, from
1 to 0: −g + h/2, with the mean square of each image's own gate gradient for h (Theis et al. 2018, "Faster gaze
prediction with dense networks and Fisher pruning").
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
from orchestrator.data.datasets import load_splits
from trainables.config import CascadeConfig
from trainables.data_config import DataConfig
from trainables.datasets.data import DataSplits, normalise
from trainables.datasets.images import in_memory
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.plan import StagePlan
from trainables.pruning.channels import BATCH_NORMS, ChannelMap, Kept
from trainables.pruning.levels import Level
from trainables.pruning.network_size import NetworkSize
from trainables.pruning.saliency import SaliencyMeter, find_criterion
from trainables.pruning_config import Pruning
from trainables.recipe import Recipe
from trainables.stages.cascade import CascadeStage
from trainables.stages.objective import Objective
from trainables.stages.teacher import TeacherStage
from trainables.tensors import unprefixed

NUM_THREADS = 1
SEEDS = (0, 1, 2)
BATCH = 64
MICRO_BATCHES = (4, 16, 64)
TRAINED = "trained network, the engine's criterion"
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

    def loss(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """The level's own loss."""
        images, labels = batch
        with torch.no_grad():
            larger = self.teacher(images)
        return Objective().of_level(
            network(images),
            larger,
            labels,
            temperature=self.config.temperature,
            weight=self.config.distillation_weight,
        )

    def batches(self, size: int) -> Iterator[Batch]:
        """All training images in one fixed, mixed order."""
        train = in_memory(self.data.train, purpose="this benchmark")
        images = normalise(train.images_NCHW, self.data.mean, self.data.std)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        for start in range(0, len(order) - BATCH + 1, size):
            yield images[order[start : start + size]], train.labels_N[order[start : start + size]]


def make_case(seed: int, *, epochs: int, distillation_weight: float) -> Case:
    """A teacher of six epochs, and a level of it after some epochs: none leave it whole, three prune it once."""
    data = load_splits(DataConfig(name="digits"))
    teacher = build(ModelConfig(name="vgg-small", width=0.5), num_classes=10, in_channels=1, seed=seed)
    recipe = Recipe(epochs=6, batch_size=BATCH, learning_rate=0.05)
    training = TeacherStage(teacher, recipe=recipe, data=data, seed=seed)
    while not training.finished:
        training.train_epoch()
    config = CascadeConfig(
        macs_kept=(0.2,),
        distillation_weight=distillation_weight,
        pruning=Pruning(num_prunings=2),
        recipe=Recipe(epochs=8, batch_size=BATCH),
        seed=seed,
    )
    stage = CascadeStage(
        teacher,
        plan=StagePlan(name="cascade", levels=(1,), epochs=8, first_epoch=0),
        config=config,
        teacher_size=NetworkSize.count(teacher, data.input_shape),
        data=data,
    )
    for _ in range(epochs):
        stage.train_epoch()
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


def second_order(case: Case, *, num_images: int | None = None) -> dict[str, torch.Tensor]:
    """Mean over images of −g + g²/2 with g each image's own gate gradient, by group; train mode, batches of 64."""
    network = copy.deepcopy(case.level.network).requires_grad_(requires_grad=True).train()
    gates: dict[str, torch.Tensor] = {}

    def gated(name: str, output: torch.Tensor) -> torch.Tensor:
        gates[name] = output.new_ones(*output.shape[:2], 1, 1, requires_grad=True)
        return output * gates[name]

    for group in case.channel_map.groups:
        (layer,) = group.gates  # one norm a group in a VGG
        network.get_submodule(layer).register_forward_hook(
            lambda _layer, _inputs, output, name=group.name: gated(name, output)
        )
    scores = {name: torch.zeros(len(kept)) for name, kept in case.level.kept.items()}
    for number, batch in enumerate(case.batches(BATCH)):
        if num_images is not None and number * BATCH >= num_images:
            break
        case.loss(network, batch).backward()  # type: ignore[no-untyped-call]
        for name, gate in gates.items():
            assert gate.grad is not None
            own_NC = gate.grad.flatten(1) * BATCH  # the loss is a mean over the batch
            scores[name] += (-own_NC + own_NC.square() / 2).mean(0)
    return scores


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
    """Correlations for one seed, by what was compared."""
    trained = make_case(seed, epochs=0, distillation_weight=0.0)
    truth = true_changes(trained, training=True)
    found = {
        TRAINED: correlation(measured(trained, "gate-gradient", micro_batch=BATCH, training=True), truth),
        "trained network, the same in eval mode": correlation(
            measured(trained, "gate-gradient", micro_batch=BATCH, training=False), true_changes(trained, training=False)
        ),
        "trained network, weight magnitude": correlation(
            measured(trained, "weight-magnitude", micro_batch=BATCH, training=True), truth
        ),
        "trained network, second order": correlation(second_order(trained), truth),
    }
    ramp = make_case(seed, epochs=3, distillation_weight=0.7)
    truth = true_changes(ramp, training=True)
    found["in mid-ramp, the engine's scores as gathered"] = correlation(ramp.engine_scores, truth)
    for micro_batch in MICRO_BATCHES:
        scores = measured(ramp, "gate-gradient", micro_batch=micro_batch, training=True)
        found[f"in mid-ramp, squares at rest, batches of {micro_batch}"] = correlation(scores, truth)
    found["in mid-ramp, weight magnitude"] = correlation(
        measured(ramp, "weight-magnitude", micro_batch=BATCH, training=True), truth
    )
    found["in mid-ramp, second order at rest, 5 batches"] = correlation(second_order(ramp, num_images=5 * BATCH), truth)
    found["in mid-ramp, second order at rest, all images"] = correlation(second_order(ramp), truth)
    return found


def run() -> list[Row]:
    """Measure it."""
    torch.set_num_threads(NUM_THREADS)
    found = []
    for seed in SEEDS:
        found.append(compare(seed))
        print(f"saliency: seed {seed} of {len(SEEDS)}", file=sys.stderr)
    rows = []
    for name in found[0]:
        values = [figures[name] for figures in found]
        rows.append(
            Row(
                name=f"rank correlation: {name}",
                figure=statistics.fmean(values),
                rule="at least" if name == TRAINED else "none",
                target=0.8,
                note=f"mean of {len(SEEDS)} seeds, {min(values):.2f} … {max(values):.2f}",
            )
        )
    return rows
