"""What a trial takes of a node's memory for a data set of 150 MB that trials share.

Four trials train in actors of Ray of their own, on a set of 150 MB and on one of a tenth of it. What counts is the
memory that an actor has for itself (what it shares with the object store or other processes does not), after it has
taken its images, and after an epoch; the difference between the two sets is what the larger one adds a trial.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.noise import noise
from benchmarks.table import Row
from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.recipe import Recipe
from trainables.trial import CascadeTrial

NUM_TRIALS = 4
MEGABYTES = (15, 150)
_MODEL = ModelConfig(name="vgg-small", width=0.125)


class Trial:
    """A trial as Ray's actor."""

    def __init__(self, arrays: dict[str, Any]) -> None:
        """Take the images, which Ray hands over by reference."""
        torch.set_num_threads(1)
        data = DataSplits.from_arrays(arrays)
        self._trial = CascadeTrial(
            build(_MODEL, num_classes=10, in_channels=3),
            config=CascadeConfig(macs_kept=(0.3,), recipe=Recipe(epochs=2, batch_size=128)),
            data=data,
        )

    def own_megabytes(self) -> float:
        """Memory of this process alone, by the kernel's count."""
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1e3

    def epoch(self) -> float:
        """Train one; own memory afterwards."""
        self._trial.train_epoch()
        return self.own_megabytes()


def images(megabytes: int) -> DataSplits:
    """Noise of so many MB, a tenth of it validation."""
    number = megabytes * 10**6 // (3 * 32 * 32)
    return noise((number - number // 10, number // 10))


def own_memory(megabytes: int) -> tuple[float, float]:
    """Own memory of a trial in MB, before and after an epoch: medians over trials."""
    import ray

    reference = ray.put(images(megabytes).to_arrays())
    actor = ray.remote(Trial)
    trials = [actor.options(num_cpus=0).remote(reference) for _ in range(NUM_TRIALS)]
    before = ray.get([trial.own_megabytes.remote() for trial in trials])
    after = ray.get([trial.epoch.remote() for trial in trials])
    for trial in trials:
        ray.kill(trial)
    return statistics.median(before), statistics.median(after)


def run() -> list[Row]:
    """Measure it."""
    import ray

    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        ray.init(
            "local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=folder
        )
        try:
            small, large = (own_memory(megabytes) for megabytes in MEGABYTES)
        finally:
            ray.shutdown()
    return [
        Row(
            name=f"memory that a trial adds on a node for a set of {MEGABYTES[1]} MB, after an epoch",
            figure=large[1] - small[1],
            unit="MB",
            rule="below",
            target=15.0,
            note=f"own memory of a trial {large[1]:.0f} MB; {small[1]:.0f} MB with a set of {MEGABYTES[0]} MB",
        ),
        Row(
            name="… before the first epoch",
            figure=large[0] - small[0],
            unit="MB",
            note=f"{large[0]:.0f} and {small[0]:.0f} MB",
        ),
    ]
