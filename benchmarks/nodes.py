"""Several nodes on one machine: how a search spreads over them, and what a lost node costs.

The nodes are raylets of one Ray, the trials sleep where others train, and all else is a search: study, archive, MLflow,
checkpoints. Efficiency is that of four nodes against one, each with as many trials a node. Then a raylet is killed
(SIGKILL) in mid-search, and the time is taken until its trial reports from another node. Last come trials that do
nothing, a thousand of them on a hundred nodes, against plain Ray Tune on as many; these nodes are raylets alone, or
they would not fit on one machine.
"""

import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bare_nodes import bare_nodes
from benchmarks.reuse_actors import EXPERIMENT, EndsWatcher, nothing_of_a_cascade, run_arm
from benchmarks.table import Row
from trainables.results import EpochProgress

EPOCH_SECONDS, NUM_EPOCHS = 1.0, 12
TRIALS_A_NODE = 2
LONG_EPOCHS = 40
CROWD_NODES, NUM_TRIALS = 100, 1_000


class Nothing:
    """Settings of trials that need none."""

    def __init__(self, **settings: Any) -> None:
        """Take none."""


class Watching(EndsWatcher):
    """Notes when trials began, trained and ended."""

    def __init__(self) -> None:
        """Nothing has happened."""
        super().__init__()
        self.first: float | None = None
        self.epochs: list[tuple[float, int, int]] = []

    def trial_epoch(self, number: int, progress: EpochProgress) -> None:
        """A trial trained an epoch."""
        now = time.perf_counter()
        if self.first is None:
            self.first = now - EPOCH_SECONDS
        self.epochs.append((now, number, progress.trial_epoch))


def sleeping(num_epochs: int) -> type:
    """A trainable that sleeps where others train, with a checkpoint after each epoch."""
    from trainables.results import LevelProgress

    nothing = nothing_of_a_cascade()

    class Sleeping(nothing):  # type: ignore[misc,valid-type]
        epoch = 0

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.epoch = 0
            return True

        def step(self) -> dict[str, Any]:
            time.sleep(EPOCH_SECONDS)
            self.epoch += 1
            sizes = self.config["cascade"]["macs_kept"]
            levels = tuple(
                LevelProgress(level=level, macs_kept=size, train_loss=1.0, val_accuracy=0.5)
                for level, size in enumerate(sizes, start=1)
            )
            progress = EpochProgress(
                stage="cascade",
                epoch=self.epoch,
                num_epochs=num_epochs,
                trial_epoch=self.epoch,
                learning_rate=0.1,
                seconds=EPOCH_SECONDS,
                levels=levels,
            ).to_dict()
            ended = self.epoch >= num_epochs
            result: dict[str, Any] = super().step() if ended else {"done": False}
            return result | {"progress": [progress], "should_checkpoint": not ended}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            (Path(checkpoint_dir) / "epoch").write_text(str(self.epoch))

        def load_checkpoint(self, checkpoint_dir: str) -> None:
            self.epoch = int((Path(checkpoint_dir) / "epoch").read_text())

    return Sleeping


@contextmanager
def nodes(number: int, *, kind: Callable[[], AbstractContextManager[None]] = nullcontext) -> Iterator[Any]:
    """So many nodes beside a head that runs no trials, added within a context of some kind."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        with kind():
            for _ in range(number):
                cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        cluster.wait_for_nodes()
        os.environ["RAY_ADDRESS"] = cluster.address
        yield cluster
    finally:
        cluster.shutdown()


def search(storage: Path, watcher: Watching, *, trainable: type, num_trials: int, workers: int) -> None:
    """Run a search on the nodes that are there; its trials are the trainable's."""
    from orchestrator import search as searching
    from orchestrator.experiment.config import parse_experiment
    from orchestrator.searches.folder import SearchFolder
    from orchestrator.tracking import Tracker
    from orchestrator.trials import parts

    os.environ.pop("MLFLOW_TRACKING_URI", None)
    resources = {"address": "auto", "max_concurrent": workers}
    experiment = parse_experiment(EXPERIMENT | {"num_trials": num_trials, "resources": resources})
    vars(parts).update(CascadeTrainable=trainable)
    tracker = Tracker(uri=None, storage=storage, models="none", warn=lambda text: print(text, file=sys.stderr))
    folder = SearchFolder(storage=storage, name="nothing")
    searching.run_search(experiment, folder, resume=False, watcher=watcher, tracker=tracker)
    tracker.close()


def spread(storage: Path, number: int) -> dict[str, float]:
    """Seconds for as many trials a node, from the first epoch's start to the last trial's end."""
    watcher = Watching()
    with nodes(number):
        search(storage, watcher, trainable=sleeping(NUM_EPOCHS), num_trials=TRIALS_A_NODE * number, workers=number)
    assert watcher.first is not None
    return {"seconds": watcher.times[-1] - watcher.first}


def killed(storage: Path) -> dict[str, float]:
    """Seconds until the trial of a killed node reports again, and the epochs that are trained twice."""
    watcher = Watching()
    at: list[float] = []

    def kill_a_node(cluster: Any) -> None:
        while sum(epoch >= 4 for _, _, epoch in watcher.epochs) < 2:
            time.sleep(0.05)
        raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.worker_nodes]
        pid = next(pid for pid in raylets if _runs_a_trial(pid))
        at.append(time.perf_counter())
        os.kill(pid, signal.SIGKILL)

    with nodes(3) as cluster:
        threading.Thread(target=kill_a_node, args=(cluster,), daemon=True).start()
        # One trial less than nodes, so that there is a place to move to.
        search(storage, watcher, trainable=sleeping(LONG_EPOCHS), num_trials=2, workers=2)
    return _recovery(watcher.epochs, at[0])


def _runs_a_trial(raylet: int) -> bool:
    import psutil

    titles = [" ".join(child.cmdline()) for child in psutil.Process(raylet).children(recursive=True)]
    return any(title.startswith("ray::ResourceTrainable") for title in titles)


def _recovery(epochs: Sequence[tuple[float, int, int]], at: float) -> dict[str, float]:
    """Seconds until every trial that was running has reported an epoch it had not before, and what it trained twice."""
    seconds, twice = 0.0, 0
    for number in {number for _, number, _ in epochs}:
        own = [(when, epoch) for when, trial, epoch in epochs if trial == number]
        gaps = [(later - earlier, later) for (earlier, _), (later, _) in itertools.pairwise(own) if later > at]
        longest, back = max(gaps)
        if longest > 2 * EPOCH_SECONDS:
            seconds = max(seconds, back - at)
        twice = max(twice, len(own) - len({epoch for _, epoch in own}))
    return {"seconds": seconds, "twice": float(twice)}


def crowd(storage: Path, arm: str) -> dict[str, float]:
    """Trials a second that do nothing, on many workers, and what the driver's memory grows by in the second half."""
    from benchmarks import reuse_actors
    from orchestrator import search as searching
    from orchestrator.machines.cluster import check_nodes
    from orchestrator.trials import parts
    from orchestrator.trials.waves import run_waves

    vars(searching).update(
        # All nodes are asked at once, and share the cores of one machine.
        check_nodes=partial(check_nodes, seconds=600.0),
        # A boundary between two waves ends all workers and starts as many.
        run_waves=partial(run_waves, wave_trials=NUM_TRIALS),
    )
    vars(parts).update(TrialSettings=Nothing)  # or each worker would import torch, of which a hundred do not fit
    reuse_actors.NUM_TRIALS = NUM_TRIALS
    with nodes(CROWD_NODES, kind=bare_nodes):
        if arm == "many nodes, plain":
            ends: Any = reuse_actors.run_plain("plain, OptunaSearch", storage, workers=CROWD_NODES)
        else:
            ends = Watching()
            search(storage, ends, trainable=nothing_of_a_cascade(), num_trials=NUM_TRIALS, workers=CROWD_NODES)
    rates: dict[str, float] = ends.rates
    return rates


def run() -> list[Row]:
    """Measure it."""
    one, four, lost = (run_arm("nodes", arm) for arm in ("one node", "four nodes", "a node is killed"))
    plain, ours = (run_arm("nodes", arm) for arm in ("many nodes, plain", "many nodes"))
    return [
        Row(
            name="efficiency of four nodes against one, as many trials a node",
            figure=one["seconds"] / four["seconds"],
            rule="at least",
            target=0.95,
            note=f"{one['seconds']:.1f} s and {four['seconds']:.1f} s; on each {TRIALS_A_NODE} trials of {NUM_EPOCHS} "
            f"epochs of {EPOCH_SECONDS:g} s",
        ),
        Row(
            name="a node killed: until its trial reports again",
            figure=lost["seconds"],
            unit="s",
            rule="below",
            target=60.0,
        ),
        Row(name="… epochs trained twice", figure=lost["twice"], rule="at most", target=1.0),
        Row(
            name="trials a second that do nothing, search / plain Ray Tune with OptunaSearch",
            figure=ours["trials_a_second"] / plain["trials_a_second"],
            rule="at least",
            target=0.9,
            note=f"{ours['trials_a_second']:.1f} and {plain['trials_a_second']:.1f}; {NUM_TRIALS} trials, one "
            f"at a time on each of {CROWD_NODES} nodes",
        ),
        Row(
            name="… processor time of the driver, a trial",
            figure=ours["milliseconds_a_trial"],
            unit="ms",
            note=f"of plain Ray Tune {plain['milliseconds_a_trial']:.1f} ms",
        ),
        Row(name="… driver's memory, a trial", figure=ours["kilobytes_a_trial"], unit="kB"),
    ]


def main(arm: str, storage: Path) -> None:
    """Run one arm and print what was found."""
    if arm.startswith("many"):
        found = crowd(storage, arm)
    elif arm == "a node is killed":
        found = killed(storage)
    else:
        found = spread(storage, {"one node": 1, "four nodes": 4}[arm])
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
