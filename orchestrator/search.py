"""Compose a search from its parts, run it on Ray, resume it."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

# Read when Ray is imported: no loggers of its own (tracking is ours), no hook into the terminal.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Tune need not write its own snapshots: a search goes on from its study, and nobody would read them.
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "86400")
# Why a trial failed is in the study and on the terminal, in one line.
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
# Trials stay in the current folder, so that paths in the user's own functions mean what they meant.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
import torch
from ray import tune

from orchestrator.bucket import Bucket
from orchestrator.budget import Budget
from orchestrator.checks import check_network, check_ranks
from orchestrator.cluster import check_kinds, check_nodes, check_resources, check_together, joining
from orchestrator.config import Experiment
from orchestrator.datasets import data_sets, load_splits
from orchestrator.folder import STAGES, TEACHER, SearchFolder
from orchestrator.looks import Look, Looks
from orchestrator.mirror import Mirror, driving
from orchestrator.opening import open_study, starting_points, warm_start
from orchestrator.packing import PACKING, nothing_chosen, pack, where_there_is_no_card, without_cards
from orchestrator.places import fetch_networks
from orchestrator.rank_actors import RankActors, TrialRanks
from orchestrator.record import CANDIDATES, SearchRecord, search_parameters
from orchestrator.resources import AUTO, Resources
from orchestrator.reuse import StageFolder
from orchestrator.room import check_memory
from orchestrator.schedulers import RungScheduler, StoredRungs
from orchestrator.signals import terminated_as_interrupted
from orchestrator.storages import find_study, study_address
from orchestrator.study import Study
from orchestrator.teacher import TeacherTask, prepare_teacher, time_layers
from orchestrator.tracking import Tracker
from orchestrator.trial_bucket import TrialBucket
from orchestrator.trials import TrialQueue
from orchestrator.warm_start import find_sources
from orchestrator.watcher import Watcher
from orchestrator.waves import run_waves, sweep
from trainables.cost import LatencyTable
from trainables.data import DataSplits
from trainables.errors import InputError, first_line
from trainables.identity import data_digest, teacher_identity, trial_origin
from trainables.results import EpochProgress, Reused, TeacherResult
from trainables.tune_adapter import CascadeTrainable, TrialSettings, TrialStore

TRIALS = "trials"
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
    data = load_splits(experiment.data)
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
            task = teacher_task(experiment, folder, digest)
            table = None if checked.timed is None else _times(task, experiment, data, watcher)
            sizes = checked.look if checked.timed is None or table is None else checked.timed(table)
            look = Looks(looks=(sizes, memory))
            folder.begin(asked, data=digest)
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
                return _run(
                    experiment, folder, mirror, task, data, digest, look, budget, watcher, tracker, available_cpus
                )
            except BaseException as error:
                stopped = isinstance(error, KeyboardInterrupt)
                tracker.finish("stopped" if stopped else "failed", _INTERRUPTED if stopped else first_line(error))
                raise


@contextmanager
def ray_session(resources: Resources) -> Iterator[float]:
    """Ray, started on this machine or joined, and left as it was found; yields the CPUs that it has.

    Raises:
        InputError: if it is not there, or has less than one trial takes.
    """
    # Functions of the user's own lie in the current folder; workers must find them too.
    python_path = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
    options: dict[str, Any] = {"runtime_env": {"env_vars": {"PYTHONPATH": python_path}}}
    if resources.address == "local":
        # Workers of this machine's own Ray inherit it, which starts them faster than an environment of their own.
        os.environ["PYTHONPATH"] = python_path
        options = {"include_dashboard": False}
    with joining(resources.address):
        ray.init(address=resources.address, log_to_driver=False, logging_level="ERROR", **options)
    try:
        resources = where_there_is_no_card(resources)
        available_cpus = check_resources(_asked(resources), address=resources.address)
        check_kinds(_kinds(resources))
        check_together(
            {
                "a trial (resources)": RankActors.of_trial(resources).needs,
                "the teacher (resources.teacher)": RankActors.of_teacher(resources).needs,
            }
        )
        with terminated_as_interrupted():  # from here on, as Ray has just set what SIGTERM does: a dump, and no end
            yield available_cpus
    finally:
        ray.shutdown()


def _asked(resources: Resources) -> dict[str, tuple[str, float]]:
    asked = {"resources.cpus_per_trial": ("CPU", resources.cpus_per_trial)}
    if resources.gpus_per_trial != AUTO:
        asked["resources.gpus_per_trial"] = ("GPU", resources.gpus_per_trial)
    if resources.teacher is not None:
        asked["resources.teacher.cpus"] = ("CPU", resources.teacher.cpus)
        asked["resources.teacher.gpus"] = ("GPU", resources.teacher.gpus)
    return asked


def _kinds(resources: Resources) -> dict[str, str]:
    """Kinds of cards that are asked for, by the key that says so."""
    teacher = None if resources.teacher is None else resources.teacher.gpu_kind
    kinds = {"resources.gpu_kind": resources.gpu_kind, "resources.teacher.gpu_kind": teacher}
    return {key: kind for key, kind in kinds.items() if kind is not None}


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


def _run(  # noqa: PLR0913
    experiment: Experiment,
    folder: SearchFolder,
    mirror: Mirror | None,
    task: TeacherTask,
    data: DataSplits,
    digest: str,
    look: Look,
    budget: Budget,
    watcher: Watcher,
    tracker: Tracker,
    available_cpus: float,
) -> Outcome:
    study = open_study(experiment, folder)
    teacher = _prepare_teacher(task, experiment, data, watcher, tracker, available_cpus)
    # Latency means nothing while other trials run.
    max_concurrent = 1 if _measures_latency(experiment) else experiment.resources.max_concurrent
    if study.num_ended < experiment.num_trials:
        at_once = min(experiment.num_trials, max_concurrent or experiment.num_trials)
        packed = pack(experiment, task, data, file=folder.path / PACKING, at_once=at_once, say=watcher.note, look=look)
        experiment, look = packed.experiment, Looks(looks=(look, packed.look))
        tracker.log_parameters(packed.parameters)
    space = experiment.find_space()
    study.enqueue(starting_points(experiment, space))
    for learned in warm_start(study, experiment, folder):
        watcher.note(str(learned))
    budget.recall(study.ended())
    record = SearchRecord(
        folder=folder.path,
        objectives=experiment.objectives,
        teacher=teacher,
        archive=folder.archive,
        study=study,
        budget=budget,
        tracker=tracker,
        watcher=watcher,
        bounds=experiment.constraints,
        fetch=partial(fetch_networks, folder),
    )
    unfinished = record.adopt()
    watcher.going_on(study.num_ended)
    queue = TrialQueue(
        study,
        space,
        experiment.cascade,
        num_trials=experiment.num_trials,
        budget=budget,
        unfinished=unfinished,
        states=folder.path / TRIALS,
        look=look,
        told=mirror.ended if mirror is not None else lambda _number: None,
    )
    sweep(folder.path / TRIALS, queue)
    if mirror is not None:
        mirror.sweep(queue.unfinished)
    if queue.remaining:
        try:
            run_waves(
                trainable(
                    experiment,
                    task,
                    data,
                    digest,
                    networks=folder.path / CANDIDATES,
                    store=_trial_store(folder),
                    measure_latency=_measures_latency(experiment),
                    stops=None if experiment.early_stopping is None else folder.path / TRIALS,
                ),
                queue,
                record,
                resources=experiment.resources,
                max_concurrent=max_concurrent,
                storage=folder.path / TRIALS,
                make_scheduler=lambda: _scheduler(experiment, folder),
            )
        except BaseException:
            record.leave()
            raise
    if queue.exhausted:
        watcher.note(queue.exhausted)
    return _conclude(experiment, study, budget, record, exhausted=queue.exhausted)


def trainable(  # noqa: PLR0913
    experiment: Experiment,
    task: TeacherTask,
    data: DataSplits,
    digest: str,
    *,
    networks: Path,
    measure_latency: bool,
    stops: Path | None = None,
    store: TrialStore | None = None,
) -> Any:  # noqa: ANN401 - Ray's
    """What Tune runs: trials that share the teacher, the images and their settings.

    Args:
        experiment: says what network, and what a trial takes.
        task: of the teacher, which is there.
        data: the images.
        digest: of the images.
        networks: folder into which the networks of finished trials go.
        measure_latency: measure each level's latency when a trial ends.
        stops: folder in which trials look for a note that tells them to stop; `None` for trials that are not stopped.
        store: of what trials leave, where machines do not share the search's folder.
    """
    weights, arrays = task.weights(), data.to_arrays()
    actors = RankActors.of_trial(experiment.resources)
    settings = TrialSettings(
        model=experiment.model,
        augmentation=experiment.data.augmentation,
        candidates=str(networks),
        num_threads=actors.num_threads,
        use_gpu=_uses_gpu(experiment.resources),
        measure_latency=measure_latency,
        finished_stages=task.finished_stages,
        origin=trial_origin(
            experiment.model,
            teacher={name: torch.from_numpy(array) for name, array in weights.items()},
            augmentation=experiment.data.augmentation,
            data=digest,
        ),
        stops=None if stops is None else str(stops),
        latency=task.latency(),
        crew=None if actors.size == 1 else TrialRanks(actors=actors, teacher=ray.put(weights), data=ray.put(arrays)),
        store=store,
    )
    return tune.with_parameters(CascadeTrainable, teacher=weights, data=arrays, settings=settings)


def _uses_gpu(resources: Resources) -> bool:
    return resources.num_gpus > 0


def _measures_latency(experiment: Experiment) -> bool:
    return "latency_ms" in experiment.objectives or "latency_ms" in experiment.constraints


def teacher_task(experiment: Experiment, folder: SearchFolder, data: str) -> TeacherTask:
    """How a search gets its teacher; `data` is the digest of its images."""
    model = experiment.model
    if model.weights is not None:
        model = dataclasses.replace(model, weights=str(Path(model.weights).resolve()))
    return TeacherTask(
        finished_stages=StageFolder(folder.stages, stage_bucket(experiment, folder)) if experiment.reuse else None,
        identity=teacher_identity(
            model,
            recipe=experiment.teacher,
            augmentation=experiment.data.augmentation,
            seed=experiment.seed,
            data=data,
        ),
        folder=folder.teacher,
        model=model,
        recipe=experiment.teacher,
        augmentation=experiment.data.augmentation,
        seed=experiment.seed,
        actors=RankActors.of_teacher(experiment.resources),
        measure_latency=_measures_latency(experiment),
        bucket=None if folder.bucket is None else folder.bucket.within(TEACHER),
    )


def stage_bucket(experiment: Experiment, folder: SearchFolder) -> Bucket | None:
    """Where stages are shared beyond the storage folder, if anywhere."""
    if isinstance(experiment.reuse, str):
        return Bucket(experiment.reuse)
    return folder.bucket.parent.within(STAGES) if experiment.reuse and folder.bucket is not None else None


def _trial_store(folder: SearchFolder) -> TrialBucket | None:
    return None if folder.bucket is None else TrialBucket(folder.bucket, folder.path)


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


def _prepare_teacher(  # noqa: PLR0913
    task: TeacherTask,
    experiment: Experiment,
    data: DataSplits,
    watcher: Watcher,
    tracker: Tracker,
    available_cpus: float,
) -> TeacherResult:
    resources = experiment.resources
    if resources.address == "local" and resources.teacher is None and not task.measure_latency:
        # Nothing else runs yet, so the teacher has the machine.
        all_cpus = dataclasses.replace(task.actors, num_cpus=max(task.actors.num_cpus, float(int(available_cpus))))
        task = dataclasses.replace(task, actors=all_cpus)
    epochs: list[EpochProgress] = []

    def told(progress: EpochProgress) -> None:
        epochs.append(progress)
        watcher.teacher_epoch(progress)

    teacher = prepare_teacher(task, ray.put(data.to_arrays()), told=told)
    tracker.log_teacher(teacher, epochs)
    watcher.teacher_ready(teacher)
    return teacher


def _scheduler(experiment: Experiment, folder: SearchFolder) -> RungScheduler | None:
    if experiment.early_stopping is None:
        return None
    rungs = StoredRungs(folder.rungs_file, experiment.early_stopping, seed=experiment.seed)
    store = _trial_store(folder)
    return RungScheduler(rungs, folder.path / TRIALS, None if store is None else store.tell_to_stop)


def _conclude(
    experiment: Experiment, study: Study, budget: Budget, record: SearchRecord, *, exhausted: str | None
) -> Outcome:
    failures, num_ended = study.failures(), study.num_ended
    all_ended = num_ended >= experiment.num_trials
    reason = f"num_trials: {num_ended} trials have ended" if all_ended else budget.reached() or exhausted
    status: Literal["finished", "interrupted", "failed"] = "finished"
    if reason is None or study.running():
        status, reason = "interrupted", _INTERRUPTED
    elif failures and len(failures) == num_ended:
        status, reason = "failed", f"all {num_ended} trials failed"
    record.close("stopped" if status == "interrupted" else status, reason)
    return Outcome(status=status, reason=reason, num_ended=num_ended, failures=failures, reused=study.reused())
