"""Record learning curves of real cascades for the simulator: `python -m benchmarks.record_curves OUT --trials N`.

A search of this project on the embedded digits, spread over its whole space, good and bad settings alike: no early
stopping, no sampler that favours what went well. It goes on where it was stopped, and with a larger N it goes further.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.experiment.config import parse_experiment
from orchestrator.front.archive import Candidate
from orchestrator.front.front_view import FrontView
from orchestrator.searches.curves import read_curves, read_table, write_table
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.layout import CURVES
from orchestrator.trials.watcher import Watcher
from trainables.results import Reused, TeacherResult

NAME = "curves"


def plain_values(num_trials: int) -> dict[str, Any]:
    """The experiment: the recipe of the preset `demo`, and a space wide enough to hold bad cascades."""
    return {
        "model": {"name": "vgg-small"},
        "data": {"name": "digits", "image_size": 16, "val_fraction": 0.3},
        "teacher": {"epochs": 12, "batch_size": 64, "learning_rate": 0.05},
        "cascade": {"recipe": {"epochs": 16, "batch_size": 64}},
        "space": {
            "num_assistants": [0, 2],
            "student_macs_kept": [0.003, 0.2],
            "temperature": [1.0, 8.0],
            "distillation_weight": [0.0, 1.0],
            "learning_rate": [0.005, 0.3],
            "schedule": ["joint", "sequential"],
        },
        "sampler": "quasi-random",
        "num_starting_points": 0,
        "num_trials": num_trials,
    }


class Log(Watcher):
    """A watcher that says a line a trial."""

    def teacher_ready(self, result: TeacherResult) -> None:
        """The teacher is there."""
        print(f"teacher: {result.val_accuracy:.2%}", file=sys.stderr)

    def trial_finished(self, number: int, candidates: Sequence[Candidate], view: FrontView, reused: Reused) -> None:
        """A trial gave its candidates."""
        levels = ", ".join(f"{found.val_accuracy:.2%} at {found.macs_kept:.2%}" for found in candidates)
        print(f"trial {number}: {levels}", file=sys.stderr, flush=True)

    def trial_failed(self, number: int, reason: str) -> None:
        """A trial gave nothing, which is a record too."""
        print(f"trial {number} failed: {reason}", file=sys.stderr, flush=True)


def record(folder: SearchFolder, *, num_trials: int) -> None:
    """Run the search to this many trials."""
    from orchestrator.search import run_search
    from orchestrator.tracking import Tracker

    tracker = Tracker(uri=None, storage=folder.storage, warn=lambda text: print(text, file=sys.stderr))
    try:
        run_search(parse_experiment(plain_values(num_trials)), folder, resume=True, watcher=Log(), tracker=tracker)
    finally:
        tracker.close()


def main() -> None:
    """Record, then write all curves that there are as one file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record_curves", description=__doc__)
    parser.add_argument("out", type=Path, help="Parquet file to write")
    parser.add_argument("--trials", type=int, required=True, help="trials in the end; 0 only writes what there is")
    parser.add_argument("--storage", type=Path, default=Path("runs"), help="folder of the search itself")
    options = parser.parse_args()
    folder = SearchFolder(storage=options.storage, name=NAME)
    if options.trials:
        record(folder, num_trials=options.trials)
    curves = folder.path / CURVES
    write_table(options.out, read_table(curves), experiment=folder.experiment().to_dict())
    print(f"{options.out}: {len(read_curves(options.out))} trials, {options.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
