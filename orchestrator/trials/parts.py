"""What a search, and repeats of it, are made of: trials, their teacher, where stages and networks are shared."""

import dataclasses
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune

from orchestrator.experiment.config import Experiment
from orchestrator.machines.rank_actors import RankActors, TrialRanks
from orchestrator.preparation.teacher_task import TeacherTask
from orchestrator.searches.folder import SearchFolder
from orchestrator.searches.layout import STAGES, TEACHER, TRIALS
from orchestrator.searches.reuse import StageFolder
from orchestrator.searches.trial_bucket import TrialBucket
from orchestrator.storage.bucket import Bucket
from orchestrator.trials.schedulers import RungScheduler, StoredRungs
from orchestrator.trials.wave import Wave
from trainables.datasets.data import DataSplits
from trainables.identity import teacher_identity, trial_origin
from trainables.tune_adapter import CascadeTrainable, TrialSettings, TrialStore


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
        num_gpus=experiment.resources.num_gpus,
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
        checkpoint_seconds=60.0 * experiment.checkpoint_minutes,
        crew=None if actors.size == 1 else TrialRanks(actors=actors, teacher=ray.put(weights), data=ray.put(arrays)),
        store=store,
    )
    return tune.with_parameters(CascadeTrainable, teacher=weights, data=arrays, settings=settings)


def make_teacher_task(experiment: Experiment, folder: SearchFolder, data: str) -> TeacherTask:
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
        timed_on=RankActors.of_trial(experiment.resources) if experiment.measures_latency else None,
        bucket=None if folder.bucket is None else folder.bucket.within(TEACHER),
        checkpoint_seconds=60.0 * experiment.checkpoint_minutes,
    )


def stage_bucket(experiment: Experiment, folder: SearchFolder) -> Bucket | None:
    """Where stages are shared beyond the storage folder, if anywhere."""
    if isinstance(experiment.reuse, str):
        return Bucket(experiment.reuse)
    return folder.bucket.parent.within(STAGES) if experiment.reuse and folder.bucket is not None else None


def trial_store(folder: SearchFolder) -> TrialBucket | None:
    """Of what trials leave, where machines do not share the search's folder."""
    return None if folder.bucket is None else TrialBucket(folder.bucket, folder.path)


def scheduler(experiment: Experiment, folder: SearchFolder, wave: Wave) -> RungScheduler | None:
    """What stops trials of a wave early; `None` if nothing does."""
    if experiment.early_stopping is None:
        return None
    rungs = StoredRungs(folder.rungs_file, experiment.early_stopping, seed=experiment.seed)
    store = trial_store(folder)
    return RungScheduler(wave, rungs, folder.path / TRIALS, None if store is None else store.tell_to_stop)
