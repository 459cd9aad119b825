"""A trial: one cascade, from the teacher to a narrow network of every level."""

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn

from trainables.config import CascadeConfig
from trainables.data_config import Augmentation
from trainables.datasets.data import DataSplits
from trainables.hardware.processor import return_memory
from trainables.hardware.ranks import ALONE, Ranks
from trainables.identity import Identity, stage_identities
from trainables.networks.given_weights import versioned
from trainables.networks.models import frozen_parameters
from trainables.plan import stage_plans
from trainables.pruning.channels import network_widths, resize
from trainables.pruning.cost import LatencyTable
from trainables.pruning.network_size import NetworkSize
from trainables.results import EpochProgress, LevelResult, Reused, Standing
from trainables.stages.cascade import CascadeStage
from trainables.tensors import Tensors, load_unsaved, prefixed, unprefixed, unsaved_buffers


class FinishedStages(Protocol):
    """Where stages that are done are kept, and found by whoever would compute them again."""

    def find_or_claim(self, identity: Identity) -> tuple[Tensors, dict[str, Any]] | None:
        """What a stage gave, or `None` where it is the caller's to compute; waits while another computes it."""

    def keep(self, identity: Identity, tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Keep what a stage gave, and let those who wait for it have it."""

    def release(self) -> None:
        """Let others compute what was claimed and not kept."""


class CascadeTrial:
    """Runs the stages of one cascade, an epoch or a part of one at a time; stops and goes on there, with equal results.

    Attributes:
        networks: narrow networks of the levels whose stage is done or was stopped, by level, in evaluation mode.
        results: their accuracy and cost, the largest level first.
        reused: the stages that were found done.
    """

    def __init__(  # noqa: PLR0913
        self,
        teacher: nn.Module,
        *,
        config: CascadeConfig,
        data: DataSplits,
        augmentation: Augmentation = "none",
        finished_stages: FinishedStages | None = None,
        origin: str = "",
        latency: LatencyTable | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        """Prepare it; nothing is trained yet.

        Args:
            teacher: trained, on the device to train on; it is left as it is. Parameters that take no gradient stay as
                they are in all levels, but for channels that go; if none takes any, it is merely not to be trained.
            config: the cascade.
            data: on the same device.
            augmentation: what training batches go through.
            finished_stages: where stages are found and kept; `None` computes each of them.
            origin: what the teacher, the data and the code come to, as `identity.trial_origin` gives it.
            latency: the layers' times that sizes in latency take.
            ranks: who train it together; they take each epoch at the same time, rank 0 alone has `finished_stages`.

        Raises:
            InputError: if the teacher's channels cannot be traced, the saliency criterion is unknown, or sizes are in
                latency and no layers were timed.
        """
        self.networks: dict[int, nn.Module] = {}
        self.results: tuple[LevelResult, ...] = ()
        self.reused = Reused()
        self._frozen_parameters = frozen_parameters(teacher)
        self._teacher = copy.deepcopy(teacher).eval().requires_grad_(requires_grad=False)
        self._config = config
        self._data = data
        self._augmentation: Augmentation = augmentation
        self._finished_stages = finished_stages
        self._ranks = ranks
        self._plans = stage_plans(config)
        self._identities = stage_identities(config, self._plans, origin, latency)
        self._teacher_size = NetworkSize.count(self._teacher, data.input_shape, latency)
        self._num_stages_done = 0
        self._stage = self._make_stage()
        self._epochs: tuple[EpochProgress, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether every stage is done."""
        return self._num_stages_done == len(self._plans)

    @property
    def _stage_index(self) -> int:
        """Of the stage that runs or ran last."""
        return min(self._num_stages_done, len(self._plans) - 1)

    @property
    def epochs_done(self) -> float:
        """Epochs that were trained or taken over, and of the one that is not done the part that is."""
        return self._config.num_epochs if self.finished else self._stage.plan.first_epoch + self._stage.epochs_done

    @property
    def standing(self) -> Standing:
        """How far it is, and what its levels are worth now."""
        accuracies = {level.level: level.val_accuracy for epoch in self._epochs[-1:] for level in epoch.levels}
        accuracies |= {result.level: result.val_accuracy for result in self.results}
        done = 1.0 if self.finished else (self._stage.plan.first_epoch + self._stage.epoch) / self._config.num_epochs
        return Standing(
            fraction=done,
            points=tuple(
                {"val_accuracy": accuracy, "macs_kept": self._config.macs_kept[level - 1]}
                for level, accuracy in sorted(accuracies.items())
            ),
        )

    def take_over(self) -> tuple[EpochProgress, ...]:
        """Take over the stages that come next and are done already; the epochs that went into them.

        Waits where another trial computes such a stage now. What is not done then is this trial's to compute, until
        `release`.
        """
        taken: tuple[EpochProgress, ...] = ()
        while self._finished_stages is not None and not self._stage.begun and not self.finished:
            found = self._finished_stages.find_or_claim(self._identities[self._stage_index])
            if found is None:
                break
            tensors, values = found
            self._load_levels(tensors, values)
            epochs = tuple(EpochProgress.from_dict(epoch) for epoch in values["epochs"])
            self.reused = self.reused.and_stage(self._stage.name, epochs)
            taken += epochs
            self._next_stage()
        return taken

    def train_epoch(self) -> EpochProgress:
        """Train one epoch of the current stage, or what is left of it; as `train_for` otherwise."""
        progress = self.train_for(math.inf)
        assert progress is not None
        return progress

    def train_for(self, seconds: float) -> EpochProgress | None:
        """Train one epoch of the current stage, or a part of it.

        Args:
            seconds: that a part takes, about; the same on all ranks.

        Returns:
            What the epoch came to, or `None` where it goes on.

        Raises:
            StageFailure: if the stage cannot give a usable network.
            RuntimeError: if the trial is finished.
        """
        if self.finished:
            raise RuntimeError("this trial is finished; its levels are in networks and results")
        progress = self._stage.train_for(seconds)
        if progress is None:
            return None
        self._epochs += (progress,)
        if self._stage.finished:
            self._take_levels()
            if self._finished_stages is not None:
                tensors, values = self._levels_state(self._stage.plan.levels)
                values["epochs"] = [epoch.to_dict() for epoch in self._epochs]
                self._finished_stages.keep(self._identities[self._stage_index], tensors, values)
            self._next_stage()
        return progress

    def stop(self) -> None:
        """End before all epochs are done: levels that have reached their sizes are taken as they are, others dropped.

        Raises:
            StageFailure: if a size is missed.
        """
        self.release()
        if not self.finished:
            self._stage.stop()
            if self._stage.results:
                self._take_levels()
            self.results = tuple(replace(result, fidelity=self._fidelity(result.level)) for result in self.results)

    def run(self) -> Iterator[EpochProgress]:
        """Train all epochs that are left, one record each."""
        while not self.finished:
            yield from self.take_over()
            if not self.finished:
                yield self.train_epoch()

    def release(self) -> None:
        """Leave the stage that is being computed to others; for a trial that goes no further."""
        if self._finished_stages is not None:
            self._finished_stages.release()

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """All that what comes next depends on, but for the teacher and the data: tensors, and plain values."""
        tensors, values = self._levels_state(tuple(self.networks))
        stage_tensors, stage_values = self._stage.state()
        return tensors | prefixed("stage", stage_tensors), values | {
            "num_stages_done": self._num_stages_done,
            "stage": stage_values,
            "epochs": [epoch.to_dict() for epoch in self._epochs],
            "reused": self.reused.to_dict(),
        }

    def load_state(self, tensors: Tensors, values: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, with the same teacher, data and configuration."""
        self.networks, self.results = {}, ()
        self._load_levels(tensors, values)
        self.reused = Reused.from_dict(values["reused"])
        self._epochs = tuple(EpochProgress.from_dict(epoch) for epoch in values["epochs"])
        self._num_stages_done = values["num_stages_done"]
        self._stage = self._make_stage()
        self._stage.load_state(unprefixed("stage", tensors), values["stage"])

    def _levels_state(self, levels: tuple[int, ...]) -> tuple[Tensors, dict[str, Any]]:
        tensors: Tensors = {}
        for number in levels:
            tensors |= prefixed(f"level.{number}", self.networks[number].state_dict())
            tensors |= prefixed(f"buffers.{number}", unsaved_buffers(self.networks[number]))
        return tensors, {
            "widths": {str(number): network_widths(self.networks[number]) for number in levels},
            "results": [result.to_dict() for result in self.results if result.level in levels],
        }

    def _load_levels(self, tensors: Tensors, values: Mapping[str, Any]) -> None:
        for number, widths in values["widths"].items():
            network = copy.deepcopy(self._teacher)
            resize(network, widths)
            network.load_state_dict(versioned(unprefixed(f"level.{number}", tensors), network))
            load_unsaved(network, unprefixed(f"buffers.{number}", tensors))
            self.networks[int(number)] = network.eval().requires_grad_(requires_grad=False)
        # A stage that was found may have been computed for a cascade with more or fewer levels below it.
        results = (LevelResult.from_dict(result) for result in values["results"])
        self._take_results(replace(result, num_levels=self._config.num_levels) for result in results)

    def _take_levels(self) -> None:
        """Take what the stage gave; of a level that was recovered whichever network validation finds better."""
        before = {result.level: result.val_accuracy for result in self.results}
        for level, result in zip(self._stage.levels, self._stage.results, strict=True):
            if result.val_accuracy >= before.get(level.number, 0.0):
                self.networks[level.number] = level.network.eval().requires_grad_(requires_grad=False)
                self._take_results([result])

    def _take_results(self, results: Iterable[LevelResult]) -> None:
        by_level = {result.level: result for result in (*self.results, *results)}
        self.results = tuple(by_level[level] for level in sorted(by_level))

    def _fidelity(self, level: int) -> float:
        """Fraction of a level's epochs that were trained, parts of one too, over all stages that train it."""
        plans = [(index, plan) for index, plan in enumerate(self._plans) if level in plan.levels]
        done = [plan.epochs if index < self._num_stages_done else 0 for index, plan in plans]
        running = self._stage.epochs_done if not self.finished and level in self._stage.plan.levels else 0
        return (sum(done) + running) / sum(plan.epochs for _, plan in plans)

    def _next_stage(self) -> None:
        self._epochs = ()
        self._num_stages_done += 1
        if not self.finished:
            self._stage = self._make_stage()
            return_memory()

    def _make_stage(self) -> CascadeStage:
        plan = self._plans[self._stage_index]
        level = plan.levels[0]
        above = self.networks.get(level - 1, self._teacher)
        return CascadeStage(
            self._teacher if self._config.learns_from == "teacher" else above,
            start=self.networks[level] if plan.kind == "recovery" else above,
            frozen_parameters=self._frozen_parameters,
            plan=plan,
            config=self._config,
            teacher_size=self._teacher_size,
            data=self._data,
            augmentation=self._augmentation,
            ranks=self._ranks,
        )


def progress(values: Mapping[str, Any]) -> tuple[int, int, int]:
    """How far a trial's state is, to compare states of one trial by: stages, epochs and batches that are done."""
    midway = values["stage"].get("midway")
    return values["num_stages_done"], len(values["epochs"]), 0 if midway is None else midway["place"]
