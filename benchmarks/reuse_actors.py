"""Trials a second that do nothing: the search's machinery against plain Ray Tune, actors used again in both.

Each arm runs in a process of its own with a Ray of two CPUs, the arms in turn, some rounds. The time is that from the
first trial's end to the last one's, so that starts do not count; that of either half stands beside it, as Optuna takes
longer for a suggestion the more trials there were. Plain Tune is as it comes, its loggers on: with
random configurations, with its `OptunaSearch` on the search's space and objectives, and without reuse. The search's
arm is all that runs beside a trial: the durable study, the archive, the front and its drawing, MLflow in the
background, and a boundary between two waves. What its driver's memory grows by, and the files that a trial leaves,
stand beside it.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.table import Row
from orchestrator.front.archive import Candidate
from orchestrator.front.front_view import FrontView
from orchestrator.trials.watcher import Watcher
from trainables.results import Reused

NUM_CPUS = 2
NUM_TRIALS = 2_000
WAVE_TRIALS = 1_000
NUM_WITHOUT_REUSE = 12
ROUNDS = 3
ARMS = ("search", "search, one wave", "plain", "plain, OptunaSearch", "plain, no reuse")
HALVES = ("in_first_half", "in_second_half")
OBJECTIVES = ("val_accuracy", "macs_kept")
EXPERIMENT = {
    "model": {"name": "vgg-small", "width": 0.25},
    "data": {"name": "digits", "image_size": 8},
    "teacher": {"epochs": 1},
    "num_trials": NUM_TRIALS,
    "resources": {"max_concurrent": NUM_CPUS},
}


class Ends:
    """Notes when trials ended, and how much memory and processor time this process had taken then."""

    def __init__(self) -> None:
        """Nothing has ended."""
        self.times: list[float] = []
        self.megabytes: list[float] = []
        self.busy_seconds: list[float] = []
        self.num_files = 0
        self.tracking_seconds = 0.0

    def note_end(self) -> None:
        """A trial has ended."""
        import psutil

        self.times.append(time.perf_counter())
        self.megabytes.append(psutil.Process().memory_info().rss / 1e6)
        self.busy_seconds.append(time.process_time())

    @property
    def rates(self) -> dict[str, float]:
        """Trials a second, in all and in either half; processor time of each; memory of each in the second half."""
        half, last = len(self.times) // 2, len(self.times) - 1
        return {
            "trials_a_second": last / (self.times[-1] - self.times[0]),
            "in_first_half": half / (self.times[half] - self.times[0]),
            "in_second_half": (last - half) / (self.times[-1] - self.times[half]),
            "milliseconds_a_trial": 1e3 * (self.busy_seconds[-1] - self.busy_seconds[0]) / last,
            "kilobytes_a_trial": 1e3 * (self.megabytes[-1] - self.megabytes[half]) / (last - half),
        }


class EndsWatcher(Ends, Watcher):
    """The same as a search's watcher."""

    def trial_finished(self, number: int, candidates: Sequence[Candidate], view: FrontView, reused: Reused) -> None:
        """A trial gave its candidates."""
        self.note_end()

    def trial_failed(self, number: int, reason: str) -> None:
        """No trial of this benchmark fails."""
        raise SystemExit(f"trial {number} failed: {reason}")


class Suggesting:
    """A space as `OptunaSearch` takes it; at the top of the module, as Tune pickles its searcher."""

    def __init__(self, space: Any, defaults: Any) -> None:
        """Take the space."""
        self._space, self._defaults = space, defaults

    def __call__(self, trial: Any) -> None:
        """Suggest a cascade, of which the parameters are kept."""
        self._space(trial, self._defaults)


def run_plain(
    arm: str, storage: Path, *, workers: int = NUM_CPUS, resources: Mapping[str, float] = MappingProxyType({"cpu": 1})
) -> Ends:
    """Plain Ray Tune, on its own or on a Ray that is there already."""
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    from orchestrator.experiment.config import parse_experiment

    class Nothing(tune.Trainable):  # type: ignore[misc]
        def step(self) -> dict[str, Any]:
            size = self.config["student_macs_kept"]
            return {"val_accuracy": size, "macs_kept": size, "done": True}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

    class Noting(tune.Callback):  # type: ignore[misc]
        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            ends.note_end()

        def __getstate__(self) -> dict[str, Any]:
            return {}

    ends = Ends()
    size = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": workers, "include_dashboard": False}
    ray.init("local" if size else "auto", log_to_driver=False, logging_level="ERROR", **size)
    experiment = parse_experiment(EXPERIMENT)
    optuna = None
    if arm.endswith("OptunaSearch"):
        # The search's own space, so that both samplers have as much to think about.
        suggesting = Suggesting(experiment.find_space(), experiment.cascade)
        optuna = OptunaSearch(suggesting, metric=list(OBJECTIVES), mode=["max", "min"])
    tune.Tuner(
        tune.with_resources(Nothing, dict(resources)),
        param_space=None if optuna else {"student_macs_kept": tune.uniform(0.1, 0.9)},
        tune_config=tune.TuneConfig(
            search_alg=optuna,
            num_samples=NUM_WITHOUT_REUSE if arm.endswith("no reuse") else NUM_TRIALS,
            max_concurrent_trials=workers if optuna else None,
            reuse_actors=not arm.endswith("no reuse"),
        ),
        run_config=tune.RunConfig(
            storage_path=str(storage),
            callbacks=[Noting()],
            # As in the search, whose trials leave no checkpoint once they have ended; this trainable has none to leave.
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    ).fit()
    ray.shutdown()
    return ends


def run_search(arm: str, storage: Path) -> Ends:
    """The search's machinery; its trials alone do nothing."""
    from functools import partial

    from orchestrator import search
    from orchestrator.experiment.config import parse_experiment
    from orchestrator.searches.folder import SearchFolder
    from orchestrator.tracking import Tracker
    from orchestrator.trials import parts
    from orchestrator.trials.waves import run_waves

    os.environ.pop("MLFLOW_TRACKING_URI", None)  # the database of the storage folder, as on a fresh machine
    experiment = parse_experiment(EXPERIMENT | {"num_trials": NUM_TRIALS})
    vars(parts).update(CascadeTrainable=nothing_of_a_cascade())
    vars(search).update(run_waves=partial(run_waves, wave_trials=WAVE_TRIALS if arm == "search" else NUM_TRIALS))
    tracker = Tracker(
        uri=None,
        storage=storage,
        models="none",  # there are no networks to register
        warn=lambda text: print(text, file=sys.stderr),
    )
    ends = EndsWatcher()
    folder = SearchFolder(storage=storage, name="nothing")
    search.run_search(experiment, folder, resume=False, watcher=ends, tracker=tracker)
    left = [path for path in folder.path.rglob("*") if path.is_file()]
    ends.num_files = len([path for path in left if "trials" in path.relative_to(folder.path).parts])
    started = time.perf_counter()
    tracker.close()
    ends.tracking_seconds = time.perf_counter() - started
    return ends


def nothing_of_a_cascade() -> type:
    """A trainable that reports a result at once, as `CascadeTrainable` does after its last epoch."""
    from ray import tune

    from trainables.results import EpochProgress, LevelResult

    class Nothing(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any], **shared: Any) -> None:
            pass

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            return True

        def step(self) -> dict[str, Any]:
            number, sizes = self.config["trial"], self.config["cascade"]["macs_kept"]
            luck = random.Random(number)
            levels = [
                LevelResult(
                    level=level,
                    num_levels=len(sizes),
                    val_accuracy=size**0.1 * luck.uniform(0.8, 1.0),
                    val_accuracy_before_recalibration=0.5,
                    macs=int(1e6 * size),
                    macs_kept=size,
                    params=int(1e6 * size),
                    params_kept=size,
                ).to_dict()
                for level, size in enumerate(sizes, start=1)
            ]
            epoch = EpochProgress(
                stage="cascade", epoch=1, num_epochs=1, trial_epoch=1, learning_rate=0.1, seconds=0.0, levels=()
            )
            networks = {level["level"]: f"{number}-{level['level']}" for level in levels}
            return {
                "progress": [epoch.to_dict()],
                "results": levels,
                "networks": networks,
                "reused": {"stages": ()},
                "done": True,
            }

    return Nothing


def run_arm(benchmark: str, arm: str) -> dict[str, float]:
    """What an arm of a benchmark found, by the JSON of its last line, from a process of its own."""
    with tempfile.TemporaryDirectory() as storage:
        command = [sys.executable, "-m", f"benchmarks.{benchmark}", arm, storage]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(answer.splitlines()[-1])
    print(f"{benchmark}: {arm}: {found}", file=sys.stderr)
    return found


def run() -> list[Row]:
    """Measure it."""
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for _ in range(ROUNDS):
        for arm in ARMS:
            found[arm].append(run_arm("reuse_actors", arm))
    rate = {arm: statistics.median(one["trials_a_second"] for one in found[arm]) for arm in ARMS}
    spread = {
        arm: f"{min(each):.3g} … {max(each):.3g}"
        for arm, each in ((arm, [one["trials_a_second"] for one in found[arm]]) for arm in ARMS)
    }
    rows = [
        Row(
            name="trials a second that do nothing, search / plain Ray Tune with OptunaSearch",
            figure=rate["search, one wave"] / rate["plain, OptunaSearch"],
            rule="at least",
            target=0.9,
            note=f"{NUM_TRIALS} trials, {ROUNDS} rounds, {NUM_CPUS} CPUs",
        )
    ]
    halves = {arm: [statistics.median(one[key] for one in found[arm]) for key in HALVES] for arm in ARMS}
    rows += [
        Row(
            name=f"… {arm}",
            figure=rate[arm],
            unit="/s",
            note=f"{spread[arm]}; halves {halves[arm][0]:.3g}, {halves[arm][1]:.3g}",
        )
        for arm in ARMS
    ]
    for key, name, unit in (
        ("kilobytes_a_trial", "memory of the driver, a trial", "kB"),
        ("files_a_trial", "files under trials/ that a trial leaves", ""),
        ("boundary_seconds", "longest time between two ends of trials: a wave's boundary", "s"),
        ("tracking_seconds", "MLflow, after the last trial", "s"),
    ):
        rows.append(Row(name=name, figure=statistics.median(one[key] for one in found["search"]), unit=unit))
    return rows


def main(arm: str, storage: Path) -> None:
    """Run one arm and print what was found."""
    ends = run_search(arm, storage) if arm.startswith("search") else run_plain(arm, storage)
    gaps = [later - earlier for earlier, later in zip(ends.times, ends.times[1:], strict=False)]
    print(
        json.dumps(
            ends.rates
            | {
                "boundary_seconds": max(gaps),
                "files_a_trial": ends.num_files / len(ends.times),
                "tracking_seconds": ends.tracking_seconds,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
