"""Many trials as waves: runs of Ray Tune, one after the other, over one study.

Tune keeps every trial of a run in memory, in its snapshot and in its loops, so a run of thousands grows and slows. A
wave is a run of some hundreds, or thousands on a large cluster, with actors reused inside it: those of a run end with
it, so that each boundary starts all of them anew. When a wave has given out its trials, those that still
run are not waited for: each is taken back after its next epoch, whose checkpoint is on disk by then, and is the first
to go on in the next wave. No actor waits longer than for an epoch and a new actor's start. A wave ends early when a
node is found on which trials fail again and again; the next one leaves that node out.
"""

import logging
import math
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune

from orchestrator.experiment.resources import Resources
from orchestrator.machines.at_once import Places, trials_that_fit
from orchestrator.machines.node_faults import NodeFaults, nodes_for
from orchestrator.machines.rank_actors import RankActors
from orchestrator.storage.staging import no_room
from orchestrator.trials.queue import Queue, start_number
from orchestrator.trials.reporter import Listener, Reporter
from orchestrator.trials.wave import Wave, WaveSearcher, WaveStopper

WAVE_TRIALS = 500
TRIALS_A_PLACE = 20
"""Trials of a wave for each that runs at the same time, at least: else starts of actors are much of a wave's time."""

_MOST_PENDING, _NO_LIMIT = "TUNE_MAX_PENDING_TRIALS_PG", 1_000_000  # where Tune looks for it, and nowhere else

# Tune's snapshot of a run is not what a search goes on from: one that cannot be written is nobody's loss, and where a
# disk is full the search says so itself.
logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)


def run_waves(  # noqa: PLR0913
    trainable: Any,  # noqa: ANN401 - Ray's
    queue: Queue,
    record: Listener,
    *,
    resources: Resources,
    max_concurrent: int | None,
    storage: Path,
    make_scheduler: Callable[[Wave], Any] = lambda _wave: None,
    wave_trials: int | None = None,
    go_on: str = "--resume",
) -> None:
    """Run what is in the queue, until it is empty or the user interrupts.

    Args:
        trainable: a `ray.tune.Trainable` that reports as `CascadeTrainable` does.
        queue: of the trials.
        record: hears what they report.
        resources: what a trial takes.
        max_concurrent: trials at the same time; as many as fit where it is `None`.
        storage: folder of Tune's files and of checkpoints; each wave has a folder of its own in it.
        make_scheduler: gives Tune's scheduler for each wave; `None` lets every trial run to its end.
        wave_trials: new trials of a wave at the most, at least 1; `None` for 500, or where more than 25 trials run at
            the same time, twenty times as many.
        go_on: by what the user goes on later, for people.

    Raises:
        MachineError: if no machine that is there can have what trials need; they can go on later.
        OSError: if nothing more can be written, as on a full disk; trials that ran can go on later.
        Exception: whatever else keeps it from drawing trials, or from keeping what they came to; likewise.
    """
    actors = RankActors.of_trial(resources)
    faults = NodeFaults(partial(nodes_for, actors.needs))
    while queue.num_waiting or queue.num_new:
        most = wave_trials or wave_length(actors.needs, max_concurrent)
        size = math.ceil(queue.num_new / max(1, math.ceil(queue.num_new / most)))
        wave = Wave(queue, size=size, may_wait=Places(actors.needs, max_concurrent).may_wait)
        tuner = tune.Tuner(
            tune.with_resources(trainable, actors.for_tune(faults.selector)),
            tune_config=tune.TuneConfig(
                search_alg=WaveSearcher(wave),
                scheduler=make_scheduler(wave),
                num_samples=queue.num_waiting + size,
                max_concurrent_trials=max_concurrent,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=f"start-{_last(storage) + 1:03d}",
                storage_path=str(storage),
                stop=WaveStopper(wave),
                callbacks=[Reporter(wave, record, faults)],
                failure_config=tune.FailureConfig(max_failures=2),
                checkpoint_config=tune.CheckpointConfig(num_to_keep=2, checkpoint_at_end=False),
                verbose=0,
            ),
        )
        with _own_interrupts(), _side_by_side():
            tuner.fit()
        sweep(storage, queue)
        if wave.broken is not None:
            full = no_room(str(wave.broken))
            if full is None:
                raise wave.broken
            raise OSError(
                f"nothing more can be written to {storage.parent}: {full.strerror}; what was finished is kept; make "
                f"room and go on with {go_on}"
            ) from wave.broken
        if wave.unfit is not None:
            raise wave.unfit
        if not wave.done:  # Tune takes an interrupt for itself, and ends the run
            return


def wave_length(needs: Mapping[str, float], max_concurrent: int | None) -> int:
    """New trials of a wave that begins now.

    Args:
        needs: what a trial takes of a node, by Ray's resources.
        max_concurrent: trials at the same time, if they are limited.
    """
    at_once = trials_that_fit(needs)
    return max(WAVE_TRIALS, TRIALS_A_PLACE * (at_once if max_concurrent is None else min(at_once, max_concurrent)))


@contextmanager
def _own_interrupts() -> Iterator[None]:
    """Put back who takes Ctrl-C: Tune's own handler stays after a run, and would swallow the next one."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


@contextmanager
def _side_by_side() -> Iterator[None]:
    """Let Tune start as many actors at a time as trials wait; the wave says how many do. Else it would start one."""
    was_set = _MOST_PENDING in os.environ
    os.environ.setdefault(_MOST_PENDING, str(_NO_LIMIT))
    try:
        yield
    finally:
        if not was_set:
            del os.environ[_MOST_PENDING]


def _last(storage: Path) -> int:
    return max(map(start_number, storage.glob("start-*")), default=0)


def sweep(storage: Path, queue: Queue) -> None:
    """Remove what earlier runs of Tune left: all but the checkpoints of trials that are to go on.

    Args:
        storage: folder of Tune's files.
        queue: knows which trials are to go on.
    """
    unfinished = queue.unfinished
    for run in storage.glob("start-*"):
        for path in run.iterdir():
            if not path.is_dir():
                path.unlink()
            elif not path.name.isdecimal() or int(path.name) not in unfinished:
                shutil.rmtree(path, ignore_errors=True)
        if not any(run.iterdir()):
            run.rmdir()


def _trial_name(trial: Any) -> str:  # noqa: ANN401 - Ray's
    return f"{trial.config['trial']:05d}"
