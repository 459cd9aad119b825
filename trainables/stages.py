"""The cascade stage: levels that share weights are trained, each from the next larger one, and fall to their sizes."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from trainables.config import Augmentation, CascadeConfig, Ramp
from trainables.cost import SizeModel, count_macs, count_params, size_model
from trainables.data import DataSplits, num_batches
from trainables.dependencies import find_groups
from trainables.distillation import distillation_loss
from trainables.errors import StageFailure
from trainables.levels import Level, SharedWeights, unused
from trainables.results import EpochProgress, LevelProgress, LevelResult
from trainables.saliency import SaliencyMeter, find_criterion
from trainables.selection import TOLERANCE, SelectionError, check_scores, select
from trainables.training import (
    Tensors,
    accuracy,
    clip_gradients,
    derive_seed,
    epoch_batches,
    learning_rate,
    load_momentum,
    make_optimizer,
    momentum_state,
    prefixed,
    recalibrate,
    seeded_layers,
    set_learning_rate,
    unprefixed,
)


def size_at(fraction: float, *, start: float, end: float, ramp: Ramp) -> float:
    """Size after a fraction of the ramp, in [0, 1]; cubic: Zhu & Gupta 2017, eq. 1, with sizes for sparsities."""
    left = 1.0 - min(1.0, fraction)
    return end + (start - end) * (left**3 if ramp == "cubic" else left)


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """What one stage of a cascade trains.

    Attributes:
        name: `cascade`, or `level-1` … of a sequential cascade.
        levels: numbers of the levels that are trained together, the largest first.
        epochs: passes over the training images.
        first_epoch: epochs of the trial that lie before this stage.
    """

    name: str
    levels: tuple[int, ...]
    epochs: int
    first_epoch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherSize:
    """What sizes are fractions of: the teacher's MACs and parameters."""

    macs: int
    params: int


class CascadeStage:
    """Trains and prunes levels that view one set of weights, one epoch a step; stops and goes on at any epoch.

    Attributes:
        plan: what it trains.
        levels: the levels, the largest first.
        epoch: epochs of this stage that are done.
    """

    def __init__(
        self,
        larger: nn.Module,
        *,
        plan: StagePlan,
        config: CascadeConfig,
        teacher_size: TeacherSize,
        data: DataSplits,
        augmentation: Augmentation = "none",
    ) -> None:
        """Prepare it; nothing is trained yet.

        Args:
            larger: the network that the first level starts from and learns from: the teacher, or the level before.
            plan: levels and epochs.
            config: of the whole cascade.
            teacher_size: what `macs_kept` is a fraction of.
            data: on the network's device.
            augmentation: what training batches go through.

        Raises:
            InputError: if the network's channels cannot be traced or the criterion is unknown.
        """
        self.plan = plan
        self.epoch = 0
        self._config = config
        self._data = data
        self._augmentation: Augmentation = augmentation
        self._teacher_size = teacher_size
        self._larger = larger.eval().requires_grad_(requires_grad=False)
        channel_map = find_groups(larger, data.input_shape)
        self._sizes: SizeModel = size_model(larger, channel_map, data.input_shape)
        self._shared = SharedWeights(larger, channel_map)
        shared_affine = config.pruning.shared_affine
        self.levels = tuple(Level(number, self._shared, shared_affine=shared_affine) for number in plan.levels)
        self._start_macs = count_macs(larger, data.input_shape)
        criterion = find_criterion(config.pruning.saliency)
        self._meters = tuple(SaliencyMeter(criterion, channel_map) for _ in self.levels)
        self._reset_meters()
        self._parameters: dict[str, nn.Parameter] = dict(self._shared.network.named_parameters(prefix="shared"))
        for level in self.levels:
            self._parameters |= {f"level-{level.number}.{name}": p for name, p in level.private.items()}
        self._optimizer = make_optimizer(self._parameters.values(), config.recipe)
        self._steps_per_epoch = num_batches(len(data.train), config.recipe.batch_size)
        self._num_steps = plan.epochs * self._steps_per_epoch
        self._prunings = self._pruning_steps()
        self._steps_taken = 0
        self.results: tuple[LevelResult, ...] = ()

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.plan.name

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.plan.epochs

    def step(self) -> EpochProgress:
        """Train one epoch; after the last, recalibrate and measure.

        Raises:
            StageFailure: if a loss is no longer finite, saliency says nothing, nothing can be removed or a size is
                missed.
        """
        started = time.perf_counter()
        losses, rate = self._train_epoch()
        self.epoch += 1
        for level, loss in zip(self.levels, losses, strict=True):
            if not math.isfinite(loss):
                raise self._failure("the loss is no longer finite; lower the learning rate", level=level.number)
        accuracies = self._validate()
        if self.finished:
            self.results = self._finish(accuracies)
        return EpochProgress(
            stage=self.name,
            epoch=self.epoch,
            num_epochs=self.plan.epochs,
            trial_epoch=self.plan.first_epoch + self.epoch,
            learning_rate=rate,
            seconds=time.perf_counter() - started,
            levels=tuple(
                LevelProgress(
                    level=level.number,
                    macs_kept=self._macs(level) / self._teacher_size.macs,
                    train_loss=loss,
                    val_accuracy=accuracy,
                )
                for level, loss, accuracy in zip(self.levels, losses, accuracies, strict=True)
            ),
        )

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """All that the next epoch depends on, but for the larger network: tensors, and plain values."""
        tensors = prefixed("weights", self._parameters)
        tensors |= prefixed("momentum", momentum_state(self._optimizer, self._parameters))
        for level, meter in zip(self.levels, self._meters, strict=True):
            tensors |= prefixed(f"kept.{level.number}", level.kept)
            tensors |= prefixed(f"buffers.{level.number}", dict(level.network.named_buffers()))
            tensors |= prefixed(f"saliency.{level.number}", meter.sums)
        return tensors, {
            "epoch": self.epoch,
            "saliency_batches": [meter.num_batches for meter in self._meters],
            "results": [result.to_dict() for result in self.results],
        }

    @torch.no_grad()
    def load_state(self, tensors: Tensors, values: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, with the same larger network."""
        for name, parameter in self._parameters.items():
            parameter.copy_(tensors[f"weights.{name}"])
        load_momentum(self._optimizer, self._parameters, unprefixed("momentum", tensors))
        for level in self.levels:
            level.keep(unprefixed(f"kept.{level.number}", tensors))
            saved = unprefixed(f"buffers.{level.number}", tensors)
            for name, buffer in level.network.named_buffers():
                buffer.copy_(saved[name])
        self._reset_meters()
        for level, meter, batches in zip(self.levels, self._meters, values["saliency_batches"], strict=True):
            meter.num_batches = batches
            for group, sums in unprefixed(f"saliency.{level.number}", tensors).items():
                meter.sums[group].copy_(sums)
        self.epoch = values["epoch"]
        self._steps_taken = self.epoch * self._steps_per_epoch
        self.results = tuple(LevelResult.from_dict(result) for result in values["results"])

    def _train_epoch(self) -> tuple[list[float], float]:
        """Train one epoch; mean loss of each level, and the last learning rate."""
        recipe = self._config.recipe
        seed = derive_seed(self._config.seed, self.name, self.epoch)
        device = next(self._shared.network.parameters()).device
        totals = torch.zeros(len(self.levels), device=device)
        rate = 0.0
        for level in self.levels:
            level.network.train()
        with seeded_layers(seed, device):
            for images, labels in epoch_batches(self._data, recipe, self._augmentation, seed):
                rate = learning_rate(self._steps_taken, self._num_steps, recipe)
                set_learning_rate(self._optimizer, rate)
                totals += self.train_step(images, labels)
                if self._steps_taken in self._prunings:
                    self._prune(self._prunings[self._steps_taken])
        return (totals / self._steps_per_epoch).tolist(), rate

    def train_step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One optimiser step on the sum of the levels' losses.

        Args:
            images: normalised, N x channels x height x width.
            labels: N classes.

        Returns:
            The loss of each level, detached.
        """
        for parameter in self._parameters.values():
            assert parameter.grad is not None
            parameter.grad.zero_()
        with torch.no_grad():
            larger_logits = self._larger(images)
        losses = []
        for level, meter in zip(self.levels, self._meters, strict=True):
            level.refresh()
            logits = level.network(images)
            loss = distillation_loss(
                logits,
                larger_logits,
                labels,
                temperature=self._config.temperature,
                weight=self._config.distillation_weight,
                label_smoothing=self._config.recipe.label_smoothing,
            )
            loss.backward()  # type: ignore[no-untyped-call]
            level.accumulate_gradients()
            if self._steps_taken < max(self._prunings):  # later on nothing is chosen any more
                meter.update()
            larger_logits = logits.detach()
            losses.append(loss.detach())
        clip_gradients(self._parameters.values(), self._config.recipe)
        self._optimizer.step()
        self._steps_taken += 1
        return torch.stack(losses)

    def _pruning_steps(self) -> dict[int, float]:
        """Steps after which channels go, with the fraction of the ramp that is done then."""
        ramp_steps = max(1, round(self._config.pruning.ramp_fraction * self._num_steps))
        number = min(self._config.pruning.num_prunings, ramp_steps)
        return {round(event * ramp_steps / number): event / number for event in range(1, number + 1)}

    @torch.no_grad()
    def _prune(self, fraction: float) -> None:
        """Let every level fall to its size at this fraction of the ramp."""
        # A nested level keeps only what the level above keeps, so the smaller level chooses first and what it keeps
        # is closed to the choice of the level above.
        protected = None
        for level, meter in reversed(list(zip(self.levels, self._meters, strict=True))):
            self._prune_level(level, meter, fraction, protected)
            if self._config.pruning.nested:
                protected = level.kept
        for dense, mask in unused(self.levels).items():
            momentum = self._optimizer.state[dense].get("momentum_buffer")
            if momentum is not None:
                momentum.masked_fill_(mask, 0.0)

    def _prune_level(
        self,
        level: Level,
        meter: SaliencyMeter,
        fraction: float,
        protected: Mapping[str, torch.Tensor] | None,
    ) -> None:
        final = self._target_macs(level)
        ramp = self._config.pruning.ramp
        target = size_at(fraction, start=float(self._start_macs), end=final, ramp=ramp)
        macs = self._macs(level)
        if macs > target:
            scores = meter.scores()
            try:
                check_scores(scores)
                kept = select(
                    level.kept,
                    scores,
                    target_macs=target,
                    final_macs=final,
                    sizes=self._sizes,
                    channel_map=self._shared.channel_map,
                    pruning=self._config.pruning,
                    protected=protected,
                )
            except SelectionError as error:
                raise self._failure(error.reason, level=level.number, group=error.group) from error
            removed = sum(len(level.kept[group]) - len(kept[group]) for group in kept)
            if removed == 0 and macs > target * (1 + TOLERANCE):
                raise self._failure("a pruning step removed nothing", level=level.number)
            level.keep(kept)
        meter.reset(level.network, level.kept)

    def _macs(self, level: Level) -> int:
        """What `count_macs` of its network gives, without running it."""
        counts_G = np.array([len(level.kept[group.name]) for group in self._shared.channel_map.groups])
        return round(self._sizes.macs(counts_G))

    def _target_macs(self, level: Level) -> float:
        return self._config.macs_kept[level.number - 1] * self._teacher_size.macs

    def _reset_meters(self) -> None:
        for level, meter in zip(self.levels, self._meters, strict=True):
            meter.reset(level.network, level.kept)

    def _validate(self) -> list[float]:
        accuracies = []
        for level in self.levels:
            level.refresh()
            accuracies.append(accuracy(level.network, self._data))
        return accuracies

    def _finish(self, accuracies: Sequence[float]) -> tuple[LevelResult, ...]:
        results = []
        for level, before in zip(self.levels, accuracies, strict=True):
            macs = count_macs(level.network, self._data.input_shape)
            target = self._target_macs(level)
            too_small = macs < target * (1 - TOLERANCE) and self._config.pruning.round_to == 1
            if too_small or macs > target * (1 + TOLERANCE):
                raise self._failure(
                    f"{macs} MACs, but {target:.0f} were asked and at most {TOLERANCE:.0%} may lie between",
                    level=level.number,
                )
            recalibrate(level.network, self._data, batch_size=self._config.recipe.batch_size, seed=self._config.seed)
            params = count_params(level.network)
            results.append(
                LevelResult(
                    level=level.number,
                    num_levels=self._config.num_levels,
                    val_accuracy=accuracy(level.network, self._data),
                    val_accuracy_before_recalibration=before,
                    macs=macs,
                    macs_kept=macs / self._teacher_size.macs,
                    params=params,
                    params_kept=params / self._teacher_size.params,
                )
            )
        return tuple(results)

    def _failure(self, reason: str, *, level: int, group: str | None = None) -> StageFailure:
        return StageFailure(reason, stage=self.name, level=level, group=group, step=self._steps_taken)
