"""What reuse saves: thirty sequential cascades on a grid, with stages shared and with every stage computed."""

import sys
import tempfile
from pathlib import Path

from benchmarks.demo import cascade
from benchmarks.table import Row
from orchestrator.sampling.storages import StudyAddress
from orchestrator.sampling.study import Study
from orchestrator.searches.folder import SearchFolder

NUM_TRIALS = 30
# One trial at a time, so that both searches ask and tell in the same order and try the same cascades.
SETTINGS = (
    "space=grid",
    f"num_trials={NUM_TRIALS}",
    "cascade.recipe.epochs=12",
    "resources.max_concurrent=1",
)


def run() -> list[Row]:
    """Measure it."""
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    with tempfile.TemporaryDirectory() as storage:
        folder = SearchFolder(storage=Path(storage), name="shared")
        _, alone = cascade("search", "demo", "--storage", storage, "--name", "alone", *words, "--set", "reuse=false")
        print(f"reuse: every stage computed in {alone:.0f} s", file=sys.stderr)
        _, shared = cascade("search", "demo", "--storage", storage, "--name", folder.name, *words)
        print(f"reuse: shared in {shared:.0f} s", file=sys.stderr)
        experiment = folder.experiment()
        study = Study(StudyAddress(place=folder.study_file, objectives=experiment.objectives), seed=experiment.seed)
        reused = study.reused()
    epochs = sum(trial.epochs for trial in reused)
    planned = NUM_TRIALS * experiment.cascade.recipe.epochs
    return [
        Row(
            name=f"reuse: epochs saved in {NUM_TRIALS} sequential trials on a grid",
            figure=epochs / planned,
            rule="at least",
            target=0.3,
            note=f"{epochs} of {planned} epochs, {sum(len(trial.stages) for trial in reused)} stages of "
            f"{len(reused)} trials",
        ),
        Row(name="reuse: the same search's time, against every stage computed", figure=shared / alone),
    ]
