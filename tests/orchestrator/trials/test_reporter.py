"""What is kept of Tune's news of trials, and what comes of a wave when it cannot be."""

from types import SimpleNamespace

import pytest

from orchestrator.policies.budget import Budget, Stop
from orchestrator.trials.reporter import Reporter
from orchestrator.trials.wave import Wave
from trainables.results import EpochProgress, Reused


def progress(epoch):
    return EpochProgress(
        stage="level-1", epoch=epoch, num_epochs=30, trial_epoch=epoch, learning_rate=0.1, seconds=1.0, levels=()
    ).to_dict()


def reported(*results):
    """Epochs that count as trained after these reports of one trial."""
    budget, shown = Budget(Stop()), []
    record = SimpleNamespace(trained=budget.trained, epoch=lambda _number, progress: shown.append(progress.trial_epoch))
    reporter = Reporter(Wave(None, size=1), record, SimpleNamespace())
    for epochs, epochs_done, num_reused in results:
        result = {"progress": [progress(epoch) for epoch in epochs], "epochs_done": epochs_done}
        result |= {"reused": Reused(epochs=num_reused).to_dict()}
        reporter.on_trial_result(0, [], SimpleNamespace(config={"trial": 0}), result)
    assert shown == [epoch for epochs, *_ in results for epoch in epochs]
    return budget.epochs


@pytest.mark.parametrize(
    ("results", "trained"),
    [
        ([([1], 1, 0), ([2], 2, 0)], 2),
        ([([1], 1, 0), ([2], 2, 0), ([2], 2, 0)], 2),  # trained again after its process died
        ([(range(1, 12), 11, 10)], 1),
        ([(range(1, 11), 10.3, 10)], 0),  # of its own it has a part of one
        ([([26], 26, 20)], 6),  # goes on after the driver died, which had heard of what it took over
        ([([], 15.5, 0)], 15),  # and failed before it had another
    ],
)
def test_epochs_that_were_taken_over_do_not_count_as_trained(results, trained):
    assert reported(*results) == trained


RAISED = """Failure # {number} (occurred at noon)
\x1b[36mray::CascadeTrainable.train()\x1b[39m (pid=7, ip=10.0.0.1, actor_id=0, repr=<trainables.CascadeTrainable>)
           ^^^^^^^^^^^^^^^^^
  File "trainable.py", line 326, in train
    result = self.step()
             ^^^^^^^^^^^
{error}
"""
NESTED = """ray.exceptions.RayTaskError(RuntimeError): \x1b[36mray::Follower.step()\x1b[39m (pid=8, ip=10.0.0.1)
  File "followers.py", line 3, in step
RuntimeError: of another rank
and more"""
DIED = """Failure # {number} (occurred at noon)
The actor died unexpectedly before finishing this task.
\tclass_name: CascadeTrainable
\tpid: 7
The actor is dead because its worker process has died.
"""


@pytest.mark.parametrize(
    ("attempts", "said"),
    [
        ([(RAISED, "ValueError: You cannot.\n\n  File 'x.py', as\n\nworkaround examples.")], "ValueError: You cannot."),
        ([(RAISED, "ValueError: one line")], "ValueError: one line"),
        ([(RAISED, "ValueError")], "ValueError"),
        ([(RAISED, "KeyError: 1\n\nThe above exception was:\n"), (RAISED, "OSError: 2\nthree")], "OSError: 2"),
        ([(RAISED, NESTED)], "RuntimeError: of another rank"),
        ([(RAISED, "OSError: 2"), (DIED, "")], "The actor is dead because its worker process has died."),
        ([], "the actor died"),
    ],
)
def test_a_trial_that_raised_is_told_by_the_first_line_of_its_last_error(tmp_path, attempts, said):
    file, failed = tmp_path / "error.txt", []
    texts = [form.format(number=number, error=error) for number, (form, error) in enumerate(attempts, start=1)]
    file.write_text("".join(texts))
    record = SimpleNamespace(failed=lambda number, reason: failed.append((number, reason)))
    wave = SimpleNamespace(ended=failed.append, broken=None)
    faults = SimpleNamespace(is_left_out=lambda node: False)
    trial = SimpleNamespace(config={"trial": 3}, last_result=None, error_file=str(file))
    Reporter(wave, record, faults).on_trial_error(0, [], trial)
    assert failed == [(3, f"before its first epoch: {said}"), 3]


def test_a_full_disk_is_known_by_any_line_of_the_last_error(tmp_path):
    file = tmp_path / "error.txt"
    file.write_text(RAISED.format(number=1, error="SafetensorError: not written\n\nNo space left on device\nMake some"))
    trial, wave = SimpleNamespace(config={"trial": 3}, error_file=str(file)), Wave(None, size=1)
    Reporter(wave, SimpleNamespace(), SimpleNamespace()).on_trial_recover(0, [], trial)
    assert isinstance(wave.broken, OSError)


BROKEN = """
import json, sqlite3
from pathlib import Path

import ray
from ray import tune

from orchestrator.experiment.resources import Resources
from orchestrator.front.archive import Archive
from orchestrator.policies.budget import Budget, Stop
from orchestrator.sampling.storages import StudyAddress
from orchestrator.sampling.study import Study
from orchestrator.tracking import Tracker
from orchestrator.trials.queue import TrialQueue
from orchestrator.trials.record import SearchRecord
from orchestrator.trials.watcher import Watcher
from orchestrator.trials.waves import run_waves
from search_spaces.cascade import CascadeDefaults, CascadeSpace
from trainables.results import EpochProgress, LevelResult, Reused, TeacherResult

OBJECTIVES = ("val_accuracy", "macs_kept")
LEVEL = LevelResult(
    level=1, num_levels=1, val_accuracy=0.9, val_accuracy_before_recalibration=0.9,
    macs=10, macs_kept=0.1, params=10, params_kept=0.1,
).to_dict()
EPOCH = EpochProgress(
    stage="cascade", epoch=1, num_epochs=1, trial_epoch=1, learning_rate=0.1, seconds=1.0, levels=()
).to_dict()


class Trial(tune.Trainable):
    def setup(self, config):
        pass

    def step(self):
        return {"progress": [EPOCH], "epochs_done": 1, "done": True, "results": [LEVEL], "networks": {1: "0-1"},
                "reused": Reused().to_dict()}


def parts(folder, place):
    study, budget = Study(StudyAddress(place=place, objectives=OBJECTIVES), seed=0), Budget(Stop())
    tracker = Tracker(uri="http://127.0.0.1:9", storage=folder, warn=print)
    tracker.start_search("mine", {}, "", "id")
    record = SearchRecord(
        folder=folder, objectives=OBJECTIVES, study=study, budget=budget, tracker=tracker, watcher=Watcher(),
        teacher=TeacherResult(val_accuracy=0.95, macs=100, params=100, seconds=1.0),
        archive=Archive(folder / "archive.parquet"),
    )
    return study, budget, record


def broken(folder, place, breaks):
    folder.mkdir()
    study, budget, record = parts(folder, place)
    started, mends = record.started, []
    record.started = lambda asked: (started(asked), mends.append(breaks(study, folder)))
    queue = TrialQueue(
        study, CascadeSpace(num_assistants=(0, 0)), CascadeDefaults(), num_trials=1, budget=budget, unfinished=(),
        states=folder / "trials",
    )
    said = None
    try:
        run_waves(Trial, queue, record, resources=Resources(), max_concurrent=None, storage=folder / "trials")
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    record.leave()
    (mend,) = mends  # of one start
    mend()
    study, _, record = parts(folder, place)
    left = [study.concluded(), budget.num_ended]
    return {"said": said, "left": left, "goes_on": [asked.number for asked in record.adopt()]}


def other_tool(study, folder):
    lock = study._study._storage._backend._lock
    lock._patience_seconds = 0.0
    lock._lock.symlink_to("other")
    return lock._lock.unlink


def open_transaction(study, folder):
    other = sqlite3.connect(folder / "studies.db")
    other.execute("BEGIN EXCLUSIVE")
    return other.rollback


def full_disk(study, folder):
    curve = folder / "curves/_running/00000.jsonl"
    curve.unlink()
    curve.symlink_to("/dev/full")
    return curve.unlink


here = Path.cwd()
ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
told = {
    "journal": broken(here / "journal", here / "journal/study.journal", other_tool),
    "database": broken(here / "database", f"sqlite:///{here}/database/studies.db?timeout=0.1", open_transaction),
    "disk": broken(here / "disk", here / "disk/study.journal", full_disk),
}
ray.shutdown()
print(json.dumps(told))
"""


@pytest.mark.integration
def test_what_cannot_be_kept_of_a_trial_ends_the_search_with_that_very_error_and_fails_no_trial(told_by):
    told = told_by(BROKEN, timeout=200)
    said = {name: each["said"] for name, each in told.items()}
    assert said["journal"].startswith("InputError: ")
    assert "is locked by another process" in said["journal"]
    assert said["database"].startswith("StorageInternalError: ")
    assert said["disk"].startswith("OSError: nothing more can be written to ")
    assert "No space left on device" in said["disk"]
    assert [each["left"] for each in told.values()] == [[{}, 0]] * 3
    # What is in the archive is finished by the next start; the trial whose epoch was not kept goes on.
    assert [each["goes_on"] for each in told.values()] == [[], [], [0]]
