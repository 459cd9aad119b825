"""The tracker against a real MLflow store: what is recorded, what a resume finds again, what a dead server does."""

import http.server
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.addresses import database_uri, without_credentials
from orchestrator.archive import Candidate
from orchestrator.deliveries import DeliveryThread
from orchestrator.plots import FrontView
from orchestrator.tracking import ClosedTrial, Tracker
from orchestrator.ui import serve
from trainables.errors import InputError
from trainables.results import EpochProgress, LevelProgress, TeacherResult

SEARCH = "search-7"


def epoch(trial_epoch: int, *, val_accuracy: float = 0.9) -> EpochProgress:
    return EpochProgress(
        stage="cascade",
        epoch=trial_epoch,
        num_epochs=3,
        trial_epoch=trial_epoch,
        learning_rate=0.1,
        seconds=2.0,
        levels=(
            LevelProgress(level=1, macs_kept=0.5, train_loss=float("nan"), val_accuracy=0.95, val_top5=0.97),
            LevelProgress(level=2, macs_kept=0.2, train_loss=0.3, val_accuracy=val_accuracy),
        ),
    )


def candidate(trial: int, level: int) -> Candidate:
    return Candidate(
        trial=trial,
        level=level,
        num_assistants=1,
        val_accuracy=1 - level / 10,
        val_accuracy_before_recalibration=0.5,
        macs=1000 // level,
        macs_kept=0.4 / level,
        params=10,
        params_kept=0.1,
        latency_ms=None,
        network="networks/a",
        cascade='{"macs_kept": [0.4, 0.2]}',
        val_top5=1 - level / 100,
    )


@pytest.fixture(scope="module")
def empty_storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Making the database's tables takes seconds, copying them nothing.
    storage = tmp_path_factory.mktemp("empty")
    open_tracker(storage).close()
    return storage


@pytest.fixture
def storage(tmp_path: Path, empty_storage: Path) -> Path:
    shutil.copy(empty_storage / "mlflow.db", tmp_path)
    # The experiment in the copy must keep its artifacts here, so it is made anew by each test under another name.
    return tmp_path


def open_tracker(storage: Path, **options: Any) -> Tracker:
    warnings: list[str] = []
    tracker = Tracker(uri=database_uri(storage), storage=storage, warn=warnings.append, **options)
    tracker.check()
    assert warnings == []
    return tracker


def runs(storage: Path) -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=database_uri(storage))
    found = client.search_runs([client.get_experiment_by_name("here").experiment_id])
    assert len({run.info.run_name for run in found}) == len(found), "a run was made twice"
    return {run.info.run_name: run for run in found}


def artifact(run: Any, path: str) -> str:
    return Path(run.info.artifact_uri.removeprefix("file://"), path).read_text()


@pytest.mark.integration
def test_a_search_is_recorded_with_its_trials(storage: Path) -> None:
    tracker = open_tracker(storage, experiment="here")
    tracker.start_search("digits", {"num_trials": 2, "objective": "macs_kept"}, "data: digits\n", SEARCH)
    tracker.log_teacher(TeacherResult(val_accuracy=0.99, macs=2000, params=50, seconds=3.0), [epoch(1), epoch(2)])
    tracker.start_trial(0, {"temperature": 4.0})
    tracker.log_epoch(0, epoch(1))
    tracker.log_epoch(0, epoch(2, val_accuracy=0.85))
    candidates = (candidate(0, 1), candidate(0, 2))
    tracker.finish_trial(0, candidates, "finished")
    tracker.start_trial(1, {"temperature": 2.0})
    tracker.finish_trial(1, (), "failed", "stage cascade, level 1: loss is NaN")
    (storage / "front.png").write_bytes(b"picture")
    view = FrontView(
        candidates=candidates,
        front=candidates[::-1],
        knee=candidates[1],
        teacher_val_accuracy=0.99,
        objectives=("val_accuracy", "macs_kept"),
    )
    tracker.log_front(view, hypervolume=0.7, num_trials=1, figures=[storage / "front.png"])
    tracker.finish("finished")
    tracker.close()

    found = runs(storage)
    search, first, second = found["digits"], found["trial 0"], found["trial 1"]
    assert [run.info.status for run in (search, first, second)] == ["FINISHED", "FINISHED", "FAILED"]
    assert search.data.params == {"num_trials": "2", "objective": "macs_kept"}
    assert search.data.metrics["hypervolume"] == 0.7
    assert search.data.metrics["front_size"] == 2
    assert search.data.metrics["teacher_val_accuracy"] == 0.99
    assert artifact(search, "config.yaml") == "data: digits\n"
    assert artifact(search, "front/front.png") == "picture"
    assert "**0:2** (knee)" in artifact(search, "front/front.md")
    assert json.loads(artifact(search, "front/front.json"))["front"][0]["cascade"] == {"macs_kept": [0.4, 0.2]}
    assert first.data.tags["mlflow.parentRunId"] == search.info.run_id
    # The student's final figures, not the last epoch's nor an assistant's.
    assert first.data.metrics["val_accuracy"] == 0.8
    assert first.data.metrics["val_top5"] == 0.98
    assert first.data.metrics["macs_kept"] == 0.2
    assert first.data.metrics["level_2_val_accuracy"] == 0.85
    assert first.data.metrics["level_1_val_top5"] == 0.97
    assert "level_2_val_top5" not in first.data.metrics, "there is none of five classes or less"
    assert "level_1_train_loss" not in first.data.metrics, "NaN must not be recorded"
    assert len(json.loads(artifact(first, "candidates.json"))) == 2
    assert second.data.tags["cascade.reason"] == "stage cascade, level 1: loss is NaN"
    assert "val_accuracy" not in second.data.metrics


@pytest.mark.integration
def test_resume_after_a_kill_finds_every_run_again(storage: Path) -> None:
    from mlflow import MlflowClient

    killed = open_tracker(storage, experiment="here")
    killed.start_search("digits", {"num_trials": 2}, "num_trials: 2", SEARCH)
    teacher = TeacherResult(val_accuracy=0.99, macs=2000, params=50, seconds=3.0)
    killed.log_teacher(teacher, [epoch(1)])
    for trial in (0, 1, 2):
        killed.start_trial(trial, {"temperature": 4.0})
        killed.log_epoch(trial, epoch(1))
        killed.log_epoch(trial, epoch(2))
    killed.finish_trial(0, (candidate(0, 1),), "finished")
    killed.close()  # and nothing was finished: as a killed driver leaves it
    before = runs(storage)
    assert [before[name].info.status for name in ("digits", "trial 1", "trial 2")] == ["RUNNING"] * 3

    resumed = open_tracker(storage, experiment="here")
    resumed.start_search("digits", {"num_trials": 5, "new": 1}, "num_trials: 5", SEARCH)
    resumed.log_teacher(teacher, [epoch(1)])
    resumed.finish_trial(0, (candidate(0, 1),), "finished")
    resumed.start_trial(1, {"temperature": 4.0})
    resumed.log_epoch(1, epoch(2))  # done twice, as the checkpoint was older
    resumed.log_epoch(1, epoch(3))
    resumed.finish_trial(1, (candidate(1, 1),), "finished")
    resumed.finish("stopped")
    resumed.close()

    found = runs(storage)
    assert {name: run.info.run_id for name, run in found.items()} == {n: run.info.run_id for n, run in before.items()}
    assert {name: run.info.status for name, run in found.items()} == {
        "digits": "KILLED",
        "trial 0": "FINISHED",
        "trial 1": "FINISHED",
        "trial 2": "KILLED",
    }
    assert found["trial 2"].data.tags["cascade.status"] == "interrupted"
    assert found["digits"].data.params == {"num_trials": "2", "new": "1"}
    assert artifact(found["digits"], "config.yaml") == "num_trials: 5"
    client = MlflowClient(tracking_uri=database_uri(storage))
    assert [m.step for m in client.get_metric_history(found["trial 1"].info.run_id, "epoch")] == [1, 2, 3]
    assert len(client.get_metric_history(found["trial 0"].info.run_id, "val_accuracy")) == 1
    assert len(client.get_metric_history(found["digits"].info.run_id, "teacher_val_accuracy")) == 1


@pytest.mark.integration
def test_two_searches_in_one_store_do_not_mix(storage: Path) -> None:
    for search in ("one", "two"):
        tracker = open_tracker(storage, experiment="here")
        tracker.start_search(search, {}, "", search)
        tracker.start_trial(len(search), {})
        tracker.close()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=database_uri(storage))
    assert len(client.search_runs([client.get_experiment_by_name("here").experiment_id])) == 4


@pytest.mark.integration
def test_a_refused_record_is_warned_of_once_and_holds_up_nothing(storage: Path) -> None:
    warnings: list[str] = []
    tracker = Tracker(uri=database_uri(storage), storage=storage, experiment="here", warn=warnings.append)
    tracker.start_search("digits", {}, "", SEARCH)
    tracker.start_trial(0, {"no > such name": 1})
    tracker.start_trial(0, {"no > such name": 1})
    tracker.start_trial(1, {"temperature": 4.0})
    tracker.close()
    assert len(warnings) == 1
    assert "a record was refused" in warnings[0]
    assert "\n" not in warnings[0]
    assert runs(storage)["trial 1"].data.params == {"temperature": "4.0"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def other_server() -> Iterator[int]:
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.integration
def test_dead_address_is_bad_input_and_shows_no_password(tmp_path: Path) -> None:
    port = _free_port()
    tracker = Tracker(uri=f"http://me:s3cret@127.0.0.1:{port}/", storage=tmp_path, warn=print)
    with pytest.raises(InputError, match=rf"http://127\.0\.0\.1:{port}/ does not work: .*refused; start an") as raised:
        tracker.check()
    assert "s3cret" not in str(raised.value)
    tracker.close()


@pytest.mark.integration
def test_another_kind_of_server_is_bad_input(tmp_path: Path, other_server: int) -> None:
    tracker = Tracker(uri=f"http://127.0.0.1:{other_server}", storage=tmp_path, warn=print)
    with pytest.raises(InputError, match=r"does not work"):
        tracker.check()
    tracker.close()


@pytest.mark.integration
@pytest.mark.parametrize("uri", ["nonsense://x", "file:///nowhere", "sqlite:////proc/none/mlflow.db"])
def test_unusable_addresses_are_bad_input(tmp_path: Path, uri: str) -> None:
    tracker = Tracker(uri=uri, storage=tmp_path, warn=print)
    with pytest.raises(InputError, match=r"^tracking address .* does not work: .+; start an MLflow server") as raised:
        tracker.check()
    assert "\n" not in str(raised.value)
    tracker.close()


@pytest.mark.integration
def test_server_that_is_gone_costs_one_warning_and_never_raises(tmp_path: Path) -> None:
    warnings: list[str] = []
    tracker = Tracker(uri=f"http://127.0.0.1:{_free_port()}", storage=tmp_path, warn=warnings.append)
    tracker.start_search("digits", {}, "", SEARCH)
    for trial in range(5):
        tracker.start_trial(trial, {})
    tracker.finish("failed")
    tracker.close()
    assert len(warnings) == 2
    assert "does not answer" in warnings[0]
    assert "7 records could not be sent" in warnings[1]


@pytest.mark.integration
def test_trials_that_ended_untold_are_told_on_resume(storage: Path) -> None:
    killed = open_tracker(storage, experiment="here")
    killed.start_search("digits", {}, "data: digits", SEARCH)
    for trial in (0, 1):
        killed.start_trial(trial, {"temperature": 4.0})
        killed.log_epoch(trial, epoch(1))
    killed.finish_trial(0, (candidate(0, 1),), "finished")
    killed.close()  # the rest never went out
    asked: list[int] = []

    def closed(number: int) -> ClosedTrial:
        asked.append(number)
        candidates = () if number == 2 else (candidate(number, 1),)
        return ClosedTrial(parameters={"temperature": 4.0}, candidates=candidates, reason="diverged")

    resumed = open_tracker(storage, experiment="here")
    resumed.start_search("digits", {}, "data: digits", SEARCH)
    resumed.settle({0: "finished", 1: "finished", 2: "failed"}, closed)
    resumed.finish("finished", "num_trials: 3 trials have ended")
    resumed.close()
    found = runs(storage)
    assert asked == [1, 2]
    assert {name: run.info.status for name, run in found.items()} == {
        "digits": "FINISHED",
        "trial 0": "FINISHED",
        "trial 1": "FINISHED",
        "trial 2": "FAILED",
    }
    assert found["trial 1"].data.metrics["val_accuracy"] == candidate(1, 1).val_accuracy
    assert found["trial 2"].data.params["temperature"] == "4.0"
    assert found["digits"].data.tags["cascade.reason"] == "num_trials: 3 trials have ended"


@pytest.mark.integration
def test_server_that_is_killed_and_comes_back_has_every_record(storage: Path) -> None:
    port = _free_port()
    warnings: list[str] = []
    noticed = threading.Event()

    def warn(text: str) -> None:
        warnings.append(text)
        noticed.set()

    tracker = Tracker(uri=f"http://127.0.0.1:{port}", storage=storage, experiment="here", warn=warn)
    with serve(storage, port=port):
        tracker.check()
        tracker.start_search("digits", {}, "data: digits", SEARCH)
        tracker.start_trial(0, {"temperature": 4.0})
        tracker.log_epoch(0, epoch(1))
    for number in (2, 3):
        tracker.log_epoch(0, epoch(number))
    tracker.start_trial(1, {"temperature": 2.0})
    assert noticed.wait(30)
    with serve(storage, port=port):
        tracker.finish_trial(0, (candidate(0, 1),), "finished")
        tracker.finish("finished")
        tracker.close()

    assert len(warnings) == 1
    found = runs(storage)
    assert {name: run.info.status for name, run in found.items()} == {
        "digits": "FINISHED",
        "trial 0": "FINISHED",
        "trial 1": "KILLED",
    }
    assert artifact(found["digits"], "config.yaml") == "data: digits"
    assert found["trial 0"].data.metrics["epoch"] == 3
    assert found["trial 1"].data.params == {"temperature": "2.0"}


@pytest.mark.integration
def test_deleted_experiment_is_bad_input(storage: Path) -> None:
    from mlflow import MlflowClient

    tracker = open_tracker(storage, experiment="here")
    client = MlflowClient(tracking_uri=database_uri(storage))
    client.delete_experiment(client.get_experiment_by_name("here").experiment_id)
    with pytest.raises(InputError, match=r"experiment 'here' was deleted"):
        tracker.check()
    tracker.close()


def test_address_comes_from_the_config_then_the_environment_then_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def address(uri: str | None) -> str:
        tracker = Tracker(uri=uri, storage=tmp_path, warn=print)
        tracker.close()
        return tracker.address

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
def test_credentials_are_never_shown(uri: str, shown: str) -> None:
    assert without_credentials(uri, uri) == shown
    assert without_credentials(f"cannot open {uri}: 'p@ss' is wrong", uri) == f"cannot open {shown}: '***' is wrong"


@pytest.mark.parametrize("uri", ["sqlite:////home/me/mlflow.db", "http://host:5000", "databricks"])
def test_addresses_without_credentials_stay_as_they_are(uri: str) -> None:
    assert without_credentials(uri, uri) == uri


def test_records_wait_for_a_store_that_is_down_and_keep_their_order() -> None:
    down, sent = [True, True, True], []
    warnings: list[str] = []
    delivered = threading.Event()

    def probe() -> None:
        if down:
            raise ConnectionError("refused")

    def send(number: int) -> None:
        if down:
            down.pop()
            raise ConnectionError("refused")
        sent.append(number)
        if number == 2:
            delivered.set()

    thread = DeliveryThread(probe=probe, warn=warnings.append, first_delay_seconds=0.001)
    for number in range(3):
        thread.put(lambda number=number: send(number))  # type: ignore[misc]
    assert delivered.wait(10)
    thread.close(10)
    assert sent == [0, 1, 2]
    assert warnings == ["it does not answer; records are kept and sent when it does again"]


def test_closing_takes_no_longer_than_its_limit() -> None:
    held = threading.Event()
    warnings: list[str] = []
    thread = DeliveryThread(probe=lambda: None, warn=warnings.append)
    thread.put(lambda: (held.wait(), None)[1])
    thread.put(lambda: None)
    thread.close(0.01)
    held.set()
    assert warnings == ["2 records could not be sent and are lost"]
