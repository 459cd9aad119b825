"""What Ray Tune and MLflow cost: trials of a minute in a search, against the same cascades in a plain loop.

A real search (its own Ray, Optuna, MLflow, checkpoints every epoch) runs trials one at a time on one thread. Then a
fresh process with as many threads takes the same cascades, teacher and images and runs them in a loop. A trial's time
in the search is the wall time from the start of the first trial to the end of the last, over their number; what Ray
takes to start and to stop is reported beside it.
"""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.table import Row
from orchestrator.experiment.config import Experiment, parse_experiment
from orchestrator.front.archive import Candidate
from orchestrator.front.front_view import FrontView
from orchestrator.searches.folder import SearchFolder
from orchestrator.trials.watcher import Watcher
from trainables.config import CascadeConfig
from trainables.hardware import processor
from trainables.results import Reused, TeacherResult

NUM_THREADS = 1
NUM_TRIALS = 2
TRIAL_SECONDS = 60
PROBE_EPOCHS = 4
SIZES = (0.25, 0.05)


def plain_values(epochs: int) -> dict[str, Any]:
    """An experiment whose trials all have one assistant and the same student."""
    return {
        "model": {"name": "vgg-small"},
        "data": {"name": "digits"},
        "teacher": {"epochs": 2, "batch_size": 64, "learning_rate": 0.05},
        "cascade": {"recipe": {"epochs": epochs, "batch_size": 64, "learning_rate": 0.06}},
        "space": {"num_assistants": [1, 1], "student_macs_kept": [SIZES[-1], SIZES[-1]], "schedule": ["joint"]},
        "num_trials": NUM_TRIALS,
        "resources": {"cpus_per_trial": NUM_THREADS, "max_concurrent": 1},
    }


class Clock(Watcher):
    """A watcher that notes when things happened."""

    def __init__(self) -> None:
        """Start at zero."""
        self.teacher_ready_at = 0.0
        self.first_started_at = math.inf
        self.last_ended_at = 0.0
        self.failures: list[str] = []

    def teacher_ready(self, result: TeacherResult) -> None:
        """The teacher is there."""
        self.teacher_ready_at = time.perf_counter()

    def trial_started(self, number: int, cascade: CascadeConfig) -> None:
        """A trial runs."""
        self.first_started_at = min(self.first_started_at, time.perf_counter())

    def trial_finished(self, number: int, candidates: Sequence[Candidate], view: FrontView, reused: Reused) -> None:
        """A trial gave its candidates."""
        self.last_ended_at = time.perf_counter()
        print(f"overhead: trial {number} of the search is done", file=sys.stderr)

    def trial_failed(self, number: int, reason: str) -> None:
        """A trial gave nothing, so there is nothing to compare."""
        self.failures.append(reason)

    def note(self, text: str) -> None:
        """What a user would read."""
        print(f"overhead: {text}", file=sys.stderr)


def probe_epochs() -> int:
    """Epochs that take about a minute: a short trial, whose cost an epoch is that of a long one, and its scale."""
    from orchestrator.data.datasets import load_splits
    from trainables.networks.models import build
    from trainables.trial import CascadeTrial

    processor.prepare(NUM_THREADS)
    experiment = parse_experiment(plain_values(PROBE_EPOCHS))
    data = load_splits(experiment.data)
    teacher = build(experiment.model, num_classes=data.num_classes, in_channels=data.in_channels)
    config = CascadeConfig(macs_kept=SIZES, recipe=experiment.cascade.recipe)
    trial = CascadeTrial(teacher, config=config, data=data)
    started = time.perf_counter()
    for _ in trial.run():
        pass
    return max(PROBE_EPOCHS, round(PROBE_EPOCHS * TRIAL_SECONDS / (time.perf_counter() - started)))


def cascades(folder: SearchFolder) -> Iterator[CascadeConfig]:
    """The cascade of each trial of a search."""
    found = {candidate.trial: candidate.cascade for candidate in folder.archive.candidates()}
    for trial in sorted(found):
        yield CascadeConfig.from_dict(json.loads(found[trial]))


def run_plain(folder: SearchFolder) -> list[float]:
    """Seconds of each trial of a search, in a plain loop in this process."""
    from orchestrator.data.datasets import load_splits
    from trainables.files.checkpoint import load_network, save_network
    from trainables.files.input_spec import InputSpec
    from trainables.trial import CascadeTrial

    processor.prepare(NUM_THREADS)
    experiment = folder.experiment()
    data = load_splits(experiment.data)
    teacher = load_network(folder.teacher / "network").network
    times = []
    for number, config in enumerate(cascades(folder)):
        started = time.perf_counter()
        trial = CascadeTrial(teacher, config=config, data=data, augmentation=experiment.data.augmentation)
        for _ in trial.run():
            pass
        for level, network in trial.networks.items():
            save_network(
                folder.path / "plain" / f"{number}-{level}",
                network,
                model=experiment.model,
                input_spec=InputSpec.of(data),
            )
        times.append(time.perf_counter() - started)
        print(f"overhead: trial {number} of the plain loop is done", file=sys.stderr)
    return times


def run_in_search(experiment: Experiment, folder: SearchFolder) -> tuple[Clock, float, float]:
    """Run the search: what was noted, and when it was called and returned."""
    from orchestrator.search import run_search
    from orchestrator.tracking import Tracker

    clock = Clock()
    tracker = Tracker(uri=None, storage=folder.storage, warn=lambda text: print(text, file=sys.stderr))
    called = time.perf_counter()
    try:
        run_search(experiment, folder, resume=False, watcher=clock, tracker=tracker)
    finally:
        tracker.close()
    if clock.failures:
        raise SystemExit(f"a trial failed: {clock.failures[0]}")
    return clock, called, time.perf_counter()


def run() -> list[Row]:
    """Measure it."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # the database of the storage folder, as on a fresh machine
    epochs = probe_epochs()
    with tempfile.TemporaryDirectory() as storage:
        folder = SearchFolder(storage=Path(storage), name="overhead")
        clock, called, returned = run_in_search(parse_experiment(plain_values(epochs)), folder)
        in_search = (clock.last_ended_at - clock.first_started_at) / NUM_TRIALS
        answer = subprocess.run(
            [sys.executable, "-m", "benchmarks.overhead", storage, folder.name],
            env=os.environ | {"OMP_NUM_THREADS": str(NUM_THREADS)},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
    times: list[float] = json.loads(answer)
    plain = sum(times) / len(times)
    return [
        Row(
            name="seconds a trial, in the search / in a plain loop",
            figure=in_search / plain,
            rule="at most",
            target=1.05,
            note=f"{NUM_TRIALS} trials of {epochs} epochs: {in_search:.1f} and {plain:.1f} s a trial, "
            f"{NUM_THREADS} thread",
        ),
        Row(
            name="start of the trials, teacher there to first trial running",
            figure=clock.first_started_at - clock.teacher_ready_at,
            unit="s",
        ),
        Row(
            name="all of the search but its trials: Ray, MLflow, teacher",
            figure=(returned - called) - (clock.last_ended_at - clock.first_started_at),
            unit="s",
        ),
    ]


if __name__ == "__main__":
    print(json.dumps(run_plain(SearchFolder(storage=Path(sys.argv[1]), name=sys.argv[2]))))
