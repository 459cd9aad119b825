"""The cascade stage: levels that share weights are trained, each from the next larger one, and fall to their sizes."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainables.averaging import WeightAverage
from trainables.config import Augmentation, CascadeConfig, SizeUnit
from trainables.cost import LatencyTable, count_macs, count_params, macs_model, require_table, size_model
from trainables.data import DataSplits, num_batches
from trainables.dependencies import find_groups
from trainables.errors import StageFailure
from trainables.evaluation import Evaluation, evaluate
from trainables.execution import Forward, RecordedStep, compiled
from trainables.gradients import gradients_of_both
from trainables.levels import Cuts, Level, SharedWeights
from trainables.objective import Objective
from trainables.optimizers import (
    clip_gradients,
    cut_state,
    learning_rate,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
    set_learning_rate,
)
from trainables.plan import StagePlan
from trainables.pruning import LevelPruner, pruning_steps
from trainables.results import EpochProgress, LevelProgress, LevelResult
from trainables.saliency import find_criterion
from trainables.selection import SelectionError
from trainables.training import (
    CALIBRATION_BATCHES,
    Tensors,
    autocast,
    batch_layout,
    derive_seed,
    epoch_batches,
    micro_batches,
    prefixed,
    recalibrate,
    seeded_layers,
    unprefixed,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherSize:
    """What sizes are fractions of: the teacher's MACs and parameters, and the milliseconds that the table gives it.

    Attributes:
        macs: multiply-accumulates of one image.
        params: number of parameters.
        latency_ms: modelled; 0 where no layers were timed.
        table: the layers' times; `None` where none were taken.
    """

    macs: int
    params: int
    latency_ms: float = 0.0
    table: LatencyTable | None = None

    @classmethod
    def count(cls, network: nn.Module, input_shape: tuple[int, int, int], table: LatencyTable | None) -> "TeacherSize":
        """The size of a network, the teacher or a level, on images of a shape."""
        return cls(
            macs=count_macs(network, input_shape),
            params=count_params(network),
            latency_ms=0.0 if table is None else table.total(network),
            table=table,
        )

    def of(self, unit: SizeUnit) -> float:
        """The size in a unit.

        Raises:
            InputError: if sizes are in latency and there is no table.
        """
        if unit == "latency":
            require_table(self.table)
            return self.latency_ms
        return self.macs if unit == "macs" else self.params


class CascadeStage:
    """Trains and prunes levels that view one set of weights, one epoch a step; stops and goes on at any epoch.

    A recovery is the same for one level that has its size: nothing is removed, and it starts from itself.

    Attributes:
        plan: what it trains.
        levels: the levels, the largest first.
        pruners: what brings each of them to its size.
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
        start: nn.Module | None = None,
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

        Raises:
            InputError: if the network's channels cannot be traced, the criterion is unknown, the recipe does not fit
                the classes, or sizes are in latency and no layers were timed.
        """
        self.plan = plan
        self.epoch = 0
        self._config = config
        self._data = data
        self._augmentation: Augmentation = augmentation
        self._teacher_size = teacher_size
        self._larger = larger.eval().requires_grad_(requires_grad=False)
        self._layout = batch_layout(self._larger, data)
        start = larger if start is None else start
        channel_map = find_groups(start, data.input_shape, keep=config.pruning.keep)
        self._shared = SharedWeights(start, channel_map)
        shared_affine = config.pruning.shared_affine
        self.levels = tuple(Level(number, self._shared, shared_affine=shared_affine) for number in plan.levels)
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
        self._parameters: dict[str, nn.Parameter] = dict(self._shared.network.named_parameters(prefix="shared"))
        for level in self.levels:
            self._parameters |= {f"level-{level.number}.{name}": p for name, p in level.private.items()}
        self._optimizer = make_optimizer(self._parameters.values(), config.recipe)
        self._average = WeightAverage(self._parameters, config.recipe.ema)
        self._objective = Objective.of(config.recipe, data)
        self._steps_per_epoch = num_batches(len(data.train), config.recipe.batch_size)
        self._num_steps = plan.epochs * self._steps_per_epoch
        self._prunings = pruning_steps(config.pruning, self._num_steps) if plan.kind == "pruning" else {}
        self._last_pruning = max(self._prunings, default=0)
        self._steps_taken = 0
        self._step = RecordedStep(self._compute_step, config.recipe.execution)
        self._forwards: dict[int, Forward] = {}  # of levels that are compiled
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
        found = self._validate()
        if self.finished:
            self.results = self._finish(found)
        return EpochProgress(
            stage=self.name,
            epoch=self.epoch,
            num_epochs=self.plan.epochs,
            trial_epoch=self.plan.first_epoch + self.epoch,
            learning_rate=rate,
            seconds=time.perf_counter() - started,
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
        """All that the next epoch depends on, but for the larger network: tensors, and plain values."""
        tensors = prefixed("weights", self._parameters)
        tensors |= prefixed("optimizer", optimizer_state(self._optimizer, self._parameters))
        tensors |= prefixed("average", self._average.tensors)
        for pruner in self.pruners:
            level = pruner.level
            tensors |= prefixed(f"kept.{level.number}", level.kept)
            tensors |= prefixed(f"buffers.{level.number}", dict(level.network.named_buffers()))
            tensors |= prefixed(f"saliency.{level.number}", pruner.meter.sums)
        return tensors, {
            "epoch": self.epoch,
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
        self._shared.drop_unread(self.levels)
        for name, parameter in self._parameters.items():
            parameter.copy_(tensors[f"weights.{name}"])
        load_optimizer_state(self._optimizer, self._parameters, unprefixed("optimizer", tensors))
        self._average.load(unprefixed("average", tensors))
        self.epoch = values["epoch"]
        self._steps_taken = self.epoch * self._steps_per_epoch
        self._step.forget()
        self._forwards = {}
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
            for images, labels in epoch_batches(self._data, recipe, self._augmentation, seed, self._layout):
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
            labels: N classes, or the share of every class, N x classes.

        Returns:
            The loss of each level, detached.
        """
        if self._compiles:
            self._forwards = {level.number: compiled(level.network) for level in self.levels}
        losses = self._step(images, labels)
        if self._measures:
            for pruner in self.pruners:
                pruner.meter.num_batches += 1
        self._steps_taken += 1
        return losses

    @property
    def _measures(self) -> bool:
        """Whether saliency is still needed; after the last pruning nothing is chosen any more."""
        return self._steps_taken < self._last_pruning

    @property
    def _compiles(self) -> bool:
        """Whether it is time to compile: the levels have their sizes, and are not compiled yet."""
        asked = self._config.recipe.execution == "compile"
        return asked and not self._measures and not self._forwards

    def _compute_step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """All of a step that happens on the device, so that it can be recorded there."""
        recipe = self._config.recipe
        parts = micro_batches(images, labels, recipe.accumulate)
        for parameter in self._parameters.values():
            assert parameter.grad is not None
            parameter.grad.zero_()
        teacher_logits = self._larger_logits(parts)
        larger_logits = teacher_logits
        losses = []
        for pruner in self.pruners:
            pruner.level.refresh()
            if self._measures and self._config.pruning.saliency_loss == "labels":
                loss, logits = gradients_of_both(
                    pruner, parts, larger_logits, losses=(self._objective.of_labels, self._level_loss), recipe=recipe
                )
            else:
                loss, logits = self._level_gradients(pruner.level, parts, larger_logits)
                # Of the whole batch, so that saliency does not depend on how many parts it fits into memory in.
                if self._measures:
                    pruner.meter.add_scores()
            pruner.level.accumulate_gradients()
            losses.append(loss)
            larger_logits = teacher_logits if self._config.learns_from == "teacher" else logits
        clip_gradients(self._parameters.values(), self._config.recipe)
        self._optimizer.step()
        self._average.update()
        return torch.stack(losses)

    @torch.no_grad()
    def _larger_logits(self, parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
        """Logits of the larger network; zeros, without running it, where nothing is learnt from them."""
        if self._config.distillation_weight == 0.0:
            return [images.new_zeros(len(images), self._data.num_classes) for images, _ in parts]
        with autocast(self._config.recipe, parts[0][0].device):
            return [self._larger(images).float() for images, _ in parts]

    def _level_gradients(
        self,
        level: Level,
        parts: Sequence[tuple[torch.Tensor, torch.Tensor]],
        larger_logits: Sequence[torch.Tensor],
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Leave the gradient of a level's loss over a batch in its network; the loss, and the logits of each part."""
        num_images = sum(len(labels) for _, labels in parts)
        total = torch.zeros((), device=larger_logits[0].device)
        found = []
        for (images, labels), larger in zip(parts, larger_logits, strict=True):
            with autocast(self._config.recipe, images.device):
                logits = self._forwards.get(level.number, level.network)(images)
            logits = logits.float()  # losses are sums of exponentials
            loss = self._level_loss(logits, larger, labels) * (len(labels) / num_images)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
            found.append(logits.detach())
        return total, found

    def _level_loss(self, logits: torch.Tensor, larger: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return self._objective.of_level(
            logits,
            larger,
            labels,
            temperature=self._config.temperature,
            weight=self._config.distillation_weight,
        )

    @torch.no_grad()
    def _prune(self, fraction: float) -> None:
        """Let every level fall to its size at this fraction of the ramp."""
        # A nested level keeps only what the level above keeps, so the smaller level chooses first and what it keeps
        # is closed to the choice of the level above.
        protected = None
        cuts: Cuts = {}
        for pruner in reversed(self.pruners):
            with self._failing(pruner.level):
                cuts |= pruner.fall(fraction, protected=protected)
            if self._config.pruning.nested:
                protected = pruner.level.kept
        cuts |= self._shared.drop_unread(self.levels)
        cut_state(self._optimizer, cuts)
        self._average.cut(cuts)
        self._step.forget()

    def _validate(self) -> list[Evaluation]:
        with self._average.in_place():
            for level in self.levels:
                level.refresh()
        found = []
        for level in self.levels:
            if self._config.recipe.ema is not None:  # training left statistics of other weights
                self._recalibrate(level, max_batches=CALIBRATION_BATCHES)
            found.append(evaluate(level.network, self._data))
        return found

    def _recalibrate(self, level: Level, *, max_batches: int | None = None) -> None:
        recipe, seed = self._config.recipe, self._config.seed
        recalibrate(level.network, self._data, batch_size=recipe.batch_size, seed=seed, max_batches=max_batches)

    def _finish(self, evaluations: Sequence[Evaluation]) -> tuple[LevelResult, ...]:
        results = []
        for pruner, before in zip(self.pruners, evaluations, strict=True):
            level = pruner.level
            size = TeacherSize.count(level.network, self._data.input_shape, self._teacher_size.table)
            with self._failing(level):
                pruner.check_size(size.of(self._config.pruning.size_in))
            self._recalibrate(level)
            found = evaluate(level.network, self._data)
            results.append(
                LevelResult(
                    level=level.number,
                    num_levels=self._config.num_levels,
                    val_accuracy=found.accuracy,
                    val_accuracy_before_recalibration=before.accuracy,
                    macs=size.macs,
                    macs_kept=size.macs / self._teacher_size.macs,
                    params=size.params,
                    params_kept=size.params / self._teacher_size.params,
                    fidelity=self.epoch / self.plan.epochs,
                    val_top5=found.top5,
                )
            )
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
