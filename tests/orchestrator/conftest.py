import pytest

from orchestrator.curves import CurvePoint, TrialCurve
from trainables.config import CascadeConfig, Recipe
from trainables.results import LevelResult


@pytest.fixture(scope="session")
def make_curve():
    """The curve of a trial of which only what matters is said."""

    def make(trial=0, sizes=(0.5, 0.1), accuracies=(0.9, 0.8), end="finished", **cascade):
        """A joint trial of four epochs: levels at their sizes from the third on, then a tenth below the end."""
        config = CascadeConfig(
            macs_kept=sizes, recipe=Recipe(epochs=4, learning_rate=cascade.pop("rate", 0.1)), **cascade
        )
        points = tuple(
            CurvePoint(
                level=level,
                stage="cascade",
                epoch=epoch,
                trial_epoch=epoch,
                macs_kept=size if epoch > 2 else 1.0,
                val_accuracy=accuracy - 0.1,
                train_loss=1.0,
                seconds=1.0,
            )
            for epoch in range(1, 5)
            for level, (size, accuracy) in enumerate(zip(sizes, accuracies, strict=True), start=1)
        )
        results = tuple(
            LevelResult(
                level=level,
                num_levels=len(sizes),
                val_accuracy=accuracy,
                val_accuracy_before_recalibration=accuracy,
                macs=1,
                macs_kept=size,
                params=1,
                params_kept=size,
            )
            for level, (size, accuracy) in enumerate(zip(sizes, accuracies, strict=True), start=1)
        )
        if end == "failed":
            points, results = points[:4], ()
        return TrialCurve(trial=trial, end=end, parameters={}, cascade=config, points=points, results=results)

    return make
