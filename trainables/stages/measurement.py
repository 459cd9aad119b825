"""What a level is worth: its accuracy while it is trained, and accuracy and size once it is done."""

from dataclasses import dataclass

from trainables.config import CascadeConfig
from trainables.datasets.data import DataSplits
from trainables.hardware.ranks import Ranks
from trainables.pruning.levels import Level
from trainables.pruning.network_size import NetworkSize
from trainables.pruning.schedule import LevelPruner
from trainables.results import LevelResult
from trainables.stages.evaluation import Evaluation, evaluate
from trainables.stages.recalibration import CALIBRATION_BATCHES, recalibrate


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measurement:
    """How the levels of a stage are measured.

    Attributes:
        config: of the whole cascade.
        data: on the networks' device.
        teacher_size: what sizes are fractions of.
        ranks: who measure together.
    """

    config: CascadeConfig
    data: DataSplits
    teacher_size: NetworkSize
    ranks: Ranks

    def validate(self, level: Level) -> Evaluation:
        """Accuracy of a level's network as it is, on the validation images."""
        if self.config.recipe.ema is not None:  # training left statistics of other weights
            self._recalibrate(level, max_batches=CALIBRATION_BATCHES)
        return evaluate(level.network, self.data, self.ranks)

    def finish(self, pruner: LevelPruner, before: Evaluation, *, fidelity: float) -> LevelResult:
        """What has become of a level, its statistics measured anew.

        Args:
            pruner: of the level.
            before: its accuracy until now.
            fidelity: the part of the stage's epochs that it was trained for, in (0, 1].

        Raises:
            SelectionError: if it has missed its size.
        """
        level = pruner.level
        size = NetworkSize.count(level.network, self.data.input_shape, self.teacher_size.table)
        pruner.check_size(size.of(self.config.pruning.size_in))
        self._recalibrate(level)
        found = evaluate(level.network, self.data, self.ranks)
        return LevelResult(
            level=level.number,
            num_levels=self.config.num_levels,
            val_accuracy=found.accuracy,
            val_accuracy_before_recalibration=before.accuracy,
            macs=size.macs,
            macs_kept=size.macs / self.teacher_size.macs,
            params=size.params,
            params_kept=size.params / self.teacher_size.params,
            fidelity=fidelity,
            val_top5=found.top5,
        )

    def _recalibrate(self, level: Level, *, max_batches: int | None = None) -> None:
        recalibrate(
            level.network,
            self.data,
            batch_size=self.config.recipe.batch_size,
            seed=self.config.seed,
            max_batches=max_batches,
            ranks=self.ranks,
        )
