import errno
import json
import os
import re
import threading
from dataclasses import replace
from unittest.mock import Mock

import pytest

from orchestrator.experiment.config import parse_experiment
from orchestrator.front.archive import Archive
from orchestrator.front.candidates import candidates_of
from orchestrator.front.constraints import Bound
from orchestrator.front.front_view import FrontView
from orchestrator.policies.budget import Budget, Stop
from orchestrator.sampling.storages import StudyAddress
from orchestrator.sampling.study import Study
from orchestrator.searches.curves import Curves, read_curves
from orchestrator.searches.fronts import front_rows
from orchestrator.tracking import Tracker
from orchestrator.trials.queue import TrialQueue
from orchestrator.trials.record import SearchRecord, search_parameters
from search_spaces.cascade import CascadeDefaults, CascadeSpace
from trainables.errors import InputError
from trainables.files.states import save_state
from trainables.results import EpochProgress, LevelProgress, LevelResult, Reused, TeacherResult

OBJECTIVES = ("val_accuracy", "macs_kept")
SPACE = CascadeSpace(num_assistants=(1, 1))
TEACHER = TeacherResult(val_accuracy=0.95, macs=1_000_000, params=1000, seconds=1.0, latency_ms=2.0)


class Heard:
    """A watcher that remembers what it was told."""

    def __init__(self):
        self.events = []
        self.noted = threading.Event()

    def trial_started(self, number, cascade):
        self.events.append(("started", number))

    def trial_epoch(self, number, progress):
        self.events.append(("epoch", number))

    def trial_finished(self, number, candidates, view, reused):
        assert isinstance(view, FrontView)
        self.events.append(("finished", number))

    def trial_stopped(self, number, reason, candidates, view):
        assert isinstance(view, FrontView)
        self.events.append(("stopped", number, [candidate.label for candidate in candidates]))

    def trial_failed(self, number, reason):
        self.events.append(("failed", number))

    def note(self, text):
        self.events.append(("note", text))
        self.noted.set()


def results(accuracy=0.9):
    return [
        LevelResult(
            level=level,
            num_levels=2,
            val_accuracy=accuracy - level / 100,
            val_accuracy_before_recalibration=accuracy,
            macs=100_000 // level,
            macs_kept=0.1 / level,
            params=100,
            params_kept=0.1,
        )
        for level in (1, 2)
    ]


def progress(epoch):
    levels = tuple(LevelProgress(level=level, macs_kept=0.1, train_loss=1.0, val_accuracy=0.5) for level in (1, 2))
    return EpochProgress(
        stage="cascade", epoch=epoch, num_epochs=20, trial_epoch=epoch, learning_rate=0.1, seconds=1.0, levels=levels
    )


@pytest.fixture
def parts(tmp_path):
    """Study, archive, watcher and a record of them; MLflow is not reached, as no courier was started."""
    made = []

    def make(objectives=OBJECTIVES, place=None, budget=None, **options):
        study = Study(StudyAddress(place=place or tmp_path / "study.journal", objectives=objectives), seed=0)
        budget = budget or Budget(Stop())
        budget.recall(study.ended())
        archive = Archive(tmp_path / "archive.parquet")
        heard = Heard()
        tracker = Tracker(uri="http://127.0.0.1:9", storage=tmp_path, warn=lambda _text: None)
        tracker.start_search("mine", {}, "", "id")
        record = SearchRecord(
            folder=tmp_path,
            objectives=objectives,
            teacher=TEACHER,
            archive=archive,
            study=study,
            budget=budget,
            tracker=tracker,
            watcher=heard,
            **options,
        )
        made.append(record)
        return study, archive, heard, record

    yield make
    for record in made:
        record.leave()  # or this process would wait for a picture's rest when it ends


def queue_of(study, record, tmp_path, num_trials=3, space=SPACE, budget=None, **options):
    return TrialQueue(
        study,
        space,
        CascadeDefaults(),
        num_trials=num_trials,
        budget=budget or Budget(Stop()),
        unfinished=record.adopt(),
        states=tmp_path / "trials",
        **options,
    )


def test_a_finished_trial_is_in_archive_and_study(parts, tmp_path):
    study, archive, heard, record = parts()
    asked = study.ask(SPACE, CascadeDefaults())
    record.started(asked)
    record.finished(asked, results(), {1: "0-1", 2: "0-2"}, Reused())
    assert [c.label for c in archive.candidates()] == ["0:1", "0:2"]
    assert archive.candidates()[0].network == "candidates/0-1"
    assert study.num_ended == 1
    assert heard.events == [("started", 0), ("finished", 0)]
    record.close("finished", "all trials ended")
    assert (tmp_path / "front.png").exists()


@pytest.mark.parametrize("database", [False, True])
def test_candidates_of_a_study_come_back_where_the_archive_has_lost_them(parts, tmp_path, database):
    place = f"sqlite:///{tmp_path / 'studies.db'}" if database else None
    study, archive, _, record = parts(place=place)
    for reason in (None, "early stopping"):
        asked = study.ask(SPACE, CascadeDefaults())
        if reason is None:
            record.finished(asked, results(), {1: "0-1", 2: "0-2"}, Reused())
        else:
            record.stopped(asked, results()[:1], {1: "1-1"}, Reused(), reason)
    found = archive.candidates()
    assert [candidate.label for candidate in found] == ["0:1", "0:2", "1:1"]
    record.leave()
    archive.path.unlink()  # as of a machine that was lost before a bucket had it
    _, again, _, later = parts(place=place)
    assert later.adopt() == ()
    assert again.candidates() == found


def test_finished_trials_that_nobody_knows_the_networks_of_are_told(parts, monkeypatch):
    monkeypatch.setattr(Study, "note_candidates", lambda *_: None)  # as earlier versions did
    study, archive, _, record = parts()
    record.finished(study.ask(SPACE, CascadeDefaults()), results(), {1: "0-1", 2: "0-2"}, Reused())
    record.leave()
    archive.path.unlink()
    _, _, heard, later = parts()
    later.adopt()
    ((_, said),) = heard.events
    assert "archive.parquet lacks the candidates of 1 finished trial, the first of which is trial 0; " in said


def test_fronts_in_quick_succession_are_not_all_drawn_but_the_last_one_is(parts, monkeypatch):
    drawn, begun = [], threading.Event()

    def draw(view, _folder):
        drawn.append(len(view.candidates))
        begun.set()
        return ()

    monkeypatch.setattr("orchestrator.trials.front_artist.save_front", draw)
    monkeypatch.setattr("orchestrator.trials.front_artist._REST", 1e9)
    monkeypatch.setattr("orchestrator.trials.front_artist._LONGEST_REST_SECONDS", 3600.0)  # nobody waits for it
    study, _, _, record = parts()
    for number in range(4):
        asked = study.ask(SPACE, CascadeDefaults())
        record.finished(asked, results(0.9 + number / 100), {1: f"{number}-1", 2: f"{number}-2"}, Reused())
        assert begun.wait(60)
    assert drawn == [2]
    record.close("finished", "all trials ended")
    assert drawn == [2, 8]


def test_networks_that_leave_the_front_as_it_is_are_on_its_last_picture(parts, tmp_path, monkeypatch):
    drawn, begun = [], threading.Event()

    def draw(view, folder):
        drawn.append(len(view.candidates))
        begun.set()
        for name in ("front.html", "front.png"):
            (folder / name).write_text(str(len(view.candidates)))
        return (folder / "front.html", folder / "front.png")

    monkeypatch.setattr("orchestrator.trials.front_artist.save_front", draw)
    monkeypatch.setattr("orchestrator.trials.front_artist._LONGEST_REST_SECONDS", 0.0)
    study, _, _, record = parts()
    for number, accuracy in enumerate((0.9, 0.5, 0.5)):
        asked = study.ask(SPACE, CascadeDefaults())
        record.finished(asked, results(accuracy), {1: f"{number}-1", 2: f"{number}-2"}, Reused())
        assert begun.wait(60)
    record.close("finished", "all trials ended")
    assert drawn == [2, 6]
    told = told_of(tmp_path)
    (last,) = (place for place, one in enumerate(told) if one["kind"] == "close" and one["run"] == "search")
    sent = [place for place, one in enumerate(told) if one["kind"] == "file"]
    histories = [place for place, one in enumerate(told) if "history/" in one.get("path", "")]
    assert max(histories) < max(sent) < last
    assert (tmp_path / "front.png").read_text() == "6"


def told_of(folder):
    return [json.loads(line) for line in (folder / "mine/tracking/spool.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "the disk of {disk} is full; make room;"),
        (ValueError("no font\nat all"), "no font;"),
    ],
)
def test_a_front_that_cannot_be_drawn_is_noted_once_and_told_without_pictures(
    parts, tmp_path, monkeypatch, error, reason
):
    def fail(_view, _folder):
        raise error

    monkeypatch.setattr("orchestrator.trials.front_artist.save_front", fail)
    study, _, heard, record = parts()
    for number in range(2):
        asked = study.ask(SPACE, CascadeDefaults())
        record.finished(asked, results(0.9 + number / 100), {1: f"{number}-1", 2: f"{number}-2"}, Reused())
    record.close("finished", "all trials ended")
    (note,) = (text for kind, text in heard.events if kind == "note")
    assert note.startswith(
        f"front.html and front.png in {tmp_path} cannot be drawn: {reason.format(disk=tmp_path.parent)}"
    )
    told = told_of(tmp_path)
    assert [name for record in told for name, *_ in record.get("metrics", ()) if name == "hypervolume"]
    assert "front/front.json" in [record["path"] for record in told if record["kind"] == "text"]
    assert not [record for record in told if record["kind"] == "file"]
    assert {"kind": "overview", "run": "search"}.items() <= told[-2].items()


def test_pictures_that_could_not_be_drawn_are_drawn_when_the_search_ends(parts, tmp_path):
    study, _, heard, record = parts()
    (tmp_path / "front.png").mkdir()  # so that no file can take its place
    record.finished(study.ask(SPACE, CascadeDefaults()), results(), {1: "0-1", 2: "0-2"}, Reused())
    assert heard.noted.wait(60)
    (tmp_path / "front.png").rmdir()
    record.close("finished", "all trials ended")
    assert (tmp_path / "front.png").is_file()
    assert [record["source"] for record in told_of(tmp_path) if record["kind"] == "file"] == ["front.html", "front.png"]


def test_what_else_goes_wrong_as_a_front_is_shown_is_raised_at_the_end(parts, monkeypatch):
    monkeypatch.setattr(Tracker, "log_front", Mock(side_effect=RuntimeError("a bug")))
    study, _, _, record = parts()
    record.finished(study.ask(SPACE, CascadeDefaults()), results(), {1: "0-1", 2: "0-2"}, Reused())
    with pytest.raises(RuntimeError, match="a bug"):
        record.close("finished", "all trials ended")


def test_a_failed_trial_leaves_no_candidate(parts):
    study, archive, heard, record = parts()
    asked = study.ask(SPACE, CascadeDefaults())
    record.failed(asked.number, "stage cascade, level 1: diverged")
    assert archive.candidates() == ()
    assert study.failures() == {0: "stage cascade, level 1: diverged"}
    assert heard.events == [("failed", 0)]


@pytest.mark.parametrize(
    ("accuracy", "objectives", "reason"),
    [
        (float("nan"), OBJECTIVES, "val_accuracy of candidate 0:1 is nan, but must be in"),
        (0.9, (*OBJECTIVES, "latency_ms"), "candidate 0:1 has no latency_ms, but it is an objective"),
    ],
)
def test_a_trial_that_misses_a_number_has_failed(parts, accuracy, objectives, reason):
    study, archive, heard, record = parts(objectives)
    asked = study.ask(SPACE, CascadeDefaults())
    record.finished(asked, results(accuracy), {1: "0-1", 2: "0-2"}, Reused())
    assert archive.candidates() == ()
    assert study.failures()[0].startswith(reason)
    assert heard.events == [("failed", 0)]


def test_the_queue_ends_where_the_space_does(parts, tmp_path):
    study, _, heard, record = parts()
    one = CascadeSpace(
        num_assistants=(0, 0), student_macs_kept=(0.1, 0.1), temperature=(4, 4), distillation_weight=(1, 1)
    )
    queue = queue_of(study, record, tmp_path, space=one, say=heard.note)
    assert queue.next()["trial"] == 0
    assert queue.remaining == 2
    assert queue.next() is None
    assert queue.remaining == 0
    assert "equal to trial 0" in queue.exhausted
    queue.sum_up()
    assert heard.events == [("note", queue.exhausted)]


def test_the_queue_says_which_draws_are_refused(parts, tmp_path):
    study, _, heard, record = parts()

    def space(trial, defaults):
        if trial.number < 2:
            raise InputError(f"too much of {trial.number}")
        return SPACE(trial, defaults)

    queue = queue_of(study, record, tmp_path, space=space, say=heard.note)
    assert queue.next()["trial"] == 2
    queue.sum_up()
    first, total = (text for _, text in heard.events)
    assert "too much of 0" in first
    assert total == "2 draws could not be run, such as this one: too much of 0"


def test_what_breaks_a_constraint_is_not_on_the_front_and_the_sampler_knows(parts):
    study, archive, heard, record = parts(
        bounds={"macs_kept": Bound(at_least=0.08), "val_accuracy": Bound(at_least=0.5)}
    )
    asked = study.ask(SPACE, CascadeDefaults())
    record.finished(asked, results(), {1: "0-1", 2: "0-2"}, Reused())
    assert len(archive.candidates()) == 2
    view = record.view()
    assert [candidate.label for candidate in view.front] == ["0:1"]
    assert view.breaking == {(0, 2)}
    assert [row["meets_constraints"] for row in front_rows(view)] == [True, False]
    told = study._study.trials[0].constraints
    assert told == {"macs_kept": pytest.approx(0.375), "val_accuracy": pytest.approx((0.5 - 0.88) / 0.5)}
    assert heard.events == [("finished", 0)]


def test_a_constraint_that_nothing_meets_is_said_in_between_and_at_the_end(parts, tmp_path):
    study, _, heard, record = parts(bounds={"params": Bound(at_most=50)})
    for _ in range(10):
        asked = study.ask(SPACE, CascadeDefaults())
        record.finished(asked, results(), {1: "0-1", 2: "0-2"}, Reused())
    assert record.view().front == ()
    text = "no candidate of 10 trials meets params at most 50 (the nearest has 100); so the front is empty"
    assert [event for event in heard.events if event[0] == "note"] == [("note", text)]
    record.close("finished", "done")
    assert heard.events[-1] == ("note", text)


def test_a_constrained_latency_that_was_not_measured_fails_the_trial(parts):
    study, _, _, record = parts(bounds={"latency_ms": Bound(at_most=5)})
    record.finished(study.ask(SPACE, CascadeDefaults()), results(), {1: "0-1", 2: "0-2"}, Reused())
    assert "has no latency_ms, but it is constrained" in study.failures()[0]


def test_a_trial_that_was_archived_but_not_told_is_adopted(parts, tmp_path):
    study, archive, _, record = parts()
    asked, left = study.ask(SPACE, CascadeDefaults()), study.ask(SPACE, CascadeDefaults())
    record.finished(asked, results(), {1: "0-1", 2: "0-2"}, Reused())
    study, archive, _, record = parts()
    before = archive.candidates()
    # As if the driver had died between the archive and the study.
    third = study.ask(SPACE, CascadeDefaults())
    archive.add([c.__class__(**{f: getattr(c, f) for f in c.__slots__} | {"trial": third.number}) for c in before])
    study, archive, heard, record = parts()
    queue = queue_of(study, record, tmp_path)
    assert heard.events == [("finished", third.number)]
    assert study.running() == (left,)
    assert queue.remaining == 1
    assert queue.next()["trial"] == left.number
    assert queue.next() is None


def test_a_stopped_trial_leaves_what_had_its_size(parts):
    study, archive, heard, record = parts()
    first, second = study.ask(SPACE, CascadeDefaults()), study.ask(SPACE, CascadeDefaults())
    record.stopped(first, [], {}, Reused(), "behind")
    at_size = [replace(result, fidelity=0.75) for result in results()]
    record.stopped(second, at_size, {1: "1-1", 2: "1-2"}, Reused(), "behind")
    assert [(c.label, c.fidelity) for c in archive.candidates()] == [("1:1", 0.75), ("1:2", 0.75)]
    assert study.stopped() == {0: "behind", 1: "behind"}
    assert study.num_ended == 2
    assert heard.events == [("stopped", 0, []), ("stopped", 1, ["1:1", "1:2"])]


@pytest.mark.parametrize("fidelities", [(1.0,), (1.0, 0.75), (0.75, 0.75)])
def test_a_stopped_trial_that_was_archived_but_not_told_is_not_taken_for_a_finished_one(parts, fidelities):
    study, archive, _, record = parts()
    asked = study.ask(SPACE, CascadeDefaults())
    left = [replace(result, fidelity=fidelity) for result, fidelity in zip(results(), fidelities, strict=False)]
    archive.add(candidates_of(asked.number, left, {1: "candidates/0-1", 2: "candidates/0-2"}, asked.cascade))
    study, _, heard, record = parts()
    assert record.adopt() == ()
    assert list(study.stopped()) == [asked.number]
    assert [event[:2] for event in heard.events] == [("stopped", 0)]


def test_curves_are_kept_of_what_finished_failed_and_was_adopted(parts, tmp_path):
    study, archive, _, record = parts()
    done, failed, adopted = (study.ask(SPACE, CascadeDefaults()) for _ in range(3))
    for asked in (done, failed, adopted):
        record.started(asked)
        record.epoch(asked.number, progress(1))
    record.finished(done, results(), {1: "0-1", 2: "0-2"}, Reused())
    record.failed(failed.number, "diverged")
    archive.add([replace(candidate, trial=adopted.number) for candidate in archive.candidates()])
    parts()[-1].adopt()
    curves = read_curves(tmp_path / "curves")
    assert [curve.end for curve in curves] == ["finished", "failed", "finished"]
    assert [len(curve.results) for curve in curves] == [2, 0, 2]
    assert curves[0].parameters == study.parameters(done.number)


@pytest.mark.parametrize("damage", [lambda whole: whole[:50], lambda whole: b"", lambda whole: b"\xff" * len(whole)])
def test_unfinished_trials_go_on_from_their_newest_readable_checkpoint(parts, tmp_path, damage):
    import torch

    study, _, _, record = parts()
    asked = study.ask(SPACE, CascadeDefaults())
    good = tmp_path / "trials/start-001/00000/checkpoint_000003/state.safetensors"
    save_state(good, {"x": torch.zeros(2)}, {"epoch": 4})
    save_state(tmp_path / "trials/start-001/00000/checkpoint_000002/state.safetensors", {"x": torch.zeros(2)}, {})
    cut = tmp_path / "trials/start-002/00000/checkpoint_000000/state.safetensors"
    cut.parent.mkdir(parents=True)
    cut.write_bytes(damage(good.read_bytes()))
    study, _, _, record = parts()
    config = queue_of(study, record, tmp_path).next()
    assert config == {"trial": 0, "cascade": asked.cascade.to_dict(), "state": str(good)}


def test_the_queue_gives_as_many_trials_as_were_asked_for(parts, tmp_path):
    study, _, _, record = parts()
    queue = queue_of(study, record, tmp_path, num_trials=2)
    assert [queue.next()["trial"], queue.next()["trial"]] == [0, 1]
    assert queue.next() is None


def test_what_trials_took_is_kept_from_start_to_start(parts):
    study, _, _, record = parts()
    done, failed = study.ask(SPACE, CascadeDefaults()), study.ask(SPACE, CascadeDefaults())
    record.trained(failed.number, 7)
    record.failed(failed.number, "diverged")
    record.finished(done, results(), {1: "0-1", 2: "0-2"}, Reused())
    first, second = parts()[0].ended()
    assert (first.order, first.epochs) == (2, CascadeDefaults().recipe.epochs)
    assert (second.order, second.epochs, second.hypervolume) == (1, 7, 0.0)
    assert first.hypervolume == pytest.approx(0.88 * 0.95 + 0.01 * 0.9)


def hear(record, asked, epochs, num_taken_over=0):
    """A trial reports so many epochs, the first of which it took over."""
    record.started(asked)
    for epoch in range(1, epochs + 1):
        record.trained(asked.number, max(0, epoch - num_taken_over))
        record.epoch(asked.number, progress(epoch))


def archived(archive, asked, fidelity):
    """As if the driver had died before it told the study."""
    gave = [replace(result, fidelity=fidelity) for result in results()]
    archive.add(candidates_of(asked.number, gave, {1: "candidates/a", 2: "candidates/b"}, asked.cascade))


def test_epochs_of_trials_that_still_run_count_before_they_report_again(parts, tmp_path):
    study, _, _, record = parts()
    first, second = study.ask(SPACE, CascadeDefaults()), study.ask(SPACE, CascadeDefaults())
    hear(record, first, 6)
    hear(record, second, 7, num_taken_over=3)
    budget = Budget(Stop(max_epochs=10))
    study, _, _, record = parts(budget=budget)  # as after a kill
    queue = queue_of(study, record, tmp_path, budget=budget)
    assert budget.epochs == 10
    assert [queue.next()["trial"] for _ in range(queue.remaining)] == [0, 1]
    record.started(second)
    record.failed(second.number, "diverged")  # before it reported anything
    record.trained(first.number, 6)  # trained again, as it had no checkpoint
    record.trained(first.number, 8)
    record.finished(first, results(), {1: "0-1", 2: "0-2"}, Reused(epochs=12))
    study, *_ = parts()
    assert [ended.epochs for ended in study.ended()] == [8, 4]


@pytest.mark.parametrize("fidelity", [1.0, 0.5])
def test_a_trial_that_was_archived_but_not_told_counts_with_what_it_trained(parts, monkeypatch, fidelity):
    study, archive, _, record = parts()
    asked = study.ask(SPACE, CascadeDefaults())
    hear(record, asked, 10, num_taken_over=4)
    archived(archive, asked, fidelity)
    with monkeypatch.context() as patch:  # the next driver dies there, too
        patch.setattr(Study, "note_end", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            parts()[-1].adopt()
    study, *_, record = parts()
    assert record.adopt() == ()
    assert [ended.epochs for ended in study.ended()] == [6]


@pytest.mark.parametrize(("fidelity", "epochs"), [(1.0, CascadeDefaults().recipe.epochs), (0.5, 0)])
def test_a_trial_of_which_nothing_was_heard_counts_where_it_gave_all(parts, fidelity, epochs):
    study, archive, _, record = parts()
    archived(archive, study.ask(SPACE, CascadeDefaults()), fidelity)
    record.adopt()
    assert [ended.epochs for ended in study.ended()] == [epochs]


def test_a_trial_whose_driver_died_as_it_failed_has_a_whole_curve_however_it_ends(parts, monkeypatch, tmp_path):
    study, _, _, record = parts()
    asked, told = study.ask(SPACE, CascadeDefaults()), study.ask(SPACE, CascadeDefaults())
    hear(record, asked, 2)
    hear(record, told, 2)
    with monkeypatch.context() as patch:
        patch.setattr(Study, "fail", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            record.failed(asked.number, "the node went")
        patch.undo()
        patch.setattr(Curves, "ended", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            record.failed(told.number, "diverged")
    _, _, _, record = parts()
    assert record.adopt() == (asked,)
    hear(record, asked, 4)
    record.finished(asked, results(), {1: "0-1", 2: "0-2"}, Reused())
    finished, failed = read_curves(tmp_path / "curves")
    assert [(curve.end, len(curve.points) // 2) for curve in (finished, failed)] == [("finished", 4), ("failed", 2)]


def test_a_trial_that_a_driver_had_begun_to_draw_is_ended(parts):
    study, _, _, record = parts()
    study._study.ask()
    asked = study.ask(SPACE, CascadeDefaults())
    study, _, _, record = parts()
    assert record.adopt() == (asked,)
    assert [trial.state.name for trial in study._study.trials] == ["FAIL", "RUNNING"]
    assert (study.num_started, study.concluded()) == (1, {})


def test_no_new_trial_is_given_out_once_a_limit_is_reached(parts, tmp_path):
    study, _, _, record = parts()
    begun = study.ask(SPACE, CascadeDefaults())
    budget = Budget(Stop(max_epochs=10))
    queue = queue_of(study, record, tmp_path, budget=budget)
    budget.trained(begun.number, 10)
    assert queue.next()["trial"] == begun.number
    assert (queue.remaining, queue.next()) == (0, None)


def test_parameters_are_flat():
    assert search_parameters({"a": {"b": 1, "c": {"d": None}}, "e": [1, 2]}) == {
        "a.b": 1,
        "a.c.d": "None",
        "e": "[1, 2]",
    }


def test_floors_of_patterns_are_one_parameter():
    experiment = parse_experiment({"cascade": {"pruning": {"floors": {"layer?.*": 4, "*": 2}}}})
    parameters = search_parameters(experiment.to_dict())
    assert parameters["cascade.pruning.floors"] == "{'layer?.*': 4, '*': 2}"
    assert all(re.fullmatch(r"[\w.]+", key) for key in parameters), "MLflow takes a few signs only"
