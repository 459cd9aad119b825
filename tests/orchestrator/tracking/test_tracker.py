"""What the driver writes down, without any MLflow."""

import dataclasses
import json
import threading
from pathlib import Path

import pytest

from orchestrator.addresses import without_credentials
from orchestrator.front.repeats import Repeat
from orchestrator.tracking import ClosedTrial, Tracker
from orchestrator.tracking.ledger import Ledger
from trainables.results import Reused, TeacherResult

TEACHER = TeacherResult(val_accuracy=0.99, macs=2000, params=50, seconds=3.0)


def metrics_of(records, run):
    return [metric for record in records if record["run"] == run for metric in record.get("metrics", ())]


def test_a_trial_has_a_run_one_for_each_stage_and_one_for_each_network(
    tracker, told, make_epoch, make_candidate, tmp_path
):
    tracker.start_trial(0, {"temperature": 4.0, "level_1_macs_kept_asked": 0.5, "level_2_macs_kept_asked": 0.05})
    for number in (1, 2, 3):
        tracker.log_epoch(0, make_epoch(number))
    candidates = (make_candidate(0, 1, macs_kept=0.5), make_candidate(0, 2, macs_kept=0.05, val_accuracy=0.8))
    tracker.finish_trial(0, candidates, "finished", reused=Reused(stages=("cascade",), epochs=2, seconds=4.0))
    opened = {record["run"]: record for record in told("open")}
    assert {run: (record["name"], record["parent"]) for run, record in opened.items()} == {
        "search": ("digits", None),
        "trial/0": ("trial 0 of digits", "search"),
        "trial/0/stage/cascade": ("trial 0 of digits, cascade", "trial/0"),
        "trial/0/network/1": ("network 0:1 of digits", "trial/0"),
        "trial/0/network/2": ("network 0:2 of digits", "trial/0"),
    }
    assert opened["trial/0"]["tags"]["sizes"] == "50 % → 5 %"
    assert opened["trial/0/network/2"]["params"]["temperature"] == "4.0"
    assert opened["trial/0/network/2"]["tags"]["export"] == f"cascade export digits --pick 0:2 --storage {tmp_path}"
    closed = {record["run"]: record for record in told("close")}
    assert {record["status"] for record in closed.values()} == {"finished"}
    assert closed["trial/0"]["tags"]["cascade.reused_stages"] == "cascade"
    # The student's figures, under names that no series by epoch has.
    own = {name: (value, step) for name, value, step in metrics_of(told("log"), "trial/0")}
    assert own["val_accuracy"] == (0.8, 0)
    assert own["macs_kept"] == (0.05, 0)
    assert own["reused_epochs"] == (2.0, 0)
    assert own["level_2_val_accuracy"] == (0.9, 3)
    assert "level_1_train_loss" not in own, "NaN must not be recorded"
    assert "level_2_val_top5" not in own, "there is none of five classes or less"


def test_networks_that_have_collapsed_say_so(tracker, resumed, told, make_candidate):
    teacher = dataclasses.replace(TEACHER, val_guess=0.1)
    tracker.log_teacher(teacher, [])
    low, high = make_candidate(0, 1, val_accuracy=0.54), make_candidate(0, 2, val_accuracy=0.55)
    tracker.finish_trial(0, (low, high), "finished")
    again = resumed()
    again.log_teacher(teacher, [])
    again.finish_trial(1, (make_candidate(1, 1, val_accuracy=0.54),), "finished")
    tags = {record["run"]: record["tags"] for record in told("open") if "/network/" in record["run"]}
    collapsed = {run: tags["cascade.collapsed"] for run, tags in tags.items()}
    assert collapsed == {"trial/0/network/1": "true", "trial/0/network/2": "false", "trial/1/network/1": "true"}
    said = [run for run, tags in tags.items() if "has collapsed" in tags["mlflow.note.content"]]
    assert said == ["trial/0/network/1", "trial/1/network/1"]


def test_a_failed_trial_says_why_and_its_stage_fails_with_it(tracker, told, make_epoch):
    tracker.start_trial(0, {})
    tracker.log_epoch(0, make_epoch(1))
    tracker.finish_trial(0, (), "failed", "stage cascade, level 1: loss is NaN")
    closed = {record["run"]: record for record in told("close")}
    assert set(closed) == {"trial/0", "trial/0/stage/cascade"}
    for record in closed.values():
        assert record["status"] == "failed"
        assert record["tags"]["failure"] == "stage cascade, level 1: loss is NaN"


def test_epochs_that_are_trained_again_and_trials_that_are_told_again_change_nothing(
    tracker, resumed, told, make_epoch, make_candidate
):
    tracker.log_teacher(TEACHER, [make_epoch(1)])
    for trial in (0, 1):
        tracker.start_trial(trial, {"temperature": 4.0})
        for number in (1, 2):
            tracker.log_epoch(trial, make_epoch(number))
    tracker.finish_trial(0, (make_candidate(0, 1),), "finished")
    again = resumed(num_trials=5, new=1)
    before = len(told())
    again.log_teacher(TEACHER, [make_epoch(1)])
    again.finish_trial(0, (make_candidate(0, 1),), "finished")
    again.log_epoch(1, make_epoch(2))
    again.settle({0: "finished"}, lambda number: pytest.fail(f"trial {number} is told already"))
    assert len(told()) == before
    again.start_trial(1, {"temperature": 4.0, "more": 1})
    again.log_epoch(1, make_epoch(3))
    assert [step for name, _, step in metrics_of(told("log"), "trial/1") if name == "epoch"] == [1, 2, 3]
    opened = [record["params"] for record in told("open") if record["run"] == "trial/1"]
    assert opened == [{"temperature": "4.0"}, {"more": "1"}]
    assert [record["params"] for record in told("open") if record["run"] == "search"] == [
        {"num_trials": "2"},
        {"new": "1"},
    ]


def test_trials_that_ended_untold_are_told_on_resume(tracker, resumed, told, make_candidate):
    for trial in (0, 1):
        tracker.start_trial(trial, {"temperature": 4.0})
    tracker.finish_trial(0, (make_candidate(0, 1),), "finished")
    asked = []

    def closed(number):
        asked.append(number)
        candidates = () if number == 2 else (make_candidate(number, 1),)
        return ClosedTrial(parameters={"temperature": 4.0}, candidates=candidates, reason="diverged")

    again = resumed()
    again.settle({0: "finished", 1: "finished", 2: "failed"}, closed)
    assert asked == [1, 2]
    ledger = Ledger(told())
    assert [ledger.runs[f"trial/{trial}"].status for trial in (0, 1, 2)] == ["finished", "finished", "failed"]


def test_a_trial_that_a_killed_driver_left_is_told_after_repeats_were(tracker, resumed, told):
    tracker.start_trial(0, {"temperature": 4.0})
    joined = resumed()
    joined.start_repeat(Repeat(trial=0, index=1, seed=17))
    joined.leave()
    ledger = Ledger(told())
    assert ledger.open_runs() == ("trial/0", "search")
    assert ledger.runs["confirm/0/1"].status == "interrupted"
    resumed().settle({0: "stopped"}, lambda _: ClosedTrial(parameters={}, candidates=(), reason="early stopping"))
    closed = [record for record in told("close") if record["run"] == "trial/0"]
    assert [record["tags"]["cascade.reason"] for record in closed] == ["early stopping"]
    tracker.finish("stopped")
    tracker.finish_trial(0, (), "stopped", "early stopping")  # where it was interrupted it is told all the same


def test_what_belongs_together_is_written_at_once(tracker, make_epoch, make_candidate, monkeypatch):
    written = []
    monkeypatch.setattr("orchestrator.tracking.spool.append_lines", lambda _path, lines: written.append(lines))
    tracker.start_trial(0, {})
    tracker.log_epoch(0, make_epoch(1))
    tracker.finish_trial(0, (make_candidate(0, 1), make_candidate(0, 2)), "finished")
    assert [content.count(b"\n") for content in written] == [1, 3, 10]  # so that a kill cuts none of them in two


def test_nothing_stays_open_when_a_search_ends(tracker, told, make_epoch):
    tracker.start_trial(3, {})
    tracker.log_epoch(3, make_epoch(1))
    tracker.finish("stopped", "interrupted")
    closed = [(record["run"], record["status"], record["tags"]["cascade.status"]) for record in told("close")]
    assert closed == [
        ("trial/3/stage/cascade", "stopped", "interrupted"),
        ("trial/3", "stopped", "interrupted"),
        ("search", "stopped", "stopped"),
    ]
    assert Ledger(told()).open_runs() == ()


def test_runs_are_flagged_as_the_front_moves(tracker, told, make_view, make_candidate):
    for trial in (0, 1):
        tracker.start_trial(trial, {})
        tracker.finish_trial(trial, tuple(make_candidate(trial, level) for level in (1, 2)), "finished")
    fronts = [make_view((0, 1, 0.9, 0.1), (0, 2, 0.8, 0.05)), make_view((1, 1, 0.95, 0.1), (0, 2, 0.8, 0.05))]
    for number, view in enumerate([fronts[0], fronts[1], fronts[1]], start=1):
        tracker.log_front(view, hypervolume=0.7, num_trials=number)
    assert {record["tags"]["front"] for record in told("open") if record["run"].startswith("trial/")} == {"false"}
    flags = [(record["run"], record["tags"]["front"]) for record in told("log") if "front" in record["tags"]]
    assert flags == [
        ("trial/0", "true"),
        ("trial/0/network/1", "true"),
        ("trial/0/network/2", "true"),
        ("trial/1", "true"),
        ("trial/1/network/1", "true"),
        ("trial/0/network/1", "false"),
    ]


def test_a_front_is_told_with_its_history_pictures_and_models(tracker, told, make_view, tmp_path):
    pictures = [tmp_path / "digits/front.png"]
    tracker.log_front(make_view((0, 1, 0.9, 0.1)), hypervolume=0.7, num_trials=4, figures=pictures)
    paths = [record["path"] for record in told("text") if record["path"].startswith("front/")]
    assert paths == ["front/front.md", "front/front.json", "front/history/after-trial-00004.json"]
    assert ("front.png", "front") in [(record["source"], record["folder"]) for record in told("file")]
    (registered,) = told("register")
    assert registered["model"] == "here-digits"
    assert registered["aliases"] == {"knee": "0:1", "smallest": "0:1", "most-accurate": "0:1"}
    assert ["hypervolume", 0.7, 4] in metrics_of(told("log"), "search")
    note = next(record["tags"] for record in told("log") if "knee" in record["tags"])
    assert note["knee"] == "0:1"
    command = f"`cascade export digits --pick 0:1 --storage {tmp_path}`"
    assert command in note["mlflow.note.content"]
    assert command in registered["versions"][0]["description"]


def test_a_front_that_has_not_changed_is_not_told_again(tracker, told, make_view, tmp_path):
    view = make_view(*((trial, 1, 0.5 + 0.01 * trial, 0.01 + 0.01 * trial) for trial in range(40)))
    tracker.log_front(view, hypervolume=0.7, num_trials=40, figures=[tmp_path / "digits/front.png"])
    before = len(told())
    tracker.log_front(view, hypervolume=0.7, num_trials=41)
    again = told()[before:]
    assert ["hypervolume", 0.7, 41] in metrics_of(again, "search")
    assert {record["kind"] for record in again} == {"log"}
    assert len(json.dumps(again)) < 1500, "of a front of any size"


def test_the_overview_is_drawn_when_the_front_changes_and_when_the_search_ends(tracker, resumed, told, make_view):
    view = make_view((0, 1, 0.9, 0.1))
    tracker.log_front(view, hypervolume=0.7, num_trials=1, figures=())
    for number in (2, 3, 4):
        tracker.log_front(view, hypervolume=0.7, num_trials=number)
    assert len(told("overview")) == 1
    tracker.finish("finished")
    assert len(told("overview")) == 2
    resumed().finish("stopped")
    assert len(told("overview")) == 2, "a start that was told no front has nothing new"


def test_an_empty_front_is_told_too(tracker, told, make_view, tmp_path):
    tracker.log_front(make_view(), hypervolume=0.0, num_trials=1, figures=[tmp_path / "digits/front.png"])
    assert told("register") == []
    assert ["front_size", 0.0, 1] in metrics_of(told("log"), "search")


def test_repeats_are_told_once(tracker, told):
    repeat = Repeat(trial=3, index=1, seed=17, val_accuracies=(0.9, 0.8))
    failed = dataclasses.replace(repeat, index=2, val_accuracies=(), failure="diverged")
    tracker.log_repeats([repeat, failed])
    tracker.log_repeats([repeat, failed])
    runs = [(record["run"], record["params"]) for record in told("open") if record["run"] != "search"]
    assert runs == [("confirm/3/1", {"seed": "17"}), ("confirm/3/2", {"seed": "17"})]
    assert [record["status"] for record in told("close")] == ["finished", "failed"]


def test_runs_of_a_study_are_told_once_by_their_keys(tracker, resumed, told, make_result):
    good, failed = make_result("a", arm="chain"), make_result("b", failure="diverged")
    tracker.log_runs([good, failed])
    resumed().log_runs([failed, good])  # in whichever order they are known
    (first, second) = (record for record in told("open") if record["run"] != "search")
    assert (first["run"], first["name"], first["parent"]) == ("run/a", "chain, size 0.1, seed 1", "search")
    assert first["params"] == {
        "arm": "chain",
        "size": "0.1",
        "seed": "1",
        "learning_rate": "0.05",
        "purpose": "measured",
    }
    assert first["tags"] == {"cascade.kind": "run", "cascade.status": "running"}
    figures = {name: value for name, value, _ in metrics_of(told("log"), "run/a")}
    wanted = {"epochs": 5, "work": 10, "seconds": 2, "test_accuracy": 0.9, "val_accuracy": 0.95}
    assert figures == wanted | {"macs_kept": 0.1, "params_kept": 0.2}
    assert second["run"] == "run/b"
    assert [(record["run"], record["status"]) for record in told("close")] == [
        ("run/a", "finished"),
        ("run/b", "failed"),
    ]
    # One whose line was removed, to run it again, and which came to something.
    resumed().log_runs([good, make_result("b")])
    assert [(record["run"], record["status"]) for record in told("close")][2:] == [("run/b", "finished")]


def test_a_studys_run_leads_to_its_report(tracker, told):
    tracker.log_report(Path("runs/mine/report.html"))
    assert [record["source"] for record in told("file")] == ["report.html"]
    (note,) = (record["tags"]["mlflow.note.content"] for record in told("log") if record["tags"])
    assert note.startswith("`report.html` under Artifacts says what the study shows")


def test_what_is_told_after_its_end_began_as_long_before(tracker, told, make_result, monkeypatch):
    monkeypatch.setattr("orchestrator.tracking.records.now_ms", lambda: 1_000_000)
    tracker.log_teacher(TEACHER, [])
    tracker.log_runs([make_result("a")])
    opened, closed = ({record["run"]: record["time"] for record in told(kind)} for kind in ("open", "close"))
    took = {run: closed[run] - opened[run] for run in closed}
    assert took == {"teacher": 1000 * TEACHER.seconds, "run/a": 2000}


def test_a_teacher_of_another_search_took_no_time_here(tracker, told, monkeypatch):
    monkeypatch.setattr("orchestrator.tracking.records.now_ms", lambda: 1_000_000)
    tracker.log_teacher(dataclasses.replace(TEACHER, reused=True), [])
    assert [record["time"] for record in told("open") if record["run"] == "teacher"] == [1_000_000]


def test_what_is_decided_later_becomes_a_parameter_of_the_search(tracker, told):
    tracker.log_parameters({})
    tracker.log_parameters({"resources.gpus_per_trial.chosen": 0.25})
    assert [(record["run"], record["params"]) for record in told("log")] == [
        ("search", {"resources.gpus_per_trial.chosen": "0.25"})
    ]


def test_versions_machine_and_commit_go_along_and_no_environment_variable(tracker, told, monkeypatch, resumed):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret")
    resumed()
    texts = {record["path"]: record["text"] for record in told("text")}
    assert "mlflow==" in texts["environment/requirements.txt"]
    assert '"python"' in texts["environment/environment.json"]
    assert texts["config.yaml"] == "data: digits\n"
    assert "s3cret" not in str(told())


def test_a_full_disk_is_said_once_and_costs_nothing(tracker, told, warnings, monkeypatch):
    def full(*records):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tracker._outbox._spool, "append", full)
    tracker.start_trial(0, {})
    tracker.start_trial(1, {})
    assert len(warnings) == 1
    assert "cannot be written (No space left on device)" in warnings[0]


def test_two_threads_write_whole_records(tracker, told, make_epoch, make_view):
    def draw():
        for number in range(100):
            tracker.log_front(make_view((0, 1, 0.9, 0.1)), hypervolume=0.5, num_trials=number)

    thread = threading.Thread(target=draw)
    thread.start()
    for trial in range(100):
        tracker.start_trial(trial, {})
        tracker.log_epoch(trial, make_epoch(1))
    thread.join()
    assert len([record for record in told("open") if record["tags"]["cascade.kind"] == "trial"]) == 100
    assert len([name for name, _, _ in metrics_of(told("log"), "search") if name == "hypervolume"]) == 100


def test_address_comes_from_the_config_then_the_environment_then_the_storage(tmp_path, monkeypatch):
    def address(uri):
        return Tracker(uri=uri, storage=tmp_path, warn=print).address

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert address(None) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://from-environment:5000")
    assert address(None) == "http://from-environment:5000"
    assert address("http://from-config:5000") == "http://from-config:5000"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://me:p%40ss@host:5000/path", "https://host:5000/path"),
        ("postgresql://me@host/db?password=p%40ss", "postgresql://host/db"),
        ("sqlite:////home/me/mlflow.db?key=p%40ss", "sqlite:////home/me/mlflow.db"),
    ],
)
def test_credentials_are_never_shown(uri, shown):
    assert without_credentials(uri, uri) == shown
    assert without_credentials(f"cannot open {uri}: 'p@ss' is wrong", uri) == f"cannot open {shown}: '***' is wrong"


@pytest.mark.parametrize("uri", ["sqlite:////home/me/mlflow.db", "http://host:5000", "databricks"])
def test_addresses_without_credentials_stay_as_they_are(uri):
    assert without_credentials(uri, uri) == uri
