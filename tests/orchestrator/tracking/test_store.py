"""Records in a real MLflow database: what is found there, also after kills, and what sending again changes."""

import base64
import json
import zlib
from dataclasses import replace

import pytest

from orchestrator.addresses import database_uri
from orchestrator.data.described import DataSet
from orchestrator.front.repeats import Repeat
from orchestrator.tracking import records
from orchestrator.tracking.store import MlflowStore
from trainables.errors import InputError
from trainables.results import TeacherResult

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # of MLflow's own mapper
]
TEACHER = TeacherResult(val_accuracy=0.99, macs=2000, params=50, seconds=3.0)
DATA = DataSet(name="digits", digest="train-1", source="scikit-learn", context="training", profile={"n": 5})


def history(store, run, name):
    return [(m.step, m.value) for m in store.client.get_metric_history(run.info.run_id, name)]


def test_a_search_is_recorded_once_however_often_it_is_sent(
    tracker, make_sender, store, runs, artifact, make_epoch, make_candidate, make_view, warnings, tmp_path
):
    tracker._outbox.put(records.reading("search", [DATA]))
    tracker.log_teacher(TEACHER, [make_epoch(1), make_epoch(2)])
    tracker.start_trial(0, {"temperature": 4.0})
    tracker.log_epoch(0, make_epoch(1))
    sender = make_sender(store)
    assert sender.send()
    tracker.log_epoch(0, make_epoch(2, val_accuracy=0.85))
    candidates = (make_candidate(0, 1), make_candidate(0, 2, val_accuracy=0.8))
    tracker.finish_trial(0, candidates, "finished")
    tracker.start_trial(1, {"temperature": 2.0})
    tracker.finish_trial(1, (), "failed", "stage cascade, level 1: loss is NaN")
    (tmp_path / "digits/front.png").write_bytes(b"picture")
    tracker.log_front(
        make_view((0, 2, 0.8, 0.1)), hypervolume=0.7, num_trials=1, figures=[tmp_path / "digits/front.png"]
    )
    tracker.finish("finished")
    assert sender.send()
    once = runs()
    for again in (sender, make_sender(MlflowStore(uri=store._uri, storage=tmp_path, experiment="here"))):
        again.rewind()
        assert again.send()
    found = runs()
    assert warnings == []
    assert {name: run.info.run_id for name, run in found.items()} == {n: run.info.run_id for n, run in once.items()}
    for name, run in found.items():
        assert (run.info.status, run.data.metrics, run.data.params, run.data.tags) == (
            once[name].info.status,
            once[name].data.metrics,
            once[name].data.params,
            once[name].data.tags,
        )
    search, trial, network = found["digits"], found["trial 0 of digits"], found["network 0:2 of digits"]
    assert {name: run.info.status for name, run in found.items() if run.info.status != "FINISHED"} == {
        "trial 1 of digits": "FAILED"
    }
    assert history(store, trial, "epoch") == [(1, 1.0), (2, 2.0)]
    assert history(store, search, "hypervolume") == [(1, 0.7)]
    assert len(history(store, network, "val_accuracy")) == 1
    assert trial.data.tags["mlflow.parentRunId"] == search.info.run_id
    assert network.data.tags["mlflow.parentRunId"] == trial.info.run_id
    assert [one.dataset.name for one in search.inputs.dataset_inputs] == ["digits"]
    assert artifact(search, "front/front.png") == "picture"
    assert artifact(search, "config.yaml") == "data: digits\n"
    on_front = store.client.search_runs([store.experiment_id], "tags.front = 'true' and tags.cascade.kind = 'network'")
    assert [run.info.run_name for run in on_front] == ["network 0:2 of digits"]
    assert {run.data.tags["search"] for run in found.values()} == {"digits"}


def test_a_killed_driver_leaves_no_run_running_and_a_resume_goes_on_in_the_same_ones(
    tracker, resumed, make_sender, store, runs, make_epoch, make_candidate
):
    for trial in (0, 1):
        tracker.start_trial(trial, {"temperature": 4.0})
        tracker.log_epoch(trial, make_epoch(1))
    tracker.finish_trial(0, (make_candidate(0, 1),), "finished")
    sender = make_sender(store)
    assert sender.send()
    assert runs()["trial 1 of digits"].info.status == "RUNNING"
    sender.interrupt()  # as the courier does when its driver is gone
    killed = runs()
    assert {name: run.info.status for name, run in killed.items() if run.info.status != "FINISHED"} == {
        "digits": "KILLED",
        "trial 1 of digits": "KILLED",
        "trial 1 of digits, cascade": "KILLED",
    }
    assert killed["trial 1 of digits"].data.tags["cascade.status"] == "interrupted"
    again = resumed(num_trials=5, new=1)
    again.start_trial(1, {"temperature": 4.0})
    sender = make_sender(store)
    assert sender.send()
    assert runs()["trial 1 of digits"].info.status == "RUNNING"
    assert runs()["digits"].data.params == {"num_trials": "2", "new": "1"}
    again.finish_trial(1, (make_candidate(1, 1),), "finished")
    again.finish("finished")
    assert sender.send()
    found = runs()
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert {name: run.info.run_id for name, run in killed.items()}.items() <= {
        name: run.info.run_id for name, run in found.items()
    }.items()


def test_a_repeat_has_the_times_of_its_training(tracker, make_sender, store, runs, monkeypatch):
    now_ms = [10_000]
    monkeypatch.setattr("orchestrator.tracking.records.now_ms", lambda: now_ms[0])
    repeat = Repeat(trial=3, index=1, seed=17)
    tracker.start_repeat(repeat)
    now_ms[0] = 20_000
    tracker.leave()
    make_sender(store).send()
    stopped = runs()["confirm 3 of digits, seed 1"]
    assert (stopped.info.status, stopped.data.tags["cascade.status"]) == ("KILLED", "interrupted")
    now_ms[0] = 30_000
    tracker.start_repeat(repeat)
    now_ms[0] = 70_000
    tracker.log_repeats([replace(repeat, val_accuracies=(0.9,))])
    tracker.leave()
    make_sender(store).send()
    ended = runs()["confirm 3 of digits, seed 1"]
    assert (ended.info.start_time, ended.info.end_time, ended.info.status) == (10_000, 70_000, "FINISHED")
    assert ended.data.metrics == {"level_1_val_accuracy": 0.9}


def test_a_trial_that_the_search_has_lost_is_kept_apart_from_the_one_that_has_its_number(
    tracker, resumed, make_sender, store, runs, told, make_epoch, make_candidate, make_view
):
    tracker.start_trial(0, {"temperature": 1.0})
    tracker.finish_trial(0, (make_candidate(0, 1),), "finished")
    carried = (tracker._outbox._spool.path).read_bytes()  # all that the bucket has when the machine is gone
    tracker.start_trial(1, {"temperature": 4.0, "num_assistants": 1})
    tracker.log_epoch(1, make_epoch(1))
    tracker.finish_trial(1, (make_candidate(1, 1), make_candidate(1, 2, val_accuracy=0.5)), "finished")
    tracker.log_front(make_view((1, 1, 0.9, 0.1)), hypervolume=0.7, num_trials=2)
    tracker.start_trial(2, {"temperature": 4.0})
    assert make_sender(store).send()
    before = runs()
    tracker._outbox._spool.path.write_bytes(carried)
    again = resumed()
    again.start_trial(1, {"temperature": 2.0, "num_assistants": 0})
    again.finish_trial(1, (make_candidate(1, 1, val_accuracy=0.7),), "finished")
    again.start_trial(2, {"temperature": 4.0})
    sender = make_sender(MlflowStore(uri=store._uri, storage=store._storage, experiment="here"))
    for _ in range(2):  # sending it again changes nothing
        sender.rewind()
        assert sender.send()
    found = runs()
    assert found["trial 1 of digits"].data.params == {"temperature": "2.0", "num_assistants": "0"}
    assert (found["trial 1 of digits"].data.tags["front"], found["trial 1 of digits"].data.metrics["val_accuracy"]) == (
        "false",
        0.7,
    )
    assert found["network 1:1 of digits"].data.params["temperature"] == "2.0"
    assert "network 1:2 of digits" not in found
    lost = {name: run for name, run in found.items() if run.data.tags["cascade.kind"] == "lost"}
    names = {"trial 1 of digits", "trial 1 of digits, cascade", "network 1:1 of digits", "network 1:2 of digits"}
    assert {name: run.info.run_id for name, run in lost.items()} == {
        f"{name}, lost": before[name].info.run_id for name in names
    }
    assert lost["trial 1 of digits, lost"].data.params == {"temperature": "4.0", "num_assistants": "1"}
    assert {run.data.tags.get("front", "false") for run in lost.values()} == {"false"}
    for name in (
        "digits",
        "trial 0 of digits",
        "network 0:1 of digits",
        "trial 2 of digits",
    ):  # the same cascade, or none
        assert found[name].info.run_id == before[name].info.run_id


def test_a_running_trial_that_was_lost_ends_and_is_called_so_once_though_mlflow_fails_meanwhile(
    tracker, resumed, make_sender, store, runs, monkeypatch
):
    carried = (tracker._outbox._spool.path).read_bytes()
    tracker.start_trial(0, {"temperature": 4.0})
    assert make_sender(store).send()
    tracker._outbox._spool.path.write_bytes(carried)
    resumed().start_trial(0, {"temperature": 2.0})
    real, failed = store.client.log_batch, []

    def log_batch(run_id, **named):
        if not failed and "lost" in {tag.value for tag in named["tags"]}:
            failed.append(run_id)
            raise ConnectionError("the server was started again")
        return real(run_id, **named)

    monkeypatch.setattr(store.client, "log_batch", log_batch)
    sender = make_sender(store)
    sender.rewind()
    assert sender.send()
    found = runs()
    assert {name: run.info.status for name, run in found.items()} == {
        "digits": "RUNNING",
        "trial 0 of digits": "RUNNING",
        "trial 0 of digits, lost": "KILLED",
    }
    assert [found["trial 0 of digits, lost"].info.run_id] == failed
    assert found["trial 0 of digits, lost"].info.end_time is not None


@pytest.mark.parametrize("told_by", ["the courier", "the driver"])
def test_what_went_on_after_a_stop_no_longer_says_why_it_was_stopped(
    tracker, resumed, make_sender, store, runs, make_epoch, make_candidate, make_view, told_by
):
    tracker.start_trial(0, {"temperature": 4.0})
    tracker.log_epoch(0, make_epoch(1))
    view = make_view((0, 1, 0.9, 0.1))
    tracker.log_front(view, hypervolume=0.7, num_trials=0, figures=[make_sender(store)._search.folder / "front.png"])
    if told_by == "the driver":
        tracker.finish_trial(0, (), "failed", "the disk was full")
        tracker.finish("failed", "the disk was full")
    sender = make_sender(store)
    assert sender.send()
    sender.interrupt()
    stopped = runs()
    again = resumed()
    again.start_trial(0, {"temperature": 4.0})
    again.log_epoch(0, make_epoch(2))
    sender = make_sender(store)
    assert sender.send()
    for name in ("digits", "trial 0 of digits"):
        assert "cascade.reason" in stopped[name].data.tags
        assert runs()[name].data.tags.keys().isdisjoint({"cascade.reason", "failure"})
    again.log_epoch(0, make_epoch(3))
    again.finish_trial(0, (make_candidate(0, 1),), "finished")
    again.finish("finished")
    assert sender.send()
    for name in ("digits", "trial 0 of digits", "trial 0 of digits, cascade"):
        assert runs()[name].data.tags.keys().isdisjoint({"cascade.reason", "failure"})
        assert ("mlflow.note.content" in runs()[name].data.tags) == (name == "digits")  # whose note is its front


def test_a_searchs_line_leads_to_its_overview_among_pages_for_models(tracker, make_sender, store, runs):
    assert make_sender(store).send()
    store.describe("4 networks")
    said = store.client.get_experiment(store.experiment_id).tags["mlflow.note.content"]
    place = f"#/experiments/{store.experiment_id}/runs/{runs()['digits'].info.run_id}/artifacts/overview.html"
    assert said == f"digits: 4 networks. [Overview]({place}?workflowType=machine_learning)"


def test_a_description_that_people_wrote_is_left_when_a_run_goes_on(tracker, resumed, make_sender, store, runs):
    tracker.start_trial(0, {"temperature": 4.0})
    tracker.finish_trial(0, (), "failed", "the disk was full")
    assert make_sender(store).send()
    failed = runs()["trial 0 of digits"]
    assert failed.data.tags["mlflow.note.content"] == "the disk was full"
    store.client.set_tag(failed.info.run_id, "mlflow.note.content", "That was me.")
    again = resumed()
    again.start_trial(0, {"temperature": 4.0})
    again.finish_trial(0, (), "finished")
    assert make_sender(store).send()
    tags = runs()["trial 0 of digits"].data.tags
    assert tags.keys().isdisjoint({"cascade.reason", "failure"})
    assert tags["mlflow.note.content"] == "That was me."


def test_a_run_that_was_made_though_the_answer_was_lost_is_found_again(tracker, make_sender, store, runs, monkeypatch):
    real, lost = store.client.create_run, []

    def create_run(*words, **named):
        made = real(*words, **named)
        if not lost:
            lost.append(made)
            raise ConnectionError("the answer never came")
        return made

    monkeypatch.setattr(store.client, "create_run", create_run)
    tracker.start_trial(0, {})
    assert make_sender(store).send()
    assert set(runs()) == {"digits", "trial 0 of digits"}  # which checks that none is there twice


def test_a_deleted_run_and_a_deleted_experiment_are_said(tracker, make_sender, store, runs, warnings):
    tracker.start_trial(0, {})
    sender = make_sender(store)
    assert sender.send()
    store.client.delete_run(runs()["trial 0 of digits"].info.run_id)
    tracker.finish_trial(0, (), "failed", "diverged")
    assert sender.send()
    assert ["trial/0 was deleted" in warning for warning in warnings] == [True]
    store.client.delete_experiment(store.experiment_id)
    tracker.start_trial(1, {})
    assert not sender.send()
    assert "experiment 'here' was deleted" in warnings[-1]
    with pytest.raises(InputError, match=r"experiment 'here' was deleted at sqlite:.*; restore it or choose another"):
        MlflowStore(uri=store._uri, storage=store._storage, experiment="here").require()


def test_refused_records_hold_up_nothing(tracker, make_sender, store, runs, warnings):
    tracker.start_trial(0, {})
    tracker._outbox.put(records.logging("trial/0", [("no > such name", 1.0, 0)]))
    tracker.start_trial(1, {"temperature": 4.0})
    assert make_sender(store).send()
    assert len(warnings) == 1
    assert "a record was refused" in warnings[0]
    assert "\n" not in warnings[0]
    assert runs()["trial 1 of digits"].data.params == {"temperature": "4.0"}


def test_parameters_may_be_called_anything(tracker, make_sender, store, runs, warnings):
    tracker.start_trial(0, {"rate [log]": 0.1, "größe*": 3, "plain_name": 1})
    assert make_sender(store).send()
    assert warnings == []
    assert runs()["trial 0 of digits"].data.params == {"rate -log-": "0.1", "größe-": "3", "plain_name": "1"}


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("a//b", "a/-/b"),
        ("lr/", "lr/-"),
        ("/lr", "-/lr"),
        ("./a", "-/a"),
        ("a/../b", "a/-/b"),
        ("..a/..b", "-a/-b"),
        (".a/b.", ".a/b."),
        (".", "-"),
        ("..", "-"),
        ("", "-"),
        ("//", "-/-/-"),
        ("x" * 300, "x" * 249),
        ("x" * 248 + "/../b", "x" * 248 + "/-"),
        ("/" * 250, "-/" * 124 + "-"),
    ],
)
def test_names_that_are_no_path_are_replaced(store, name, taken):
    record = records.logging("trial/0", params={name: 1})
    assert record["params"] == {taken: "1"}
    run = store.client.create_run(store.experiment_id)
    store.client.log_param(run.info.run_id, taken, "1")


def test_names_that_become_the_same_are_numbered():
    names = ["lr(", "lr)", "lr-", "x" * 300, "x" * 301]
    record = records.logging("trial/0", params={name: index for index, name in enumerate(names)})
    assert record["params"] == {"lr-": "0", "lr- 2": "1", "lr- 3": "2", "x" * 249: "3", "x" * 248 + " 2": "4"}


def test_more_than_a_batch_holds_arrives(tracker, make_sender, store, runs):
    tracker.start_trial(0, {f"p{index}": index for index in range(250)})
    metrics = [(f"m{index}", float(index), 0) for index in range(1950)]
    tracker._outbox.put(records.logging("trial/0", metrics, tags={f"t{index}": "x" for index in range(120)}))
    assert make_sender(store).send()
    data = runs()["trial 0 of digits"].data
    assert (len(data.params), len(data.metrics)) == (250, 1950)
    assert len([name for name in data.tags if name.startswith("t")]) == 120


def test_two_searches_in_one_store_do_not_mix(tracker, make_sender, store, tmp_path, warnings):
    from orchestrator.tracking import Tracker
    from orchestrator.tracking.store import SearchIdentity

    tracker.start_trial(0, {})
    assert make_sender(store).send()
    other = Tracker(uri=None, storage=tmp_path, experiment="here", warn=warnings.append)
    other.start_search("digits", {}, "", "another")  # of the same name, in another storage folder say
    store.follow(SearchIdentity(name="digits", search_id="another", folder=tmp_path))
    assert store.run_ids() == {}


@pytest.mark.parametrize("uri", ["nonsense://x", "file:///nowhere", "sqlite:////proc/none/mlflow.db"])
def test_unusable_addresses_are_bad_input(tmp_path, uri):
    store = MlflowStore(uri=uri, storage=tmp_path, experiment="here")
    with pytest.raises(InputError, match=r"^tracking address .* does not work: .+; start an MLflow server") as raised:
        store.require()
    assert "\n" not in str(raised.value)


def test_a_dead_address_is_bad_input_and_shows_no_password(tmp_path, free_port):
    store = MlflowStore(uri=f"http://me:s3cret@127.0.0.1:{free_port}/", storage=tmp_path, experiment="here")
    with pytest.raises(InputError, match=rf"http://127\.0\.0\.1:{free_port}/ does not work: .*refused; start an") as r:
        store.require()
    assert "s3cret" not in str(r.value)


def test_a_folder_of_artifacts_that_cannot_be_written_to_is_bad_input(database, monkeypatch):
    import os

    storage = database.rename(database.with_name(f"{database.name} räume"))
    MlflowStore(uri=database_uri(storage), storage=storage, experiment="here").require()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    said = rf"artifacts go to {storage}/mlartifacts, but {storage} cannot be written to; change its"
    with pytest.raises(InputError, match=said):
        MlflowStore(uri=database_uri(storage), storage=storage, experiment="here").require()


def test_views_follow_what_the_newest_search_varies(tracker, make_sender, store, make_candidate):
    def charted():
        tags = store.client.get_experiment(store.experiment_id).tags
        packed = json.loads(tags["mlflow.sharedViewState.cascade-networks"])["state"].removeprefix("deflate;")
        charts = json.loads(zlib.decompress(base64.b64decode(packed)))["compareRunCharts"]
        return next(chart["selectedParams"] for chart in charts if chart["type"] == "PARALLEL")

    assert charted() == ["num_assistants"]
    for trial, temperature in enumerate((2.0, 4.0)):
        tracker.start_trial(trial, {"temperature": temperature, "mine": trial, "schedule": "joint"} | {str(trial): 1})
        tracker.finish_trial(trial, (make_candidate(trial, 1),), "finished")
    assert make_sender(store).send()
    store.keep_views()
    assert charted() == ["temperature", "mine"]
    MlflowStore(uri=store._uri, storage=store._storage, experiment="here").require()
    assert charted() == ["temperature", "mine"], "connecting again leaves them"


def test_what_a_full_disk_does_not_take_waits(tracker, make_sender, store, runs, database, warnings, little_room):
    for number in range(30):
        tracker.start_trial(number, {f"parameter_{place}": "x" * 200 for place in range(20)})
    sender = make_sender(store)
    with little_room((database / "mlflow.db").stat().st_size + 2**16):
        assert not sender.send()
        store.probe()  # which needs no room
    assert sender.left().num_waiting > 0
    assert "I/O error" in sender.left().cause
    assert [warning.partition(" (")[0] for warning in warnings] == ["it takes no records now"]
    assert sender.send()
    assert sender.left().num_waiting == 0
    assert {name: len(run.data.params) for name, run in runs().items() if name != "digits"} == {
        f"trial {number} of digits": 20 for number in range(30)
    }
