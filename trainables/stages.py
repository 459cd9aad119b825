"""The cascade stage: levels that share weights are trained, each from the next larger one, and fall to their sizes."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from trainables.config import CascadeConfig
from trainables.cost import macs_model, size_model
from trainables.data import DataSplits
from trainables.data_config import Augmentation
from trainables.dependencies import find_groups
from trainables.errors import StageFailure
from trainables.evaluation import Evaluation
from trainables.images import num_batches
from trainables.joint import JointStep
from trainables.levels import Cuts, Level, SharedWeights
from trainables.measurement import Measurement
from trainables.midway import Midway, Pace
from trainables.optimizers import learning_rate, set_learning_rate
from trainables.plan import StagePlan
from trainables.pruning import LevelPruner, pruning_steps
from trainables.ranks import ALONE, Ranks
from trainables.remembered import RememberedLogits, num_views, require_room_for_logits
from trainables.results import EpochProgress, LevelProgress, LevelResult
from trainables.saliency import find_criterion
from trainables.sandwich import Sandwich
from trainables.selection import SelectionError
from trainables.teacher_size import TeacherSize
from trainables.training import (
    Tensors,
    batch_layout,
    derive_seed,
    drawn_layers,
    epoch_batches,
    prefixed,
    seeded_layers,
    unprefixed,
)


class CascadeStage:
    """Trains and prunes levels that view one set of weights, an epoch or a part of one a step; stops and goes on there.

    A recovery is the same for one level that has its size: nothing is removed, and it starts from itself.

    Attributes:
        plan: what it trains.
        levels: the levels, the largest first.
        pruners: what brings each of them to its size.
        epoch: epochs of this stage that are done.
    """

    def __init__(  # noqa: PLR0913
        self,
        larger: nn.Module,
        *,
        plan: StagePlan,
        config: CascadeConfig,
        teacher_size: TeacherSize,
        data: DataSplits,
        augmentation: Augmentation = "none",
        start: nn.Module | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Prepare it; nothing is trained yet.

        Args:
            larger: the network that the first level learns from: the teacher, or the level before.
            plan: levels and epochs.
            config: of the whole cascade.
            teacher_size: what `macs_kept` is a fraction of.
            data: on the network's device.
            augmentation: what training batches go through.
            start: the network that the levels start from; `None` for the larger one.
            ranks: who train them together.

        Raises:
            InputError: if the network's channels cannot be traced, the criterion is unknown, the recipe does not fit
                the classes, sizes are in latency and no layers were timed, or there is too much to remember.
        """
        require_room_for_logits(config.teacher_views, data)
        self.plan = plan
        self.epoch = 0
        self._config = config
        self._data = data
        self._augmentation: Augmentation = augmentation
        self._teacher_size = teacher_size
        self._larger = larger.eval().requires_grad_(requires_grad=False)
        self._ranks = ranks
        self._layout = batch_layout(self._larger, data)
        start = larger if start is None else start
        channel_map = find_groups(start, data.input_shape, keep=config.pruning.keep)
        self._shared = SharedWeights(start, channel_map)
        shared_affine = config.pruning.shared_affine
        self._regrows = config.pruning.regrowth > 0.0
        self.levels = tuple(
            Level(number, self._shared, shared_affine=shared_affine, may_widen=self._regrows) for number in plan.levels
        )
        unit = config.pruning.size_in
        sizes = size_model(start, channel_map, data.input_shape, unit=unit, latency=teacher_size.table)
        self._macs = sizes if unit == "macs" else macs_model(start, channel_map, data.input_shape)
        self.pruners = tuple(
            LevelPruner(
                level,
                criterion=find_criterion(config.pruning.saliency),
                sizes=sizes,
                final=config.macs_kept[level.number - 1] * teacher_size.of(unit),
                pruning=config.pruning,
            )
            for level in self.levels
        )
        self._joint = JointStep(self._larger, self._shared, self.pruners, config=config, data=data, ranks=ranks)
        self._steps_per_epoch = num_batches(len(data.train), config.recipe.batch_size)
        self._num_steps = plan.epochs * self._steps_per_epoch
        views = num_views(config, plan.epochs)
        self._remembered = (
            None if views is None else RememberedLogits(num_views=views, num_batches=self._steps_per_epoch)
        )
        self._prunings = pruning_steps(config.pruning, self._num_steps) if plan.kind == "pruning" else {}
        self._last_pruning = max(self._prunings, default=0)
        self._measure = Measurement(config=config, data=data, teacher_size=teacher_size, ranks=ranks)
        self._sandwich = Sandwich(
            levels=plan.levels,
            levels_a_step=config.levels_a_step,
            steps_per_epoch=self._steps_per_epoch,
            prunings=self._prunings,
            seed=derive_seed(config.seed, self.name),
        )
        self._steps_taken = 0
        self._midway: Midway | None = None
        self._hold_if_pruned()
        self.results: tuple[LevelResult, ...] = ()

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.plan.name

    @property
    def begun(self) -> bool:
        """Whether any step was taken."""
        return self._steps_taken > 0

    @property
    def num_epochs(self) -> float:
        """Epochs that are done, and of the one that is not the part that is."""
        return self._steps_taken / self._steps_per_epoch

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch >= self.plan.epochs

    def step(self) -> EpochProgress:
        """Train one epoch, or what is left of it; as `step_for` otherwise."""
        progress = self.step_for(math.inf)
        assert progress is not None
        return progress

    def step_for(self, seconds: float) -> EpochProgress | None:
        """Train one epoch, or a part of it; after the last, recalibrate and measure.

        Args:
            seconds: that a part takes, about, at the end of which the stage can be stopped and go on; the same on all
                ranks.

        Returns:
            What the epoch came to, or `None` where it goes on.

        Raises:
            StageFailure: if a loss is no longer finite, saliency says nothing, nothing can be removed or a size is
                missed.
            RanksDiffer: if ranks have come to other weights, or chosen other channels, than one another.
        """
        started = time.perf_counter()
        midway, rate = self._train(seconds)
        if midway.place < self._steps_per_epoch:
            self._midway = replace(midway, seconds=midway.seconds + time.perf_counter() - started)
            return None
        self._midway = None
        losses = midway.losses
        self.epoch += 1
        for level, loss in zip(self.levels, losses, strict=True):
            if not math.isfinite(loss):
                raise self._failure("the loss is no longer finite; lower the learning rate", level=level.number)
        found = self._validate()
        if self.finished:
            self.results = self._finish(found)
        return EpochProgress(
            stage=self.name,
            epoch=self.epoch,
            num_epochs=self.plan.epochs,
            trial_epoch=self.plan.first_epoch + self.epoch,
            learning_rate=rate,
            seconds=midway.seconds + time.perf_counter() - started,
            levels=tuple(
                LevelProgress(
                    level=pruner.level.number,
                    macs_kept=self._macs.total(pruner.counts_G) / self._teacher_size.macs,
                    train_loss=loss,
                    val_accuracy=evaluation.accuracy,
                    val_top5=evaluation.top5,
                )
                for pruner, loss, evaluation in zip(self.pruners, losses, found, strict=True)
            ),
        )

    def stop(self) -> None:
        """End before all epochs are done; `results` are the levels as they are, if they have reached their sizes.

        Raises:
            StageFailure: if a size is missed.
        """
        if self._steps_taken >= self._last_pruning:
            self.results = self._finish(self._validate())

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """All that what comes next depends on, but for the larger network: tensors, and plain values."""
        tensors, midway = self._joint.state(), None
        if self._midway is not None:
            more, midway = self._midway.state()
            tensors |= prefixed("midway", more)
        for pruner in self.pruners:
            level = pruner.level
            tensors |= prefixed(f"kept.{level.number}", level.kept)
            tensors |= prefixed(f"buffers.{level.number}", dict(level.network.named_buffers()))
            tensors |= prefixed(f"saliency.{level.number}", pruner.meter.sums)
        return tensors, {
            "epoch": self.epoch,
            "midway": midway,
            "saliency_batches": [pruner.meter.num_batches for pruner in self.pruners],
            "results": [result.to_dict() for result in self.results],
        }

    @torch.no_grad()
    def load_state(self, tensors: Tensors, values: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, with the same larger network."""
        for pruner, num_batches_seen in zip(self.pruners, values["saliency_batches"], strict=True):
            number = pruner.level.number
            pruner.load(
                unprefixed(f"kept.{number}", tensors),
                unprefixed(f"buffers.{number}", tensors),
                unprefixed(f"saliency.{number}", tensors),
                num_batches_seen,
            )
        self.epoch = values["epoch"]
        self._midway = None
        if values.get("midway") is not None:  # earlier versions knew whole epochs alone
            self._midway = Midway.from_state(unprefixed("midway", tensors), values["midway"], self._device)
        place = 0 if self._midway is None else self._midway.place
        self._steps_taken = self.epoch * self._steps_per_epoch + place
        self._drop_unread()
        self._joint.load_state(tensors)
        self._hold_if_pruned()
        self.results = tuple(LevelResult.from_dict(result) for result in values["results"])

    @property
    def _device(self) -> torch.device:
        return next(self._shared.network.parameters()).device

    def _train(self, seconds: float) -> tuple[Midway, float]:
        """Train what is left of an epoch, or a part of it; what it has come to, and the last learning rate."""
        recipe = self._config.recipe
        seed = derive_seed(self._config.seed, self.name, self.epoch)
        view = self.epoch if self._remembered is None else self._remembered.view(self.epoch)
        seed_of_batches = derive_seed(self._config.seed, self.name, view)
        device, rate = self._device, 0.0
        begun = Midway.fresh(len(self.levels), device) if self._midway is None else self._midway
        place, totals, num_steps = begun.place, begun.totals.clone(), list(begun.num_steps)
        pace = Pace(seconds, self._ranks, device)
        for level in self.levels:
            level.network.train()
        with seeded_layers(seed, device, begun.draws):
            for images, labels in epoch_batches(
                self._data, recipe, self._augmentation, seed_of_batches, self._layout, start=place
            ):
                rate = learning_rate(self._steps_taken, self._num_steps, recipe)
                set_learning_rate(self._joint.optimizer, rate)
                totals += self.train_step(images, labels)
                for index, level in enumerate(self.levels):
                    num_steps[index] += int(level.number in self._joint.taking_part)
                if self._steps_taken in self._prunings:
                    self._prune(self._prunings[self._steps_taken])
                    self._hold_if_pruned()
                place += 1
                if pace.is_over(totals):
                    break
            draws = drawn_layers(device)
        counts = tuple(num_steps)
        return Midway(place=place, totals=totals, num_steps=counts, seconds=begun.seconds, draws=draws), rate

    def train_step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One optimiser step on the sum of the levels' losses.

        Args:
            images: of the whole batch, on every rank, normalised, N x channels x height x width.
            labels: N classes, or the share of every class, N x classes.

        Returns:
            The loss of each level, detached; 0 of those that take no part.
        """
        if self._regrows and self._steps_taken + 1 in self._prunings and self._steps_taken + 1 < self._last_pruning:
            self._joint.widen()
        self._joint.taking_part = self._sandwich(self._steps_taken)
        if self._remembered is not None:
            epoch, place = divmod(self._steps_taken, self._steps_per_epoch)
            logits = self._remembered(epoch, place, lambda: self._joint.logits(images, labels))
            losses = self._joint.given(images, labels, logits)
        elif self._steps_taken % self._config.teacher_every == 0:
            losses = self._joint(images, labels)
        else:
            losses = self._joint.alone(images, labels)
        self._steps_taken += 1
        return losses

    def _hold_if_pruned(self) -> None:
        """After the last pruning nothing is chosen any more."""
        if self._steps_taken >= self._last_pruning:
            self._joint.hold()

    @torch.no_grad()
    def _prune(self, fraction: float) -> None:
        """Let every level fall to its size at this fraction of the ramp."""
        for pruner in self.pruners:
            self._ranks.average(pruner.meter.sums.values())
        # A nested level keeps only what the level above keeps, so the smaller level chooses first and what it keeps
        # is closed to the choice of the level above.
        protected = None
        cuts: Cuts = {}
        for pruner in reversed(self.pruners):
            with self._failing(pruner.level):
                cuts |= pruner.fall(fraction, protected=protected)
            if self._config.pruning.nested:
                protected = pruner.level.kept
        for level in self.levels:
            self._ranks.require_same(level.kept, what=f"channels of level {level.number}")
        self._joint.cut(cuts | self._drop_unread())

    def _drop_unread(self) -> Cuts:
        """Remove from θ what no level keeps, and none can get back."""
        if self._regrows and self._steps_taken < self._last_pruning:
            return {}
        return self._shared.drop_unread(self.levels)

    def _validate(self) -> list[Evaluation]:
        self._ranks.require_same(self._joint.parameters, what="weights")
        with self._joint.average.in_place():
            for level in self.levels:
                level.refresh()
        return [self._measure.validate(level) for level in self.levels]

    def _finish(self, evaluations: Sequence[Evaluation]) -> tuple[LevelResult, ...]:
        results = []
        for pruner, before in zip(self.pruners, evaluations, strict=True):
            with self._failing(pruner.level):
                results.append(self._measure.finish(pruner, before, fidelity=self.epoch / self.plan.epochs))
        return tuple(results)

    def _failure(self, reason: str, *, level: int, group: str | None = None) -> StageFailure:
        return StageFailure(reason, stage=self.name, level=level, group=group, step=self._steps_taken)

    @contextmanager
    def _failing(self, level: Level) -> Iterator[None]:
        """Say of a choice that failed where it was."""
        try:
            yield
        except SelectionError as error:
            raise self._failure(error.reason, level=level.number, group=error.group) from error
