"""The teacher stage: train the dense network that a cascade starts from."""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from trainables.data_config import Augmentation
from trainables.datasets.data import DataSplits
from trainables.errors import StageFailure
from trainables.hardware.execution import Forward, RecordedStep, compiled, weakly
from trainables.hardware.precision import autocast
from trainables.hardware.ranks import ALONE, Ranks
from trainables.hardware.whole_batch import whole_batch
from trainables.networks.given_weights import versioned
from trainables.plain import require
from trainables.pruning.cost import count_macs, count_params
from trainables.recipe import Recipe
from trainables.results import EpochProgress, LevelProgress, TeacherResult
from trainables.seeds import derive_seed
from trainables.stages.batches import micro_batches, require_parts
from trainables.stages.epochs import Epochs
from trainables.stages.evaluation import Evaluation, evaluate
from trainables.stages.objective import Objective, for_losses
from trainables.stages.recalibration import CALIBRATION_BATCHES, recalibrate
from trainables.stages.weights import TrainedWeights
from trainables.tensors import Tensors, all_finite, load_unsaved, prefixed, unprefixed, unsaved_buffers


def require_trainable(network: nn.Module) -> None:
    """Check that a teacher can be trained; layers that are frozen stay as they are.

    Raises:
        InputError: if all of it is frozen.
    """
    require(
        any(parameter.requires_grad for parameter in network.parameters()),
        "all parameters of the network are frozen, so that no teacher can be trained; leave requires_grad_(False) out "
        "of your function, of some layers at least, or give trained weights by model.weights",
    )


class TeacherStage:
    """Trains a dense network on the labels, an epoch or a part of one at a time; stops and goes on there.

    Attributes:
        network: the network, trained in place.
    """

    name = "teacher"

    def __init__(  # noqa: PLR0913
        self,
        network: nn.Module,
        *,
        recipe: Recipe,
        data: DataSplits,
        augmentation: Augmentation = "none",
        seed: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        """Prepare it; nothing is trained yet.

        Args:
            network: with its initial weights, on the device to train on.
            recipe: how it is trained.
            data: on the same device.
            augmentation: what training batches go through.
            seed: of data order, augmentation and dropout.
            ranks: who train it together.

        Raises:
            InputError: if the recipe does not fit the classes or the ranks, or the network is frozen.
        """
        require_trainable(network)
        require_parts(recipe, num_train=len(data.train), ranks=ranks.size, section="teacher")
        self.network = network
        self._recipe = recipe
        self._data = data
        self._seed = seed
        self._epochs = Epochs(
            recipe.epochs,
            network=network,
            recipe=recipe,
            data=data,
            augmentation=augmentation,
            num_levels=1,
            ranks=ranks,
        )
        self._seconds = 0.0
        self._found = Evaluation(accuracy=0.0)
        self._weights = TrainedWeights(dict(network.named_parameters()), recipe)
        self._objective = Objective.of(recipe, data)
        self._forward: Forward = compiled(network) if recipe.execution == "compile" else network
        self._ranks = ranks
        self._train_step = RecordedStep(weakly(self._compute_step), recipe.execution if ranks.size == 1 else "eager")

    @property
    def epoch(self) -> int:
        """Epochs that are done."""
        return self._epochs.done

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
        """Train one epoch, or a part of it.

        Args:
            seconds: that a part takes, about, at the end of which training can be stopped and go on; the same on all
                ranks.

        Returns:
            What the epoch came to, or `None` where it goes on.

        Raises:
            StageFailure: if the loss or a weight is no longer finite.
            RanksDiffer: if ranks have come to different weights.
        """
        seed = derive_seed(self._seed, self.name, self.epoch)
        self.network.train()
        trained = self._epochs.train(
            seconds, self._take_step, optimizer=self._weights.optimizer, seed=seed, seed_of_batches=seed
        )
        if trained is None:
            return None
        started = time.perf_counter()
        (mean_loss,) = trained.losses
        for what, is_finite in (
            ("the loss is", math.isfinite(mean_loss)),
            # After the last step, which no loss has seen.
            ("weights are", all_finite(self._weights.parameters.values())),
        ):
            if not is_finite:
                raise StageFailure(
                    f"{what} no longer finite; lower the learning rate", stage=self.name, step=self._epochs.steps_taken
                )
        self._found = self._validate()
        took = trained.seconds + time.perf_counter() - started
        self._seconds += took
        return EpochProgress(
            stage=self.name,
            epoch=self.epoch,
            num_epochs=self._recipe.epochs,
            trial_epoch=self.epoch,
            learning_rate=trained.learning_rate,
            seconds=took,
            levels=(
                LevelProgress(
                    level=0,
                    macs_kept=1.0,
                    train_loss=mean_loss,
                    val_accuracy=self._found.accuracy,
                    val_top5=self._found.top5,
                ),
            ),
        )

    def _take_step(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, tuple[bool]]:
        return self._train_step(images, labels), (True,)

    def _compute_step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One optimiser step; the loss, detached. All of it happens on the device, so that it can be recorded there."""
        self._weights.optimizer.zero_grad()
        total = torch.zeros((), device=images.device)
        for part in micro_batches(images, labels, self._recipe.accumulate, self._ranks):
            with autocast(self._recipe, self.network, images.device), whole_batch(self._ranks, part.num_together):
                logits = for_losses(self._forward(part.images))
            loss = self._objective.of_labels(logits, part.labels) * part.share
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self._ranks.add_up([total, *(p.grad for p in self._weights.parameters.values() if p.grad is not None)])
        self._weights.step()
        return total

    def _validate(self) -> Evaluation:
        """Evaluate the averaged weights where there are any; in the end they are the network's."""
        self._ranks.require_same(self._weights.parameters, what="weights")
        if self._recipe.ema is None:
            return evaluate(self.network, self._data, self._ranks)
        with self._weights.average.in_place():
            recalibrate(
                self.network,
                self._data,
                batch_size=self._recipe.batch_size,
                seed=self._seed,
                max_batches=None if self.finished else CALIBRATION_BATCHES,
                ranks=self._ranks,
            )
            found = evaluate(self.network, self._data, self._ranks)
        if self.finished:
            self._weights.average.take()
        return found

    def result(self) -> TeacherResult:
        """What came out."""
        return TeacherResult(
            val_accuracy=self._found.accuracy,
            val_top5=self._found.top5,
            macs=count_macs(self.network, self._data.input_shape),
            params=count_params(self.network),
            seconds=self._seconds,
        )

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """All that what comes next depends on: tensors, and plain values."""
        tensors, values = self._epochs.state()
        tensors |= prefixed("network", self.network.state_dict()) | prefixed("buffers", unsaved_buffers(self.network))
        tensors |= self._weights.state()
        return tensors, values | {
            "seconds": self._seconds,
            "found": dataclasses.asdict(self._found),
        }

    def load_state(self, tensors: Tensors, values: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.network.load_state_dict(versioned(unprefixed("network", tensors), self.network))
        load_unsaved(self.network, unprefixed("buffers", tensors))
        self._weights.load_state(tensors)
        self._epochs.load_state(tensors, values)
        self._seconds = values["seconds"]
        self._found = Evaluation(**values["found"])
