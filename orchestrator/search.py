"""Compose a search from its parts, run it on Ray, resume it."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import ray

from orchestrator.data.datasets import data_sets, load_splits, require_drawn_test_images
from orchestrator.data.left_out import data_notes
from orchestrator.experiment.config import Experiment
from orchestrator.experiment.resources import LOCAL
from orchestrator.machines.cluster import check_nodes
from orchestrator.machines.rank_actors import RankActors
from orchestrator.policies.budget import Budget
from orchestrator.policies.looks import Look, Looks
from orchestrator.preparation.checks import check_network, check_ranks
from orchestrator.preparation.packing import PACKING, nothing_chosen, pack, without_cards
from orchestrator.preparation.room import check_memory
from orchestrator.preparation.session import ray_session
from orchestrator.preparation.teacher import prepare_teacher, time_layers
from orchestrator.preparation.teacher_task import TeacherTask
from orchestrator.sampling.opening import open_study, starting_points, warm_start
from orchestrator.sampling.storages import find_study, study_address
from orchestrator.sampling.study import Study
from orchestrator.sampling.warm_start import find_sources
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.images import find_images_again, note_place
from orchestrator.searches.mirror import Mirror, driving
from orchestrator.searches.places import fetch_networks
from orchestrator.tracking import Tracker
from orchestrator.trials.parts import TRIALS, make_teacher_task, scheduler, stage_bucket, trainable, trial_store
from orchestrator.trials.queue import TrialQueue
from orchestrator.trials.record import CANDIDATES, SearchRecord, search_parameters
from orchestrator.trials.watcher import Watcher
from orchestrator.trials.waves import run_waves, sweep
from orchestrator.words import counted
from trainables.datasets.data import DataSplits
from trainables.errors import InputError, first_line
from trainables.identity import data_digest
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
        failures: why trials failed, by number.
        reused: what trials did not have to compute.
    """

    status: Literal["finished", "interrupted", "failed"]
    reason: str
    num_ended: int
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
    folder.require_fresh_or_same(experiment, resume=resume)
    folder.require_writable()
    for bucket in filter(None, (folder.bucket, stage_bucket(experiment, folder))):
        bucket.require_usable()
    find_study(study_address(experiment, folder))
    find_sources(experiment.study.warm_start, folder=folder, objectives=experiment.objectives)
    images = find_images_again(folder, experiment.data)
    for note in data_notes(images):
        watcher.note(note)
    require_drawn_test_images(images)
    data = load_splits(images, watcher.note)
    digest = data_digest(data)
    folder.require_same_data(digest)
    check_ranks(experiment, data)
    checked = check_network(experiment, data)
    for note in checked.notes:
        watcher.note(note)
    tracker.prepare()  # now, as it makes the storage folder, and connects while Ray starts
    with ray_session(experiment.resources) as available_cpus, _removed_if_unused(folder):
        check_nodes(folder.bucket or folder.storage, address=experiment.resources.address)
        asked, experiment = experiment, without_cards(experiment, watcher.note)
        memory = check_memory(experiment, data)
        tracker.check()
        with folder.locked(), driving(folder, watcher.note) as mirror:
            # Somebody may have begun it, since we looked.
            folder.require_fresh_or_same(experiment, resume=resume)
            folder.require_same_data(digest)
            task = make_teacher_task(experiment, folder, digest)
            table = None if checked.timed is None else _times(task, experiment, data, watcher)
            sizes = checked.look if checked.timed is None or table is None else checked.timed(table)
            look = Looks(looks=(sizes, memory))
            folder.begin(asked, data=digest)
            note_place(folder, images)
            if table is not None:
                task.keep_latency(table)
            if mirror is not None:
                mirror.begin()
            shown = asked.without_secrets()
            tracker.start_search(
                folder.name,
                search_parameters(shown.to_dict()) | ({} if experiment is asked else nothing_chosen()),
                shown.to_yaml(),
                folder.search_id,
                data=data_sets(shown.data, data, digest),
            )
            try:
                with _told_if_taken_away(folder):
                    return _run(
                        _Begun(
                            experiment=experiment,
                            folder=folder,
                            mirror=mirror,
                            task=task,
                            data=data,
                            digest=digest,
                            look=look,
                            budget=budget,
                            watcher=watcher,
                            tracker=tracker,
                            available_cpus=available_cpus,
                        )
                    )
            except BaseException as error:
                stopped = isinstance(error, KeyboardInterrupt)
                tracker.finish("stopped" if stopped else "failed", _INTERRUPTED if stopped else first_line(error))
                raise


@contextmanager
def _removed_if_unused(folder: SearchFolder) -> Iterator[None]:
    """Leave no empty folder behind when a check fails after it was made."""
    try:
        yield
    except InputError:
        if folder.path.is_dir() and not folder.exists:
            (folder.path / "lock").unlink(missing_ok=True)
            with suppress(OSError):  # what else is there is the user's
                folder.path.rmdir()
        raise


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
    def max_concurrent(self) -> int | None:
        """Trials at the same time; latency means nothing while others run."""
        return 1 if self.experiment.measures_latency else self.experiment.resources.max_concurrent

    @property
    def trials(self) -> Path:
        """Folder of what running trials write."""
        return self.folder.path / TRIALS


def _run(begun: _Begun) -> Outcome:
    study = open_study(begun.experiment, begun.folder)
    teacher = _prepare_teacher(begun)
    if study.num_ended < begun.experiment.num_trials:
        begun = _packed(begun)
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
    begun.watcher.going_on(study.num_ended)
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
    )
    sweep(begun.trials, queue)
    if mirror is not None:
        mirror.sweep(queue.unfinished)
    if queue.remaining:
        _train(begun, queue, record)
    if queue.exhausted:
        begun.watcher.note(queue.exhausted)
    return _conclude(experiment, study, budget, record, exhausted=queue.exhausted)


def _packed(begun: _Begun) -> _Begun:
    """The same, once it is known what part of a card a trial takes."""
    experiment = begun.experiment
    packed = pack(
        experiment,
        begun.task,
        begun.data,
        file=begun.folder.path / PACKING,
        at_once=1 if experiment.measures_latency else experiment.resources.at_once(experiment.num_trials),
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
            max_concurrent=begun.max_concurrent,
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
    return Outcome(status=status, reason=reason, num_ended=num_ended, failures=failures, reused=study.reused())
