"""The cascade stage: levels that share weights are trained, each from the next larger one, and fall to their sizes."""

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from trainables.config import CascadeConfig
from trainables.data_config import Augmentation
from trainables.datasets.data import DataSplits
from trainables.errors import StageFailure
from trainables.hardware.processor import return_memory
from trainables.hardware.ranks import ALONE, Ranks
from trainables.plan import StagePlan
from trainables.pruning.cost import macs_model, size_model
from trainables.pruning.dependencies import find_groups, trace_groups
from trainables.pruning.levels import Level, SharedWeights
from trainables.pruning.network_size import NetworkSize
from trainables.pruning.schedule import LevelPruner, pruning_steps
from trainables.pruning.selection import SelectionError
from trainables.pruning.views import Cuts
from trainables.results import EpochProgress, LevelProgress, LevelResult
from trainables.seeds import derive_seed
from trainables.stages.epochs import Epoch, Epochs
from trainables.stages.evaluation import Evaluation
from trainables.stages.joint import JointStep
from trainables.stages.measurement import Measurement
from trainables.stages.remembered import RememberedLogits, num_views, require_room_for_logits
from trainables.stages.sandwich import Sandwich
from trainables.tensors import Tensors, all_finite


class CascadeStage:
    """Trains and prunes levels that view one set of weights, an epoch or a part of one at a time.

    Between two parts it can be stopped, and goes on from its state. A recovery is the same for one level that has its
    size: nothing is removed, and it starts from itself.

    Attributes:
        plan: what it trains.
        levels: the levels, the largest first.
        pruners: what brings each of them to its size.
    """

    def __init__(  # noqa: PLR0913
        self,
        frozen_network: nn.Module,
        *,
        plan: StagePlan,
        config: CascadeConfig,
        teacher_size: NetworkSize,
        data: DataSplits,
        augmentation: Augmentation = "none",
        start: nn.Module | None = None,
        frozen_parameters: Collection[str] = (),
        ranks: Ranks = ALONE,
    ) -> None:
        """Prepare it; nothing is trained yet.

        Args:
            frozen_network: what the first level, or each, learns from: the teacher, or the level before.
            plan: levels and epochs.
            config: of the whole cascade.
            teacher_size: what `macs_kept` is a fraction of.
            data: on the network's device.
            augmentation: what training batches go through.
            start: the network that the levels start from; `None` for the frozen one.
            frozen_parameters: names of its parameters that stay as they are, but for channels that go; not all of them.
            ranks: who train them together.

        Raises:
            InputError: if the network's channels cannot be traced, the criterion is unknown, the recipe does not fit
                the classes, sizes are in latency and no layers were timed, or there is too much to remember.
        """
        require_room_for_logits(config, data)
        self.plan = plan
        self._config = config
        self._teacher_size = teacher_size
        self._frozen_network = frozen_network.eval()
        self._ranks = ranks
        self._epochs = Epochs(
            plan.epochs,
            network=self._frozen_network,
            recipe=config.recipe,
            data=data,
            augmentation=augmentation,
            num_levels=len(plan.levels),
            ranks=ranks,
        )
        start = frozen_network if start is None else start
        groups_of = find_groups if plan.kind == "pruning" else trace_groups  # a recovery removes nothing
        channel_map = groups_of(start, data.input_shape, keep=config.pruning.keep)
        self._shared = SharedWeights(start, channel_map, frozen=frozen_parameters)
        shared_affine = config.pruning.shared_affine
        self._regrows = config.pruning.regrowth > 0.0
        self.levels = tuple(
            Level(number, self._shared, shared_affine=shared_affine, may_widen=self._regrows) for number in plan.levels
        )
        unit = config.pruning.size_in
        sizes = size_model(start, channel_map, data.input_shape, unit=unit, latency=teacher_size.table)
        self._macs = sizes if unit == "macs" else macs_model(start, channel_map, data.input_shape)
        whole = teacher_size.of(unit)
        self.pruners = tuple(
            LevelPruner(level, sizes=sizes, final=config.macs_kept[level.number - 1] * whole, pruning=config.pruning)
            for level in self.levels
        )
        self._joint = JointStep(self._frozen_network, self._shared, self.pruners, config=config, data=data, ranks=ranks)
        views = num_views(config, plan.epochs)
        self._remembered = (
            None if views is None else RememberedLogits(num_views=views, num_batches=self._epochs.steps_per_epoch)
        )
        # By the steps after which channels go, the fraction of the ramp that is done then.
        self._prunings = pruning_steps(config.pruning, self._epochs.num_steps) if plan.kind == "pruning" else {}
        self._last_pruning = max(self._prunings, default=0)
        self._measure = Measurement(config=config, data=data, teacher_size=teacher_size, ranks=ranks)
        self._sandwich = Sandwich(
            levels=plan.levels,
            levels_a_step=config.levels_a_step,
            steps_per_epoch=self._epochs.steps_per_epoch,
            prunings=self._prunings,
            seed=derive_seed(config.seed, self.name),
        )
        self._steps_taken = 0
        self._hold_if_pruned()
        self.results: tuple[LevelResult, ...] = ()

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.plan.name

    @property
    def epoch(self) -> int:
        """Epochs of this stage that are done."""
        return self._epochs.done

    @property
    def begun(self) -> bool:
        """Whether any step was taken."""
        return self._steps_taken > 0

    @property
    def epochs_done(self) -> float:
        """Epochs that are done, and of the one that is not the part that is."""
        return self._steps_taken / self._epochs.steps_per_epoch

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self._epochs.finished

    def train_epoch(self) -> EpochProgress:
        """Train one epoch, or what is left of it; as `train_for` otherwise."""
        progress = self.train_for(math.inf)
        assert progress is not None
        return progress

    def train_for(self, seconds: float) -> EpochProgress | None:
        """Train one epoch, or a part of it; after the last, recalibrate and measure.

        Args:
            seconds: that a part takes, about, at the end of which the stage can be stopped and go on; the same on all
                ranks.

        Returns:
            What the epoch came to, or `None` where it goes on.

        Raises:
            StageFailure: if a loss or what comes out is no longer finite, saliency says nothing, nothing can be removed
                or a size is missed.
            RanksDiffer: if ranks have come to other weights, or chosen other channels, than one another.
        """
        # Where logits are remembered, an epoch draws the batches of its view.
        view = self.epoch if self._remembered is None else self._remembered.view(self.epoch)
        for level in self.levels:
            level.network.train()
        trained = self._epochs.train(
            seconds,
            self._train_and_prune,
            optimizer=self._joint.weights.optimizer,
            seed=derive_seed(self._config.seed, self.name, self.epoch),
            seed_of_batches=derive_seed(self._config.seed, self.name, view),
        )
        if trained is None:
            return None
        started = time.perf_counter()
        for level, loss in zip(self.levels, trained.losses, strict=True):
            if not math.isfinite(loss):
                raise self._failure("the loss is no longer finite; lower the learning rate", level=level.number)
        found = self._validate()
        if self.finished:
            self.results = self._finish(found)
        return self._progress(trained, found, seconds=trained.seconds + time.perf_counter() - started)

    def _progress(self, trained: Epoch, found: Sequence[Evaluation], *, seconds: float) -> EpochProgress:
        return EpochProgress(
            stage=self.name,
            epoch=self.epoch,
            num_epochs=self.plan.epochs,
            trial_epoch=self.plan.first_epoch + self.epoch,
            learning_rate=trained.learning_rate,
            seconds=seconds,
            levels=tuple(
                LevelProgress(
                    level=pruner.level.number,
                    macs_kept=self._macs.total(pruner.counts_G) / self._teacher_size.macs,
                    train_loss=loss,
                    val_accuracy=evaluation.accuracy,
                    val_top5=evaluation.top5,
                )
                for pruner, loss, evaluation in zip(self.pruners, trained.losses, found, strict=True)
            ),
        )

    def stop(self) -> None:
        """End before all epochs are done; `results` are the levels as they are, if they have reached their sizes.

        Raises:
            StageFailure: if a size is missed, or weights are not finite.
        """
        if self._steps_taken >= self._last_pruning:
            self.results = self._finish(self._validate())

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """All that what comes next depends on, but for the frozen network: tensors, and plain values."""
        tensors, values = self._epochs.state()
        tensors |= self._joint.state()
        for pruner in self.pruners:
            tensors |= pruner.tensors()
        return tensors, values | {
            "saliency_batches": [pruner.meter.num_batches for pruner in self.pruners],
            "saliency_ran": [
                {group: group in pruner.meter.ran for group in sorted(pruner.meter.ever_ran)} for pruner in self.pruners
            ],
            "results": [result.to_dict() for result in self.results],
        }

    @torch.no_grad()
    def load_state(self, tensors: Tensors, values: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, with the same frozen network."""
        # Earlier versions took every group for one that had run.
        all_ran = [dict.fromkeys(pruner.level.kept, True) for pruner in self.pruners]
        have_ran = values.get("saliency_ran", all_ran)
        for pruner, num_batches, ran in zip(self.pruners, values["saliency_batches"], have_ran, strict=True):
            pruner.load(tensors, num_batches=num_batches, ran=ran)
        self._epochs.load_state(tensors, values)
        self._steps_taken = self._epochs.steps_taken
        self._drop_unread()
        self._joint.load_state(tensors)
        self._hold_if_pruned()
        self.results = tuple(LevelResult.from_dict(result) for result in values["results"])

    def _train_and_prune(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, Sequence[bool]]:
        """Take a step, after which channels may go; losses, and which of the levels took part."""
        losses = self.train_step(images, labels)
        took_part = [level.number in self._joint.taking_part for level in self.levels]
        if self._steps_taken in self._prunings:
            self._prune(self._prunings[self._steps_taken])
            return_memory()
            self._hold_if_pruned()
        return losses, took_part

    def train_step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One optimiser step on the sum of the levels' losses.

        Args:
            images: of the whole batch, on every rank, normalised, N x channels x height x width.
            labels: N classes, or the share of every class, N x classes.

        Returns:
            The loss of each level, detached; 0 of those that take no part.
        """
        this_step = self._steps_taken + 1
        if self._regrows and this_step in self._prunings and this_step < self._last_pruning:
            self._joint.widen()  # so that what was lost is scored, too, and may come back
        self._joint.taking_part = self._sandwich(self._steps_taken)
        if self._remembered is not None:
            epoch, place = divmod(self._steps_taken, self._epochs.steps_per_epoch)
            logits = self._remembered(epoch, place, lambda: self._joint.logits(images, labels))
            losses = self._joint("given", images, labels, logits)
        else:
            asks = self._steps_taken % self._config.teacher_every == 0
            losses = self._joint("asked" if asks else "alone", images, labels)
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
        self._ranks.require_same(self._joint.weights.parameters, what="weights")
        with self._joint.weights.average.in_place():
            for level in self.levels:
                level.refresh()
        return [self._measure.validate(level) for level in self.levels]

    def _finish(self, evaluations: Sequence[Evaluation]) -> tuple[LevelResult, ...]:
        results = []
        for pruner, before in zip(self.pruners, evaluations, strict=True):
            with self._failing(pruner.level):
                results.append(self._measure.finish(pruner, before, fidelity=self.epochs_done / self.plan.epochs))
            if not all_finite(pruner.level.network.parameters()):  # as after the last step, which no loss has seen
                raise self._failure("weights are no longer finite; lower the learning rate", level=pruner.level.number)
        return tuple(results)

    def _failure(self, reason: str, *, level: int, group: str | None = None) -> StageFailure:
        return StageFailure(reason, stage=self.name, level=level, group=group, step=self._steps_taken)

    @contextmanager
    def _failing(self, level: Level) -> Iterator[None]:
        """Say of a choice that failed where it was."""
        try:
            yield
        except SelectionError as error:
            reason = error.reason
            if error.only_protected:
                reason += (
                    f" beside the channels of level {level.number + 1}, which level {level.number} has to keep too; "
                    "set pruning.nested: false, in which each level chooses for itself, or give other sizes"
                )
            is_later = self.plan.kind == "pruning" and self.levels[0].number > 1
            if error.group is None and is_later:  # of a size
                reason += (
                    f"; level {level.number} can only keep what level {level.number - 1} has left it: give other "
                    "sizes, or schedule: joint, in which each level chooses among all channels"
                )
            raise self._failure(reason, level=level.number, group=error.group) from error
