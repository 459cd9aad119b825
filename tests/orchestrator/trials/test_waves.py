"""Waves of a queue, alone and on real Ray."""

import shutil
from types import SimpleNamespace

import pytest

from orchestrator.machines import at_once
from orchestrator.machines.at_once import Places
from orchestrator.machines.node_faults import NodeFaults
from orchestrator.policies.budget import Budget, Stop
from orchestrator.sampling.storages import StudyAddress
from orchestrator.sampling.study import Study
from orchestrator.trials import reporter
from orchestrator.trials.queue import TrialQueue
from orchestrator.trials.wave import Wave, WaveSearcher, WaveStopper
from orchestrator.trials.waves import wave_length
from search_spaces.cascade import CascadeDefaults, CascadeSpace

SPACE = CascadeSpace(num_assistants=(0, 0))


@pytest.fixture
def make_queue(tmp_path):
    """A queue of so many trials."""

    def make(num_trials):
        study = Study(StudyAddress(place=tmp_path / "study.journal", objectives=("val_accuracy", "macs_kept")), seed=0)
        return TrialQueue(
            study,
            SPACE,
            CascadeDefaults(),
            num_trials=num_trials,
            budget=Budget(Stop()),
            unfinished=study.running(),
            states=tmp_path / "trials",
        )

    return make


def report(number, *, done=False):
    return {"config": {"trial": number}, "done": done}


def test_a_wave_gives_out_as_many_trials_as_it_is_for(make_queue):
    wave = Wave(make_queue(5), size=2, may_wait=lambda _num_running: 9)
    searcher = WaveSearcher(wave)
    assert [searcher.suggest("a")["trial"], searcher.suggest("b")["trial"]] == [0, 1]
    assert searcher.suggest("c") == WaveSearcher.FINISHED
    assert not wave.done


def test_no_trial_is_drawn_long_before_it_can_start(make_queue):
    places = 2
    wave = Wave(make_queue(9), size=9, may_wait=lambda num_running: max(1, places - num_running))
    searcher = WaveSearcher(wave)

    def drawn():
        return [config["trial"] for config in iter(lambda: searcher.suggest("any"), None)]

    assert drawn() == [0, 1]
    wave.starts(0)
    assert drawn() == []  # 1 waits, and there is one place for it
    wave.starts(1)
    assert drawn() == [2]  # one ahead, so that no machine waits for it
    wave.ended(0)
    wave.ended(2)  # before it had started
    assert drawn() == [3]
    wave.end_early()
    assert searcher.suggest("any") == WaveSearcher.FINISHED


@pytest.mark.parametrize(
    ("most", "more", "waiting"),
    [
        (None, [], [6, 3, 1, 1]),
        (4, [], [4, 1, 1, 1]),
        (None, [{"CPU": 8.0}], [6, 3, 6, 12]),  # a cluster that grows doubles
        (8, [{"CPU": 8.0}], [6, 3, 2, 1]),
    ],
)
def test_as_many_trials_wait_as_there_are_places(monkeypatch, most, more, waiting):
    looks, now = [], [0.0]
    monkeypatch.setattr(
        at_once, "machines_there", lambda: looks.append(now[0]) or {"a": {"CPU": 4.0}, "b": {"CPU": 2.0}}
    )
    monkeypatch.setattr(at_once, "may_come", lambda: more)
    places = Places({"CPU": 1.0}, most, clock=lambda: now[0])
    assert [places.may_wait(running) for running in (0, 3, 6, 12)] == waiting
    assert len(looks) == 1
    now[0] = 10.0
    places.may_wait(0)
    assert len(looks) == 2


def test_trials_of_a_wave_that_is_over_go_on_first_in_the_next(make_queue):
    queue = make_queue(4)
    wave = Wave(queue, size=2)
    stops = WaveStopper(wave)
    wave.next()
    assert not stops("a", report(0))  # the wave still has a trial to give
    wave.next()
    assert not stops("a", report(0, done=True))  # it ends by itself
    assert stops("b", report(1))
    wave.ended(0)
    assert wave.takes_back(1)
    assert wave.done
    following = Wave(queue, size=1)
    assert [following.next()["trial"] for _ in range(2)] == [1, 2]
    assert following.next() is None


def test_nothing_is_taken_back_in_the_last_wave(make_queue):
    wave = Wave(make_queue(2), size=2)
    wave.next()
    wave.next()
    assert not WaveStopper(wave)("a", report(0))
    assert not wave.takes_back(0)
    wave.ended(0)
    assert not wave.done
    wave.ended(1)
    assert wave.done


def test_a_wave_whose_queue_is_empty_before_is_done_too(make_queue):
    wave = Wave(make_queue(1), size=3)
    wave.next()
    assert wave.next() is None
    wave.ended(0)
    assert wave.done


@pytest.mark.parametrize(
    ("cpus", "gpus", "most", "length"),
    [([2.0], [0.0], None, 500), ([8.0] * 50, [4.0] * 50, None, 4000), ([8.0] * 50, [4.0] * 50, 30, 600)],
)
def test_a_wave_is_longer_where_more_trials_run_at_once(monkeypatch, cpus, gpus, most, length):
    machines = {str(at): {"CPU": cpu, "GPU": gpu} for at, (cpu, gpu) in enumerate(zip(cpus, gpus, strict=True))}
    monkeypatch.setattr(at_once, "machines_there", lambda: machines | {"head": {"memory": 1.0}})
    assert wave_length({"CPU": 1.0, "GPU": 1.0} if gpus[0] else {"CPU": 1.0, "GPU": 0.0}, most) == length


UNAVAILABLE = f"The actor {32 * 'a'} is unavailable: Socket closed"  # as Ray says it before it knows that a node died


@pytest.mark.parametrize(
    ("said", "epochs", "moves"),
    [
        (UNAVAILABLE, [3, 5, 6], 3),
        ("The actor died unexpectedly before finishing this task.\n\tactor_id: 0\nIts node has died.", [3, 5, 6], 3),
        (UNAVAILABLE, [3, 3], 1),  # what it trained was not kept
        (UNAVAILABLE, [None], 0),
        ("ray::train()\nRuntimeError: no card", [3, 5], 0),
    ],
)
def test_a_trial_goes_on_however_often_its_machine_is_reclaimed_if_it_comes_farther(
    make_queue, tmp_path, said, epochs, moves
):
    failed, heard = [], SimpleNamespace(failed=lambda number, why: failed.append((number, why)))
    faults = NodeFaults(lambda: frozenset({"another"}))
    queue = make_queue(1)
    (tmp_path / "error").write_text(f"Failure # 2 (occurred at noon)\nanything\nFailure # 3 (occurred later)\n{said}\n")
    for number, epoch in enumerate(epochs):
        progress = None if epoch is None else {"progress": [], "epochs_done": epoch / 4}
        trial = SimpleNamespace(config={"trial": 0}, last_result=progress, error_file=str(tmp_path / "error"))
        wave = Wave(queue, size=queue.num_new)
        assert wave.next()["trial"] == 0
        told = reporter.Reporter(wave, heard, faults)
        for what in (told.on_trial_recover, told.on_trial_recover, told.on_trial_error):
            what(0, [], trial)
        assert wave.done
        assert (queue.num_waiting, len(failed)) == ((1, 0) if number < moves else (0, 1))
        if failed:
            break
    assert number == min(moves, len(epochs) - 1)


def test_a_trial_goes_on_after_a_node_that_is_left_out_and_fails_where_another_fails_it_too(
    make_queue, tmp_path, monkeypatch
):
    failed, heard = [], SimpleNamespace(note=lambda text: None, failed=lambda number, why: failed.append((number, why)))
    faults = NodeFaults(lambda: frozenset({"a", "b"}))
    monkeypatch.setattr(reporter, "node_of", lambda said: said[0])  # which the error begins with here
    trial = SimpleNamespace(config={"trial": 0}, last_result=None, error_file=str(tmp_path / "error"))
    queue = make_queue(1)

    def attempts_on(node):
        wave = Wave(queue, size=queue.num_new)
        assert wave.next()["trial"] == 0
        (tmp_path / "error").write_text(f"{node} is broken")
        told = reporter.Reporter(wave, heard, faults)
        for what in (told.on_trial_recover, told.on_trial_recover, told.on_trial_error):
            what(0, [], trial)
        assert wave.done

    attempts_on("a")
    assert (queue.num_waiting, failed, faults.left_out) == (1, [], {"a"})
    attempts_on("b")
    assert (queue.num_waiting, failed) == (0, [(0, "before its first epoch: b is broken")])


def test_trials_fail_on_a_node_that_is_left_out_while_it_is_the_only_one_and_go_on_once_another_is_there(
    make_queue, tmp_path, monkeypatch
):
    failed, heard = [], SimpleNamespace(note=lambda text: None, failed=lambda number, why: failed.append(number))
    nodes = {"a", "b"}
    faults = NodeFaults(lambda: frozenset(nodes))
    monkeypatch.setattr(reporter, "node_of", lambda said: "a")
    (tmp_path / "error").write_text("a is broken")
    queue = make_queue(3)

    def begin():
        wave = Wave(queue, size=queue.num_new)
        return wave, reporter.Reporter(wave, heard, faults)

    def attempts(told, config):
        trial = SimpleNamespace(config=config, last_result=None, error_file=str(tmp_path / "error"))
        for what in (told.on_trial_recover, told.on_trial_recover, told.on_trial_error):
            what(0, [], trial)

    wave, told = begin()
    attempts(told, wave.next())
    assert (wave.done, queue.num_waiting, failed) == (True, 1, [])
    nodes.discard("b")
    wave, told = begin()
    trials = [wave.next() for _ in range(3)]
    attempts(told, trials[0])
    assert (queue.num_waiting, failed) == (0, [0])
    nodes.add("b")
    attempts(told, trials[1])
    assert (queue.num_waiting, failed) == (1, [0])
    assert wave.wants_back(2)  # this wave cannot give it out again, but the next one can
    assert wave.takes_back(2)
    assert wave.done


def test_trials_on_a_machine_that_lacks_images_go_on_elsewhere_and_where_there_is_no_other_the_search_ends(make_queue):
    noted = []
    nodes = {"a", "b"}
    queue, faults = make_queue(2), NodeFaults(lambda: frozenset(nodes))

    def told_on(node):
        wave = Wave(queue, size=queue.num_new)
        told = reporter.Reporter(wave, SimpleNamespace(note=noted.append), faults)
        for config in [wave.next(), wave.next()]:
            result = {"unfit": {"node": node, "reason": "images were replaced"}}
            told.on_trial_complete(0, [], SimpleNamespace(config=config, last_result=result))
        assert wave.done
        assert queue.num_waiting == 2
        return wave.unfit

    assert told_on("a") is None
    (note,) = noted
    assert note == "node a takes no trials for 15 minutes, and its trials go on elsewhere: images were replaced"
    nodes.discard("b")
    assert str(told_on("a")) == "images were replaced"  # where it was given trials, as there was no other
    nodes.add("b")
    assert str(told_on("b")) == "images were replaced"
    assert len(noted) == 1


WAVES = """
import json
from pathlib import Path

from orchestrator import search
from orchestrator.searches.folder import SearchFolder
from orchestrator.trials.waves import run_waves

starts, epochs, files = [], [], []


class Heard:
    def __getattr__(self, name):
        into = {"trial_started": starts, "trial_epoch": epochs}.get(name, [])
        return lambda *told, **_: into.append(told)


def in_waves(*words, storage, **named):
    run_waves(*words, storage=storage, wave_trials=1, **named)
    files.extend(str(path) for path in storage.rglob("*"))


search.run_waves = in_waves
folder = SearchFolder(storage=Path("runs"), name="tiny")
heard = Heard()
outcome = search.run_search(folder.experiment(), folder, resume=True, watcher=heard, tracker=heard)
print(json.dumps({
    "status": outcome.status, "ended": outcome.num_ended, "failures": outcome.failures, "files": files,
    "starts": [number for number, _ in starts], "epochs": [[n, p.trial_epoch] for n, p in epochs],
}))
"""


@pytest.mark.integration
@pytest.mark.timeout(600)  # it may wait for the tiny search first
def test_a_search_in_waves_trains_every_epoch_once_and_leaves_no_files(told_by, tiny_search, tmp_path):
    # Begun with a teacher, and without trials.
    came_to = shutil.ignore_patterns("study.journal", "archive.*", "candidates", "curves", "tracking")
    shutil.copytree(tiny_search / "runs/tiny", tmp_path / "runs/tiny", ignore=came_to)
    told = told_by(WAVES, timeout=280)
    assert (told["status"], told["ended"], told["failures"]) == ("finished", 2, {})
    # A trial that went on in another wave began twice, and yet no epoch was trained twice.
    assert len(told["starts"]) == 3
    assert sorted(told["epochs"]) == [[number, epoch] for number in range(2) for epoch in (1, 2, 3)]
    assert told["files"] == []


SIDE_BY_SIDE = """
import json, os, time
from pathlib import Path

import ray
from ray import tune

from orchestrator.policies.budget import Budget, Stop
from orchestrator.experiment.resources import Resources
from orchestrator.sampling.storages import StudyAddress
from orchestrator.sampling.study import Study
from orchestrator.trials.queue import TrialQueue
from orchestrator.trials.waves import run_waves
from search_spaces.cascade import CascadeDefaults, CascadeSpace
from trainables.results import Reused

HERE, REUSED, PLACES = Path("starts").resolve(), Reused().to_dict(), 4
HERE.mkdir()
ray.init("local", num_cpus=PLACES, include_dashboard=False, log_to_driver=False, logging_level="ERROR")


class Trial(tune.Trainable):
    # Starts only where as many others start as there are places.
    def setup(self, config):
        (HERE / str(os.getpid())).touch()
        ends = time.monotonic() + 60
        while len(list(HERE.iterdir())) < PLACES:
            if time.monotonic() > ends:
                raise RuntimeError("the others have not begun to start")
            time.sleep(0.05)

    def step(self):
        node = ray.get_runtime_context().get_node_id()
        return {"done": True, "results": [], "networks": {}, "reused": REUSED, "node": node}

    def reset_config(self, config):
        return True


told = {"finished": [], "failed": []}


class Heard:
    def __getattr__(self, name):
        return lambda first, *others: told.get(name, []).append(first.number if name == "finished" else str(others))


study = Study(StudyAddress(place=Path("study.journal"), objectives=("val_accuracy", "macs_kept")), seed=0)
queue = TrialQueue(
    study, CascadeSpace(), CascadeDefaults(), num_trials=6, budget=Budget(Stop()), unfinished=(), states=Path("trials"),
)
run_waves(Trial, queue, Heard(), resources=Resources(), max_concurrent=None, storage=Path("trials").resolve())
ray.shutdown()
print(json.dumps(told | {"left": "TUNE_MAX_PENDING_TRIALS_PG" in os.environ}))
"""


@pytest.mark.integration
def test_processes_of_trials_start_side_by_side(told_by):
    told = told_by(SIDE_BY_SIDE, timeout=200)
    assert (sorted(told["finished"]), told["failed"], told["left"]) == ([0, 1, 2, 3, 4, 5], [], False)
