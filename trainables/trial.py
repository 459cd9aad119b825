"""A trial: one cascade, from the teacher to a narrow network of every level."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from trainables.channels import network_widths, resize
from trainables.config import Augmentation, CascadeConfig
from trainables.cost import count_macs, count_params
from trainables.data import DataSplits
from trainables.results import EpochProgress, LevelResult
from trainables.stages import CascadeStage, StagePlan, TeacherSize
from trainables.training import Tensors, prefixed, unprefixed


def stage_plans(config: CascadeConfig) -> tuple[StagePlan, ...]:
    """The stages of a cascade: one for all levels (joint), or one a level, which share the epochs out (sequential).

    Where the epochs do not divide evenly, the smaller levels, which lose more, get one more.
    """
    epochs = config.recipe.epochs
    if config.schedule == "joint":
        levels = tuple(range(1, config.num_levels + 1))
        return (StagePlan(name="cascade", levels=levels, epochs=epochs, first_epoch=0),)
    plans = []
    first = 0
    for level in range(1, config.num_levels + 1):
        share = (epochs - first) // (config.num_levels - level + 1)
        plans.append(StagePlan(name=f"level-{level}", levels=(level,), epochs=share, first_epoch=first))
        first += share
    return tuple(plans)


class CascadeTrial:
    """Runs the stages of one cascade, one epoch a step; stops and goes on at any epoch, with equal results.

    Attributes:
        networks: narrow networks of the levels whose stage is done, by level, in evaluation mode.
        results: their accuracy and cost, the largest level first.
    """

    def __init__(
        self, teacher: nn.Module, *, config: CascadeConfig, data: DataSplits, augmentation: Augmentation = "none"
    ) -> None:
        """Prepare it; nothing is trained yet.

        Args:
            teacher: trained, on the device to train on; it is left as it is.
            config: the cascade.
            data: on the same device.
            augmentation: what training batches go through.

        Raises:
            InputError: if the teacher's channels cannot be traced or the saliency criterion is unknown.
        """
        self.networks: dict[int, nn.Module] = {}
        self.results: tuple[LevelResult, ...] = ()
        self._teacher = copy.deepcopy(teacher).eval().requires_grad_(requires_grad=False)
        self._config = config
        self._data = data
        self._augmentation: Augmentation = augmentation
        self._plans = stage_plans(config)
        self._teacher_size = TeacherSize(
            macs=count_macs(self._teacher, data.input_shape), params=count_params(self._teacher)
        )
        self._stage_index = 0
        self._stage = self._make_stage()

    @property
    def finished(self) -> bool:
        """Whether every level is done."""
        return len(self.networks) == self._config.num_levels

    def step(self) -> EpochProgress:
        """Train one epoch of the current stage.

        Raises:
            StageFailure: if the stage cannot give a usable network.
            RuntimeError: if the trial is finished.
        """
        if self.finished:
            raise RuntimeError("this trial is finished; its levels are in networks and results")
        progress = self._stage.step()
        if self._stage.finished:
            for level in self._stage.levels:
                self.networks[level.number] = level.network.eval().requires_grad_(requires_grad=False)
            self.results += self._stage.results
            if not self.finished:
                self._stage_index += 1
                self._stage = self._make_stage()
        return progress

    def run(self) -> Iterator[EpochProgress]:
        """Train all epochs that are left, one record each."""
        while not self.finished:
            yield self.step()

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """All that the next epoch depends on, but for the teacher and the data: tensors, and plain values."""
        tensors, values = self._stage.state()
        tensors = prefixed("stage", tensors)
        for number, network in self.networks.items():
            tensors |= prefixed(f"level.{number}", network.state_dict())
        return tensors, {
            "stage_index": self._stage_index,
            "stage": values,
            "widths": {str(number): network_widths(network) for number, network in self.networks.items()},
            "results": [result.to_dict() for result in self.results],
        }

    def load_state(self, tensors: Tensors, values: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, with the same teacher, data and configuration."""
        self.networks = {}
        for number, widths in values["widths"].items():
            network = copy.deepcopy(self._teacher)
            resize(network, widths)
            network.load_state_dict(unprefixed(f"level.{number}", tensors))
            self.networks[int(number)] = network.eval().requires_grad_(requires_grad=False)
        self.results = tuple(LevelResult.from_dict(result) for result in values["results"])
        self._stage_index = values["stage_index"]
        self._stage = self._make_stage()
        self._stage.load_state(unprefixed("stage", tensors), values["stage"])

    def _make_stage(self) -> CascadeStage:
        plan = self._plans[self._stage_index]
        return CascadeStage(
            self.networks.get(plan.levels[0] - 1, self._teacher),
            plan=plan,
            config=self._config,
            teacher_size=self._teacher_size,
            data=self._data,
            augmentation=self._augmentation,
        )
