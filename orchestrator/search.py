"""Compose a search from its parts, run it on Ray, resume it."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import ray

from orchestrator.beginning import alone_if_timed, begin, check_search, removed_if_unused, tell_start
from orchestrator.experiment.config import Experiment
from orchestrator.experiment.machine_rules import LOCAL
from orchestrator.machines.cluster import check_nodes
from orchestrator.machines.rank_actors import RankActors
from orchestrator.policies.budget import Budget
from orchestrator.policies.looks import Look, Looks
from orchestrator.preparation.packing import nothing_chosen, pack, without_cards
from orchestrator.preparation.room import check_memory
from orchestrator.preparation.session import ray_session
from orchestrator.preparation.teacher import prepare_teacher, time_layers
from orchestrator.preparation.teacher_task import TeacherTask
from orchestrator.sampling.opening import open_study, starting_points, warm_start
from orchestrator.sampling.study import Study
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.layout import CANDIDATES, PACKING, TRIALS
from orchestrator.searches.mirror import Mirror, driving
from orchestrator.searches.places import fetch_networks
from orchestrator.searches.same_search import require_fresh_or_same, require_same_data
from orchestrator.tracking import Tracker
from orchestrator.trials.parts import make_teacher_task, scheduler, trainable, trial_store
from orchestrator.trials.queue import TrialQueue
from orchestrator.trials.record import SearchRecord
from orchestrator.trials.watcher import Watcher
from orchestrator.trials.waves import run_waves, sweep
from orchestrator.words import counted
from trainables.datasets.data import DataSplits
from trainables.errors import first_line
from trainables.pruning.cost import LatencyTable
from trainables.results import EpochProgress, Reused, TeacherResult

_INTERRUPTED = "interrupted"


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How a search ended.

    Attributes:
        status: `finished` (all trials ended, a limit was reached, or the space gives no more), `interrupted`, or
            `failed` (all of them failed).
        reason: why it ended, for people to read.
        num_ended: trials that are complete, stopped or failed.
        num_trials: that there are to be, or already are where it was lowered.
        failures: why trials failed, by number.
        reused: what trials did not have to compute.
    """

    status: Literal["finished", "interrupted", "failed"]
    reason: str
    num_ended: int
    num_trials: int
    failures: dict[int, str]
    reused: tuple[Reused, ...]


def run_search(
    experiment: Experiment, folder: SearchFolder, *, resume: bool, watcher: Watcher, tracker: Tracker
) -> Outcome:
    """Run a search to its end, or until it is interrupted.

    Args:
        experiment: what to search.
        folder: where it is kept.
        resume: go on with what is there.
        watcher: the terminal.
        tracker: MLflow.

    Raises:
        InputError: if anything that was asked for cannot be; nothing has been started then.
        StageFailure: if the teacher cannot be trained.
    """
    budget = Budget(experiment.stop)  # here, as its clock runs for whoever waits
    checks = check_search(experiment, folder, resume=resume, watcher=watcher)
    tracker.prepare()  # now, as it gets ready while Ray starts
    with ray_session(experiment.resources) as available_cpus, removed_if_unused(folder):
        check_nodes(folder.bucket or folder.storage, address=experiment.resources.address)
        as_run = without_cards(experiment, watcher.note)
        as_trained = alone_if_timed(as_run)
        memory = check_memory(as_trained, checks.data)
        tracker.check()
        with folder.locked(), driving(folder, watcher.note) as mirror:
            # Somebody may have begun it, since we looked.
            require_fresh_or_same(folder, experiment, resume=resume)
            require_same_data(folder, checks.digest)
            task = make_teacher_task(as_run, folder, checks.digest)
            table = None if checks.network.timed is None else _times(task, as_run, checks.data, watcher)
            sizes = (
                checks.network.look if checks.network.timed is None or table is None else checks.network.timed(table)
            )
            begin(experiment, folder, checks, task=task, table=table, mirror=mirror)
            chosen = {} if as_run is experiment else nothing_chosen()
            tell_start(tracker, experiment, folder, checks, chosen=chosen)
            begun = _Begun(
                experiment=as_trained,
                folder=folder,
                mirror=mirror,
                task=task,
                data=checks.data,
                digest=checks.digest,
                look=Looks(looks=(sizes, memory)),
                budget=budget,
                watcher=watcher,
                tracker=tracker,
                available_cpus=available_cpus,
            )
            with _told_how_it_broke_off(tracker), _told_if_taken_away(folder):
                return _run(begun)


@contextmanager
def _told_if_taken_away(folder: SearchFolder) -> Iterator[None]:
    """Say so where the folder was moved or removed in the block, of which the system says but the file it missed."""
    try:
        yield
    except OSError as error:
        if folder.exists:
            raise
        raise OSError(
            f"{folder.path} was moved or removed while the search ran; bring it back and go on with --resume, or "
            "remove what is left there and begin anew"
        ) from error


@contextmanager
def _told_how_it_broke_off(tracker: Tracker) -> Iterator[None]:
    """Tell MLflow of a search that the block does not bring to its end."""
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        tracker.finish("stopped" if stopped else "failed", _INTERRUPTED if stopped else first_line(error))
        raise


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Begun:
    """A search whose checks have passed and whose folder is there and held; Ray runs."""

    experiment: Experiment
    folder: SearchFolder
    mirror: Mirror | None
    task: TeacherTask
    data: DataSplits
    digest: str
    look: Look
    budget: Budget
    watcher: Watcher
    tracker: Tracker
    available_cpus: float

    @property
    def trials(self) -> Path:
        """Folder of what running trials write."""
        return self.folder.path / TRIALS


def _run(begun: _Begun) -> Outcome:
    study = open_study(begun.experiment, begun.folder)
    teacher = _prepare_teacher(begun)
    num_begun = len(study.running())  # which go on however few trials there are to be
    if num_begun or study.num_ended < begun.experiment.num_trials:
        begun = _packed(begun, max(num_begun, begun.experiment.num_trials))
    experiment, folder, budget, mirror = begun.experiment, begun.folder, begun.budget, begun.mirror
    space = experiment.find_space()
    study.enqueue(starting_points(experiment, space))
    for learned in warm_start(study, experiment, folder):
        begun.watcher.note(str(learned))
    budget.recall(study.ended())
    record = SearchRecord(
        folder=folder.path,
        objectives=experiment.objectives,
        teacher=teacher,
        archive=folder.archive,
        study=study,
        budget=budget,
        tracker=begun.tracker,
        watcher=begun.watcher,
        bounds=experiment.constraints,
        fetch=partial(fetch_networks, folder),
    )
    unfinished = record.adopt()
    begun.watcher.going_on(study.num_ended, study.num_started)
    queue = TrialQueue(
        study,
        space,
        experiment.cascade,
        num_trials=experiment.num_trials,
        budget=budget,
        unfinished=unfinished,
        states=begun.trials,
        look=begun.look,
        told=mirror.ended if mirror is not None else lambda _number: None,
        say=begun.watcher.note,
    )
    sweep(begun.trials, queue)
    if mirror is not None:
        mirror.sweep(queue.unfinished)
    if queue.remaining:
        _train(begun, queue, record)
    queue.sum_up()
    return _conclude(experiment, study, budget, record, exhausted=queue.exhausted)


def _packed(begun: _Begun, num_trials: int) -> _Begun:
    """The same, once it is known what part of a card each of so many trials takes."""
    experiment = begun.experiment
    packed = pack(
        experiment,
        begun.task,
        begun.data,
        file=begun.folder.path / PACKING,
        at_once=experiment.resources.at_once(num_trials),
        say=begun.watcher.note,
        look=begun.look,
    )
    begun.tracker.log_parameters(packed.parameters)
    return dataclasses.replace(begun, experiment=packed.experiment, look=Looks(looks=(begun.look, packed.look)))


def _train(begun: _Begun, queue: TrialQueue, record: SearchRecord) -> None:
    """Run trials until the queue gives no more."""
    experiment, folder = begun.experiment, begun.folder
    try:
        run_waves(
            trainable(
                experiment,
                begun.task,
                begun.data,
                begun.digest,
                networks=folder.path / CANDIDATES,
                store=trial_store(folder),
                measure_latency=experiment.measures_latency,
                stops=None if experiment.early_stopping is None else begun.trials,
            ),
            queue,
            record,
            resources=experiment.resources,
            max_concurrent=experiment.resources.max_concurrent,
            storage=begun.trials,
            make_scheduler=partial(scheduler, experiment, folder),
        )
    except BaseException:
        record.leave()
        raise


def _times(task: TeacherTask, experiment: Experiment, data: DataSplits, watcher: Watcher) -> LatencyTable:
    """The times of the teacher's layers, taken as trials will run."""
    table = time_layers(
        task,
        experiment.cascade.pruning,
        data,
        actors=RankActors.of_trial(experiment.resources),
    )
    watcher.note(f"sizes are fractions of the teacher's latency; one image takes it about {table.full_ms:.3g} ms")
    return table


def _prepare_teacher(begun: _Begun) -> TeacherResult:
    task, resources = begun.task, begun.experiment.resources
    if resources.address == LOCAL and resources.teacher is None:
        # Nothing else runs yet, so the teacher has the machine.
        all_cpus = dataclasses.replace(
            task.actors, num_cpus=max(task.actors.num_cpus, float(int(begun.available_cpus)))
        )
        task = dataclasses.replace(task, actors=all_cpus)
    epochs: list[EpochProgress] = []

    def told(progress: EpochProgress) -> None:
        epochs.append(progress)
        begun.watcher.teacher_epoch(progress)

    teacher = prepare_teacher(task, ray.put(begun.data.to_arrays()), told=told)
    begun.tracker.log_teacher(teacher, epochs)
    begun.watcher.teacher_ready(teacher)
    return teacher


def _conclude(
    experiment: Experiment, study: Study, budget: Budget, record: SearchRecord, *, exhausted: str | None
) -> Outcome:
    failures, num_ended = study.failures(), study.num_ended
    all_ended = num_ended >= experiment.num_trials
    reason = f"num_trials: {counted(num_ended, 'trial')} ended" if all_ended else budget.reached() or exhausted
    status: Literal["finished", "interrupted", "failed"] = "finished"
    if reason is None or study.running():
        status, reason = "interrupted", _INTERRUPTED
    elif failures and len(failures) == num_ended:
        status, reason = "failed", "the only trial failed" if num_ended == 1 else f"all {num_ended} trials failed"
    record.close("stopped" if status == "interrupted" else status, reason)
    return Outcome(
        status=status,
        reason=reason,
        num_ended=num_ended,
        num_trials=max(experiment.num_trials, study.num_started),
        failures=failures,
        reused=study.reused(),
    )
