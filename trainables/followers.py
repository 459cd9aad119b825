"""The ranks of a trial other than the first, which `tune_adapter.CascadeTrainable` is."""

from typing import Any

import torch

from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.hardware import processor
from trainables.hardware.ranks import Ranks
from trainables.trial import CascadeTrial
from trainables.tune_adapter import TrialSettings, build_teacher


class TrialFollower:
    """What a rank other than the first has of a trial: it computes the same, and keeps nothing on disk."""

    def __init__(self, ranks: Ranks, teacher: dict[str, Any], data: dict[str, Any], settings: TrialSettings) -> None:
        """Take what the trials share.

        Args:
            ranks: seen from this one.
            teacher: arrays of the teacher's weights.
            data: arrays of a `DataSplits`.
            settings: of the trials.
        """
        processor.prepare(settings.num_threads, share_of_card=settings.num_gpus)
        device = torch.device("cuda" if settings.num_gpus else "cpu")
        self._ranks = ranks
        self._settings = settings
        self._data = DataSplits.from_arrays(data).to(device)
        self._teacher = build_teacher(settings.model, self._data, teacher).to(device)

    def begin(self, cascade: dict[str, Any], state: tuple[dict[str, Any], dict[str, Any]] | None) -> None:
        """Begin a trial, or go on where the first rank is, whose state is given as arrays and plain values."""
        self._trial = CascadeTrial(
            self._teacher,
            config=CascadeConfig.from_dict(cascade),
            data=self._data,
            augmentation=self._settings.augmentation,
            latency=self._settings.latency,
            ranks=self._ranks,
        )
        if state is not None:
            arrays, values = state
            self._trial.load_state({name: torch.tensor(array) for name, array in arrays.items()}, values)

    def step(self, seconds: float) -> None:
        """Train one epoch, or about so many seconds of it."""
        self._trial.train_for(seconds)

    def stop(self) -> None:
        """End before all epochs are done."""
        self._trial.stop()
