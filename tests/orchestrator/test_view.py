import dataclasses
import io
import json

import pytest
from rich.console import Console

from orchestrator.front.front_view import front_view
from orchestrator.searches.fronts import front_json_list, front_rich_table, front_rows
from orchestrator.view import LineWatcher, LiveWatcher, watching
from trainables.config import CascadeConfig
from trainables.recipe import Recipe
from trainables.results import EpochProgress, LevelProgress, Reused, TeacherResult

OBJECTIVES = ("val_accuracy", "macs_kept")
TEACHER = TeacherResult(val_accuracy=0.95, macs=10_000_000, params=300_000, seconds=63.0)
CASCADE = CascadeConfig(macs_kept=(0.3, 0.05), recipe=Recipe(epochs=10))


def progress(epoch):
    levels = tuple(LevelProgress(level=n, macs_kept=0.3 / n, train_loss=1.0, val_accuracy=0.8 / n) for n in (1, 2))
    return EpochProgress(
        stage="cascade", epoch=epoch, num_epochs=10, trial_epoch=epoch, learning_rate=0.1, seconds=1.0, levels=levels
    )


@pytest.fixture
def candidates(make_candidate):
    return (
        make_candidate(trial=0, level=1, val_accuracy=0.94, macs_kept=0.3),
        make_candidate(trial=0, level=2, val_accuracy=0.90, macs_kept=0.05),
        make_candidate(trial=1, level=1, val_accuracy=0.80, macs_kept=0.2),
    )


@pytest.fixture
def view(candidates):
    return front_view(candidates, OBJECTIVES, teacher_val_accuracy=0.95)


def console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=120)


def run_some(watcher, candidates, view):
    watcher.teacher_epoch(progress(1))
    watcher.teacher_ready(TEACHER)
    watcher.trial_started(0, CASCADE)
    watcher.trial_epoch(0, progress(5))
    watcher.trial_finished(0, candidates[:2], view, Reused())
    watcher.trial_started(1, CASCADE)
    watcher.trial_failed(1, "stage cascade, level 2: the loss is no longer finite")


def test_a_pipe_gets_a_line_an_event_and_no_control_characters(candidates, view):
    out = console(terminal=False)
    with watching(out, num_trials=3) as watcher:
        run_some(watcher, candidates, view)
    said = out.file.getvalue()
    assert "\x1b" not in said
    assert said.splitlines() == [
        "teacher: 95.0 % on validation, 10 M MACs, 0.3 M parameters, trained in 1 min 03 s",
        "trial 0 runs: joint, 30.0 % → 5 % of the MACs",
        "trial 0 done (1 of 3): 94.0 % at 30.0 % of the MACs, 90.0 % at 5 %; front of 2 among 3",
        "trial 1 runs: joint, 30.0 % → 5 % of the MACs",
        "trial 1 failed (2 of 3): stage cascade, level 2: the loss is no longer finite",
    ]


def test_a_log_says_how_far_it_is_where_nothing_else_is_said_for_a_minute():
    out, now = console(terminal=False), 0.0
    watcher = LineWatcher(out, num_trials=3, clock=lambda: now)
    for epoch in range(1, 7):
        now += 25.0
        watcher.teacher_epoch(progress(epoch))
    watcher.trial_started(0, CASCADE)
    for epoch in range(1, 4):
        now += 25.0
        watcher.trial_epoch(0, progress(epoch))
    assert out.file.getvalue().splitlines() == [
        "teacher: epoch 3 of 10",
        "teacher: epoch 6 of 10",
        "trial 0 runs: joint, 30.0 % → 5 % of the MACs",
        "trial 0: cascade, epoch 3 of 10",
    ]


@pytest.mark.parametrize("terminal", [False, True])
def test_more_trials_than_are_asked_for_now_are_told_and_counted(candidates, view, terminal):
    out = console(terminal=terminal)
    with watching(out, num_trials=3) as watcher:
        watcher.teacher_ready(TEACHER)
        watcher.going_on(4, 5)
        watcher.trial_started(4, CASCADE)
        watcher.trial_finished(4, candidates[:2], view, Reused())
        if terminal:
            shown = console(terminal=False)
            shown.print(watcher.render())
            assert shown.file.getvalue().startswith("5 of 5 trials")
    said = out.file.getvalue()
    assert "note: 5 trials are there, and num_trials is 3: no new one is started" in said
    assert "trial 4 done (5 of 5)" in said


def test_a_search_that_goes_on_with_what_it_was_asked_for_says_nothing_of_it():
    out = console(terminal=False)
    LineWatcher(out, num_trials=3).going_on(1, 3)
    assert out.file.getvalue() == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_a_collapse_is_marked_each_time_and_explained_once(candidates, make_candidate, terminal):
    teacher = dataclasses.replace(TEACHER, val_guess=0.15)
    low = make_candidate(trial=1, level=2, val_accuracy=0.54, macs_kept=0.01)
    view = front_view(
        [*candidates, low], OBJECTIVES, teacher_val_accuracy=0.95, collapsed_below=teacher.collapsed_below
    )
    out = console(terminal=terminal)
    with watching(out, num_trials=3) as watcher:
        watcher.teacher_ready(teacher)
        for number, found in enumerate([candidates[:2], [candidates[2], low], [low]]):
            watcher.trial_started(number, CASCADE)
            watcher.trial_finished(number, found, view, Reused())
    said = out.file.getvalue()
    assert "trial 0 done (1 of 3): 94.0 % at 30.0 % of the MACs, 90.0 % at 5 %;" in said
    assert "trial 1 done (2 of 3): 80.0 % at 20.0 % of the MACs, 54.0 % at 1 % (collapsed);" in said
    assert "trial 2 done (3 of 3): 54.0 % at 1 % of the MACs (collapsed);" in said
    (explained,) = [line for line in said.splitlines() if "has collapsed" in line]
    assert "level 2 of trial 1" in explained
    assert "nearer to guessing (15.0 %) than to the teacher (95.0 %)" in explained
    assert [row["collapsed"] for row in front_rows(view)] == [False, False, False, True]
    shown = console(terminal=False)
    shown.print(front_rich_table(view))
    assert [line.split()[0] for line in shown.file.getvalue().splitlines() if "collapsed" in line] == ["1:2"]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_teacher_that_has_learnt_nothing_is_told(candidates, terminal):
    said = []
    for accuracy in (0.143, 0.144):
        out, teacher = console(terminal=terminal), dataclasses.replace(TEACHER, val_accuracy=accuracy, val_guess=0.098)
        with watching(out, num_trials=3) as watcher:
            watcher.teacher_ready(teacher)
        said.append("hardly better than guessing (9.8 %)" in out.file.getvalue())
        assert (teacher.collapsed_below == 0.0) is said[-1]
    assert said == [True, False]


def test_nothing_has_collapsed_where_guessing_is_not_known(make_candidate):
    low = make_candidate(val_accuracy=0.01)
    view = front_view([low], OBJECTIVES, teacher_val_accuracy=0.95, collapsed_below=TEACHER.collapsed_below)
    assert view.remarks(low) == ("knee",)


def test_a_terminal_shows_what_runs_what_is_best_and_what_is_left(candidates, view):
    with watching(console(terminal=True), num_trials=3) as watcher:
        watcher.teacher_ready(TEACHER)
        watcher.trial_started(0, CASCADE)
        watcher.trial_started(1, CASCADE)
        watcher.trial_epoch(0, progress(5))
        shown = console(terminal=False)
        shown.print(watcher.render())
        running = shown.file.getvalue()
        watcher.trial_finished(0, candidates[:2], view, Reused())
        shown = console(terminal=False)
        shown.print(watcher.render())
        later = shown.file.getvalue()
    assert "0 of 3 trials" in running
    assert "left" in running
    assert "5/10" in running
    assert "80.0 %, 40.0 %" in running
    assert "1 of 3 trials" in later
    assert "best so far: 94.0 % at 30.0 % of the MACs" in later
    assert "5/10" not in later


def test_trials_may_start_while_the_table_is_drawn():
    watcher = LiveWatcher(console(terminal=True), num_trials=9)

    class Progress:
        """An epoch's, beside whose drawing the driver starts another trial."""

        def __getattr__(self, name):
            watcher.trial_started(len(watcher._running), CASCADE)
            return getattr(progress(5), name)

    watcher.teacher_ready(TEACHER)
    watcher.trial_started(0, CASCADE)
    watcher.trial_epoch(0, Progress())
    shown = console(terminal=False)
    shown.print(watcher.render())
    assert "5/10" in shown.file.getvalue()
    assert len(watcher._running) > 1


@pytest.mark.parametrize("terminal", [False, True])
def test_a_stopped_trial_is_told_with_its_reason_and_what_it_left(candidates, view, terminal):
    out = console(terminal=terminal)
    with watching(out, num_trials=3) as watcher:
        watcher.teacher_ready(TEACHER)
        watcher.trial_started(0, CASCADE)
        watcher.trial_stopped(0, "behind", candidates[:1], view)
        watcher.trial_started(1, CASCADE)
        watcher.trial_stopped(1, "behind", (), view)
    assert "trial 0 stopped (1 of 3): behind; kept 94.0 % at 30.0 % of the MACs\n" in out.file.getvalue().replace(
        "\r", ""
    )
    assert "trial 1 stopped (2 of 3): behind\n" in out.file.getvalue().replace("\r", "")


def test_a_front_says_what_was_not_trained_to_its_end(candidates):
    unfinished = [dataclasses.replace(candidates[0], fidelity=0.75), *candidates[1:]]
    view = front_view(unfinished, OBJECTIVES, teacher_val_accuracy=0.95)
    assert [row["fidelity"] for row in front_rows(view)] == [0.75, 1.0, 1.0]
    out = console(terminal=False)
    out.print(front_rich_table(view))
    assert "75.0 %" in out.file.getvalue()


def test_rows_say_what_is_on_the_front(view):
    rows = front_rows(view)
    assert [(row["trial"], row["level"], row["on_front"]) for row in rows] == [
        (0, 1, True),
        (0, 2, True),
        (1, 1, False),
    ]
    assert sum(row["knee"] for row in rows) == 1
    assert json.loads(front_json_list(view)) == rows


def test_the_table_has_the_front_alone(view):
    out = console(terminal=False)
    out.print(front_rich_table(view))
    said = out.file.getvalue()
    assert "0:1" in said
    assert "20x" in said
    assert "1:1" not in said
    assert said.count("knee") == 1
