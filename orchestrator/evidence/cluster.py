"""Run a study on Ray: the teacher and every run are tasks, so that nodes may die and others go on."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
import torch

from orchestrator.evidence.arms import Material, run_arm
from orchestrator.evidence.material import (
    StudyImages,
    keep_teacher,
    kept_teacher,
    make_teacher,
    teacher_note,
    teacher_with,
)
from orchestrator.evidence.plan import StudyPlan
from orchestrator.evidence.processes import told_lost
from orchestrator.evidence.results import RunResult
from orchestrator.evidence.schedule import next_run
from orchestrator.evidence.settings import Run
from orchestrator.words import percent
from trainables.errors import StageFailure
from trainables.hardware import processor

Arrays = dict[str, Any]
_RETRIES = 3  # of a task whose node or process has died


def run_on_ray(
    plan: StudyPlan,
    images: StudyImages,
    folder: Path,
    before: Mapping[str, RunResult],
    *,
    done: Callable[[RunResult], None],
    say: Callable[[str], None],
) -> int:
    """Train all runs that are missing, as many at once as fit; how many were lost to errors or with their workers.

    Args:
        plan: the study.
        images: of the study.
        folder: keeps the teacher.
        before: results that are there.
        done: takes each result as it comes, before more are started.
        say: takes a line for people.

    Raises:
        StageFailure: if the teacher cannot be trained.
    """
    share = {"num_cpus": plan.resources.cpus, "num_gpus": plan.resources.gpus, "max_retries": _RETRIES}
    results, lost = dict(before), set[str]()
    if next_run(plan, results) is None:
        return 0
    arrays = ray.put(images.to_arrays())
    teacher = ray.put(_teacher(plan, images, folder, arrays, share, say))
    work = ray.remote(**share)(_work)
    slots = _slots(plan)
    running: dict[Any, Run] = {}
    while True:
        while len(running) < slots:
            run = next_run(plan, results, {*(other.key for other in running.values()), *lost})
            if run is None:
                break
            running[work.remote(plan.to_dict(), run, arrays, teacher)] = run
        if not running:
            return len(lost)
        (ended, *_), _ = ray.wait(list(running))
        run = running.pop(ended)
        try:
            result: RunResult = ray.get(ended)
        except ray.exceptions.RayError as error:
            lost.add(run.key)
            say(told_lost(run, error.cause if isinstance(error, ray.exceptions.RayTaskError) else error))
            continue
        results[run.key] = result
        done(result)


def _slots(plan: StudyPlan) -> int:
    """Tasks that fit into the cluster at once."""
    has = ray.cluster_resources()
    fits = [has.get("CPU", 1.0) / plan.resources.cpus]
    if plan.resources.gpus > 0:
        fits.append(has.get("GPU", 0.0) / plan.resources.gpus)
    return max(1, int(min(fits)))


def _teacher(  # noqa: PLR0913
    plan: StudyPlan,
    images: StudyImages,
    folder: Path,
    arrays: Any,  # noqa: ANN401 - Ray's reference
    share: Mapping[str, Any],
    say: Callable[[str], None],
) -> Arrays:
    """The teacher's weights as arrays, trained by a task if the folder does not keep them."""
    network = kept_teacher(plan, images.data, folder)
    if network is not None:
        return {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    say("the teacher is trained")
    whole = {**share, "num_gpus": 1.0 if plan.resources.gpus > 0 else 0.0}
    try:
        tensors, about = ray.get(ray.remote(**whole)(_train_teacher).remote(plan.to_dict(), arrays))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, StageFailure):
            raise error.cause from error
        raise
    keep_teacher(folder, {name: torch.from_numpy(array.copy()) for name, array in tensors.items()}, about)
    say(f"the teacher's accuracy is {percent(about['val_accuracy'], 2)} on validation images")
    note = teacher_note(about)
    if note is not None:
        say(f"note: {note}")
    return dict(tensors)


def _device(plan: StudyPlan) -> torch.device:
    processor.prepare(max(1, int(plan.resources.cpus)), share_of_card=plan.resources.gpus)
    return torch.device("cuda" if plan.resources.gpus > 0 else "cpu")


def _train_teacher(values: dict[str, Any], arrays: Arrays) -> tuple[Arrays, dict[str, Any]]:
    plan = StudyPlan.from_dict(values)
    network, about = make_teacher(plan, StudyImages.from_arrays(arrays).to(_device(plan)))
    return {name: tensor.cpu().numpy() for name, tensor in network.state_dict().items()}, about


def _work(values: dict[str, Any], run: Run, arrays: Arrays, teacher: Arrays) -> RunResult:
    plan = StudyPlan.from_dict(values)
    images = StudyImages.from_arrays(arrays).to(_device(plan))
    weights = {name: torch.from_numpy(array.copy()) for name, array in teacher.items()}
    network = teacher_with(plan, images.data, weights)
    return run_arm(run, Material(plan=plan, teacher=network, data=images.data, test=images.test))
