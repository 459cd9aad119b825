"""Run a study without a cluster: in this process, or in several on one machine that share its card."""

import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from orchestrator.evidence.arms import Material, run_arm
from orchestrator.evidence.folder import RESULTS
from orchestrator.evidence.material import StudyImages, material_of, prepare_teacher
from orchestrator.evidence.plan import StudyPlan
from orchestrator.evidence.results import ResultFile, RunResult
from orchestrator.evidence.schedule import next_run
from orchestrator.evidence.settings import Run
from orchestrator.pool import process_pool
from orchestrator.storage.staging import disk_full
from orchestrator.words import counted, percent
from trainables.errors import first_line
from trainables.hardware import processor

Say = Callable[[str], None]


class OutOfTimeError(Exception):
    """A run was given up since the time is over."""


class RunsLostError(Exception):
    """Runs ended in errors that are no result, which was said of each; all others are done."""


class NotBegunError(Exception):
    """A process cannot work at all; its argument says why."""


def run_study(
    plan: StudyPlan,
    images: StudyImages,
    folder: Path,
    *,
    device: torch.device,
    workers: int = 1,
    threads: int = 1,
    seconds: float | None = None,
    say: Say = print,
) -> bool:
    """Train all runs that are not in the folder yet; whether all are there now.

    Args:
        plan: the study.
        images: of the study.
        folder: keeps the teacher and the results.
        device: to train on.
        workers: processes that train at the same time; with 1 it is this one.
        threads: of each of several processes.
        seconds: after which runs are given up; the teacher counts.
        say: takes a line for each thing that is done.

    Raises:
        StageFailure: if the teacher cannot be trained.
        RunsLostError: if runs were lost, once all others are done.
    """
    # By a clock that nobody sets, and that all processes of a machine share.
    deadline = None if seconds is None else time.monotonic() + seconds
    file = ResultFile(folder / RESULTS)
    folder.mkdir(parents=True, exist_ok=True)
    here = images.to(device)
    teacher = prepare_teacher(
        plan,
        here,
        folder,
        told=lambda epoch: say(
            f"teacher, epoch {epoch.epoch}: validation accuracy {percent(epoch.levels[0].val_accuracy, 2)}, "
            f"{epoch.seconds:.1f} s"
        ),
    )
    if workers == 1:
        return _alone(plan, Material(plan=plan, teacher=teacher, data=here.data, test=here.test), file, deadline, say)
    with TemporaryDirectory() as place:  # a process that was sent them would hold up the start of the next
        kept = Path(place) / "images.safetensors"
        with disk_full(Path(place), mend="make room there, or name another folder by TMPDIR"):
            images.save(kept)
        begin = (plan.to_dict(), str(kept), str(folder), str(device), threads, 1 / workers)
        with process_pool(workers, _begin, *begin) as pool:
            return _together(pool, plan, workers, file, deadline, say)


def told(result: RunResult) -> str:
    """A run in a line, with the accuracy that it is for: what rates are chosen by, or what arms are compared by."""
    tuning = result.purpose == "tuning"
    kind = "validation" if tuning else "test"
    levels = ", ".join(
        f"{percent(found.macs_kept, 2)} of the MACs: {kind} accuracy "
        f"{percent(found.val_accuracy if tuning else found.test_accuracy, 2)}"
        for found in result.found
    )
    return (
        f"{_named(result)}: {result.failure or levels}; {counted(result.epochs, 'epoch')}, {result.work:.1f} "
        f"teacher-passes, {result.seconds:.0f} s"
    )


def told_lost(run: Run, error: Exception) -> str:
    """A run that has no result, in a line, with the error that ended it."""
    return f"{_named(run)}: lost ({type(error).__name__}: {first_line(error)})"


def all_lost(number: int) -> str:
    """So many runs that have no result, in the last line."""
    return f"{counted(number, 'run')} lost, as is said above; the same command tries again"


def _named(run: Run | RunResult) -> str:
    return f"{run.purpose} {run.arm}, size {run.size:g}, seed {run.seed}, rate {run.learning_rate:g}"


def _alone(plan: StudyPlan, material: Material, file: ResultFile, deadline: float | None, say: Say) -> bool:
    results = file.read()
    lost = set[str]()
    while (run := next_run(plan, results, lost)) is not None:
        try:
            result = run_arm(run, material, lambda: _check(deadline))
        except OutOfTimeError:
            return False
        except Exception as error:
            lost.add(run.key)
            say(told_lost(run, error))
            continue
        file.add(result)
        results[result.key] = result
        say(told(result))
    if lost:
        raise RunsLostError(all_lost(len(lost)))
    return True


def _check(deadline: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise OutOfTimeError


def _together(  # noqa: PLR0913
    pool: Executor, plan: StudyPlan, workers: int, file: ResultFile, deadline: float | None, say: Say
) -> bool:
    results = file.read()
    running: dict[Future[RunResult | None], Run] = {}
    lost = set[str]()
    over, ended = False, None
    while True:
        while not over and ended is None and len(running) < workers:
            run = next_run(plan, results, {*(other.key for other in running.values()), *lost})
            if run is None:
                break
            try:
                running[pool.submit(_work, run, deadline)] = run
            except BrokenProcessPool as error:  # since the last look
                ended = error
        if not running:
            break
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            run = running.pop(future)
            try:
                result = future.result()
            except BrokenProcessPool as error:
                ended = error  # once what others came to is kept
            except NotBegunError as error:
                (ended,) = error.args
            except Exception as error:
                lost.add(run.key)
                say(told_lost(run, error))
            else:
                if result is None:
                    over = True
                    continue
                file.add(result)
                results[result.key] = result
                say(told(result))
    if ended is not None:
        raise ended
    if lost:
        raise RunsLostError(all_lost(len(lost)))
    return not over


# What a worker holds between its runs; a pool has no other place for it.
_HELD: dict[str, Any] = {}


def _begin(  # noqa: PLR0913
    plan: dict[str, Any], images: str, folder: str, device: str, threads: int, share_of_card: float
) -> None:
    processor.prepare(threads, share_of_card=share_of_card)
    made = StudyPlan.from_dict(plan)
    try:
        _HELD["material"] = material_of(made, Path(images), Path(folder), torch.device(device))
    except Exception as error:  # of which a pool would say no more than that it is broken
        _HELD["failure"] = error


def _work(run: Run, deadline: float | None) -> RunResult | None:
    if "failure" in _HELD:
        raise NotBegunError(_HELD["failure"])
    try:
        return run_arm(run, _HELD["material"], lambda: _check(deadline))
    except OutOfTimeError:
        return None
