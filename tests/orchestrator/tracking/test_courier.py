"""The courier as a process: against real servers that come and go, and when its driver does."""

import contextlib
import http.client
import http.server
import itertools
import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from orchestrator.addresses import database_uri
from orchestrator.searches.folder import SearchFolder
from orchestrator.tracking import Tracker, records
from orchestrator.tracking.sender import WINDOW
from orchestrator.tracking.store import MlflowStore
from orchestrator.tracking.ui_server import serve
from trainables.errors import InputError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),  # of MLflow's own mapper
]


@pytest.fixture
def start(database, warnings):
    """A tracker with a courier of its own."""

    def make(uri=None):
        tracker = Tracker(
            uri=uri or database_uri(database), storage=database, experiment="here", models="none", warn=warnings.append
        )
        tracker.check()
        tracker.start_search("digits", {}, "data: digits", "search-7")
        return tracker

    return make


def test_a_server_that_is_killed_twice_has_every_record_once(
    start, database, runs, warnings, make_epoch, make_candidate, free_port, artifact
):
    noticed = threading.Semaphore(0)
    with serve(database, port=free_port):
        tracker = start(f"http://127.0.0.1:{free_port}")
        tracker._outbox._courier._warn = lambda text: (warnings.append(text), noticed.release())
        tracker.start_trial(0, {"temperature": 4.0})
        tracker.log_epoch(0, make_epoch(1))
    for number in (2, 3):
        tracker.log_epoch(0, make_epoch(number))
    assert noticed.acquire(timeout=60)
    tracker.finish_trial(0, (make_candidate(0, 1),), "finished")
    tracker.start_trial(1, {"temperature": 2.0})
    with serve(database, port=free_port):
        tracker.finish("finished")
        tracker.close()
    assert len(warnings) == 1
    found = runs()
    assert {name: run.info.status for name, run in found.items()} == {
        "digits": "FINISHED",
        "trial 0 of digits": "FINISHED",
        "trial 0 of digits, cascade": "FINISHED",
        "network 0:1 of digits": "FINISHED",
        "trial 1 of digits": "KILLED",
    }
    assert found["trial 0 of digits"].data.metrics["epoch"] == 3
    assert artifact(found["digits"], "config.yaml") == "data: digits"


DRIVER = """
import sys
from pathlib import Path
from orchestrator.tracking import Tracker

tracker = Tracker(uri=None, storage=Path(sys.argv[1]), experiment="here", models="none", warn=print)
tracker.check()
tracker.start_search("digits", {}, "data: digits", "search-7")
tracker.start_trial(0, {"temperature": 4.0})
print(tracker._outbox._courier._process.pid, flush=True)
sys.stdin.readline()
tracker.start_trial(1, {"temperature": 2.0})
print(tracker._outbox._courier._process.pid, flush=True)
sys.stdin.readline()
"""


def test_a_killed_driver_leaves_no_run_running_though_sigterm_went_to_all_processes(database, runs):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    environment.pop("MLFLOW_TRACKING_URI", None)
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(database)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        courier = int(driver.stdout.readline())
        os.kill(courier, signal.SIGTERM)
        ignored = next(line for line in Path(f"/proc/{courier}/status").read_text().split("\n") if "SigIgn" in line)
        assert not int(ignored.split()[1], 16) >> (signal.SIGTERM - 1) & 1, "what it starts would not end by it"
        print(file=driver.stdin, flush=True)
        assert int(driver.stdout.readline()) == courier
    finally:
        driver.kill()
        driver.wait()
        driver.stdin.close()
        driver.stdout.close()
    wait_until_gone(courier)
    found = runs()
    assert {name: run.info.status for name, run in found.items()} == dict.fromkeys(
        ("digits", "trial 0 of digits", "trial 1 of digits"), "KILLED"
    )
    assert found["digits"].data.tags["cascade.reason"] == "the driver ended"


def wait_until_gone(process):
    """Wait for the end of a process that is not ours to wait for."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        file = os.pidfd_open(process)
        try:
            assert select.select([file], [], [], 60)[0], "the courier outlived its driver"
        finally:
            os.close(file)


def test_a_courier_that_dies_is_started_again_and_nothing_is_lost(start, runs, warnings):
    tracker = start()
    first = tracker._outbox._courier._process
    tracker.start_trial(0, {})
    first.kill()
    first.wait()
    while tracker._outbox._courier._process is first:
        time.sleep(0.01)
    tracker.start_trial(1, {})
    tracker.finish("finished")
    tracker.close()
    assert set(runs()) == {"digits", "trial 0 of digits", "trial 1 of digits"}
    assert warnings == []


def test_who_does_not_wait_for_many_records_has_them_sent_all_the_same(start, runs, warnings, make_epoch, monkeypatch):
    def interrupted(timeout_seconds):
        raise KeyboardInterrupt

    tracker = start()
    courier = tracker._outbox._courier
    tracker.start_trial(0, {})
    tracker._outbox.put(*(records.logging("trial/0", [("epoch", number, number)]) for number in range(3 * WINDOW)))
    tracker.finish("finished")
    monkeypatch.setattr(courier, "_wait", interrupted)
    tracker.close()
    courier._reader.join(60)
    courier._log.close()
    assert courier._process.returncode == 0
    assert runs()["trial 0 of digits"].data.metrics["epoch"] == 3 * WINDOW - 1
    left, waiting = sorted(warnings, key=lambda text: "on their way" in text)
    assert left.endswith("what is left is sent in the background")
    assert waiting.endswith("records are on their way; Ctrl-C ends the wait, and they are sent all the same")


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes requests on to a server, but for those that the test wants to fail."""

    protocol_version = "HTTP/1.1"
    server: "http.server.ThreadingHTTPServer"

    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status = self.server.fails(self.path, body)
        answer = b'{"message": "upstream connect error"}'
        if status is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.server.behind)
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")
            }
            connection.request(self.command, self.path, body, headers)
            with contextlib.closing(connection), connection.getresponse() as response:
                status, answer = response.status, response.read()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def proxy(free_port):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        server.behind, server.fails = free_port, lambda path, body: None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_what_a_proxy_does_not_let_through_arrives_when_it_does(
    database, runs, proxy, tracker, make_sender, warnings, make_epoch, make_candidate, monkeypatch
):
    monkeypatch.setattr("orchestrator.tracking.sender.sleep", lambda seconds: None)
    for trial in range(2):
        tracker.start_trial(trial, {"temperature": 4.0})
        tracker.log_epoch(trial, make_epoch(1))
        tracker.finish_trial(trial, (make_candidate(trial, 1),), "finished")
    tracker.finish("finished")
    statuses = itertools.cycle((None, 503, None, 413, None))

    def fails(path, body):
        if path.endswith("runs/create") and b'"trial 1 of digits"' in body:
            return 503
        return next(statuses) if path.endswith(("runs/create", "log-batch", "runs/update")) else None

    with serve(database, port=proxy.behind):
        store = MlflowStore(uri=f"http://127.0.0.1:{proxy.server_port}", storage=database, experiment="here")
        store.require()
        proxy.fails = fails
        sender = make_sender(store)
        assert sender.send(most_failures=math.inf)
        assert not sender.send_aside()
        there = {name: run.info.status for name, run in runs().items()}
        names = ("digits", "trial 0 of digits", "trial 0 of digits, cascade", "network 0:1 of digits")
        assert there == dict.fromkeys(names, "FINISHED")
        assert sender.left().num_waiting > 5
        assert "503" in sender.left().cause
        proxy.fails = lambda path, body: None
        sender = make_sender(store)
        assert sender.send()
        assert sender.send_aside()
    assert (sender.left().num_waiting, sender.num_left_out) == (0, 0)
    found = runs()
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert len(found) == 7
    assert [found[f"trial {trial} of digits"].data.metrics["epoch"] for trial in range(2)] == [1, 1]
    assert found["trial 1 of digits"].data.params == {"temperature": "4.0"}
    nested = found["network 1:1 of digits"].data.tags["mlflow.parentRunId"]
    assert nested == found["trial 1 of digits"].info.run_id
    assert not [said for said in warnings if "left out" in said or "was refused" in said]


@pytest.fixture
def other_server():
    """Speaks HTTP, and knows nothing of MLflow."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_kind_of_server_is_bad_input(tmp_path, other_server):
    tracker = Tracker(uri=f"http://me:s3cret@127.0.0.1:{other_server}", storage=tmp_path, warn=print)
    with pytest.raises(InputError, match=r"does not work") as raised:
        tracker.check()
    assert "s3cret" not in str(raised.value)
    assert "\n" not in str(raised.value)
    tracker.close()
    assert not list(tmp_path.iterdir())


def test_a_courier_that_is_not_to_begin_makes_nothing(tmp_path):
    order = {"uri": database_uri(tmp_path), "storage": str(tmp_path), "experiment": "here", "sync": "cascade sync"}
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.tracking"],
        input=json.dumps(order) + "\n",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
    assert not list(tmp_path.iterdir())


def test_what_nobody_asked_for_is_said_in_the_end(tmp_path, free_port, warnings):
    sync = SearchFolder(storage=Path("my runs"), name="digits").sync_command
    tracker = Tracker(uri=f"http://127.0.0.1:{free_port}", storage=tmp_path, sync=sync, warn=warnings.append)
    tracker.prepare()
    tracker.join_search("digits", "search-7")
    tracker.log_confirmed("[]")
    tracker.close()
    assert len(warnings) == 1
    assert "does not work" in warnings[0]
    assert (
        "records wait in the search's folder, and `cascade sync digits --storage 'my runs'` sends them" in warnings[0]
    )


def test_what_was_not_sent_is_synced_later(database, runs, free_port, warnings, capsys):
    from orchestrator.commands import sync_search
    from orchestrator.experiment.config import Experiment

    dead = f"http://127.0.0.1:{free_port}"
    tracker = Tracker(uri=dead, storage=database, experiment="here", warn=warnings.append)
    tracker.start_search("digits", {}, "data: digits", "search-7")
    tracker.start_trial(0, {"temperature": 4.0})
    tracker._outbox.put(records.logging("trial/0", tags={"no name?": "refused"}))
    tracker.close()  # the driver was killed before anything was sent
    experiment = Experiment(tracking={"experiment": "here", "models": "none"})
    (database / "digits/experiment.yaml").write_text(experiment.to_yaml())
    (database / "digits/search-id").write_text("search-7")
    with pytest.raises(InputError, match="does not work"):
        sync_search("digits", storage=database, uri=dead, again=False, format="text")
    assert sync_search("digits", storage=database, uri=None, again=False, format="json") == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["left_out"], first["waiting"]) == (1, 0)
    assert first["sent"] > 3
    assert {run.info.status for run in runs().values()} == {"KILLED"}
    assert sync_search("digits", storage=database, uri=None, again=False, format="text") == 0
    said = capsys.readouterr().out
    assert said.startswith("digits: 0 records sent to sqlite:///")
    assert said.endswith("; nothing waits\n")
    assert "left out" not in said
    assert sync_search("digits", storage=database, uri=None, again=True, format="text") == 0
    said = capsys.readouterr().out
    assert "digits: 0 records" not in said
    assert said.endswith("; 1 record left out; nothing waits\n")
    assert len(runs()) == 2


def test_a_storage_folder_is_brought_up_to_date_but_for_what_runs_or_is_tracked_elsewhere(database, runs, warnings):
    from orchestrator.experiment.config import Experiment
    from orchestrator.searches.folder import SearchFolder
    from orchestrator.tracking.syncing import sync_storage

    for name, uri in (("digits", None), ("busy", None), ("away", "http://127.0.0.1:9")):
        tracker = Tracker(uri=uri, storage=database, experiment="here", warn=warnings.append)
        tracker.start_search(name, {}, "data: digits", f"id-{name}")
        tracker.close()  # the driver was killed
        experiment = Experiment(tracking={"experiment": "here", "models": "none", "uri": uri})
        (database / name / "experiment.yaml").write_text(experiment.to_yaml())
        (database / name / "search-id").write_text(f"id-{name}")
    with SearchFolder(storage=database, name="busy").locked():
        sync_storage(database, warn=warnings.append)
    assert {name: run.info.status for name, run in runs().items()} == {"digits": "KILLED"}
    assert warnings == []


def test_what_a_killed_study_left_is_sent_as_a_studys(database, warnings, capsys, make_result):
    from mlflow import MlflowClient

    from orchestrator.commands import sync_search
    from orchestrator.evidence.results import study_id
    from orchestrator.storage.locks import locked
    from orchestrator.tracking.syncing import sync_storage

    folder = database / "arms"
    for name in ("arms", "busy"):
        tracker = Tracker(uri=None, storage=database, warn=warnings.append)
        tracker.start_search(name, {"arms": "one, two"}, "arms: {}", study_id(database / name), kind="study")
        tracker.log_runs([make_result("a", arm="one")])
        tracker.close()  # the driver was killed
        (database / name / "results.jsonl").touch()
    with locked(database / "busy", "study"):
        sync_storage(database, warn=warnings.append)
    assert warnings == []
    client = MlflowClient(tracking_uri=database_uri(database))
    found = client.search_runs([client.get_experiment_by_name("cascade").experiment_id])
    assert {run.info.run_name: (run.data.tags["cascade.kind"], run.info.status) for run in found} == {
        "arms": ("study", "KILLED"),
        "one, size 0.1, seed 1": ("run", "FINISHED"),
    }
    (study,) = (run for run in found if run.info.run_name == "arms")
    assert study.data.tags["mlflow.source.name"] == "cascade study"
    assert sync_search("arms", storage=database, uri=None, again=False, format="text") == 0
    assert capsys.readouterr().out.startswith("arms: 0 records sent to sqlite:///")
    (folder / "tracking/spool.jsonl").unlink()
    with pytest.raises(InputError, match="study 'arms' has recorded nothing yet; run it by cascade study"):
        sync_search("arms", storage=database, uri=None, again=False, format="text")


def test_another_study_of_the_same_name_is_another_in_mlflow(database, warnings, make_result):
    from mlflow import MlflowClient

    from orchestrator.evidence.results import study_id
    from orchestrator.tracking.syncing import sync_storage

    folder = database / "arms"
    for arm, accuracy in (("one", 0.9), ("two", 0.5)):
        shutil.rmtree(folder, ignore_errors=True)
        tracker = Tracker(uri=None, storage=database, warn=warnings.append)
        tracker.start_search("arms", {"arms": arm}, "arms: {}", study_id(folder), kind="study")
        tracker.log_runs([make_result("a", arm=arm, test_accuracy=accuracy)])
        tracker.finish("finished")
        tracker.close()
        (folder / "results.jsonl").touch()
        moved = folder.rename(database / "moved")  # which changes nothing
        sync_storage(database, warn=warnings.append)
        moved.rename(folder)
    assert warnings == []
    client = MlflowClient(tracking_uri=database_uri(database))
    found = client.search_runs([client.get_experiment_by_name("cascade").experiment_id])
    told = [(run.data.params["arm"], run.data.metrics["test_accuracy"]) for run in found if "arm" in run.data.params]
    assert sorted(told) == [("one", 0.9), ("two", 0.5)]
    assert sorted(run.data.params["arms"] for run in found if "arms" in run.data.params) == ["one", "two"]


def test_a_study_of_an_earlier_version_keeps_the_id_that_its_records_are_under(tmp_path):
    from orchestrator.evidence.results import study_id
    from trainables.identity import digest

    new, earlier = tmp_path / "new", tmp_path / "earlier"
    for folder in (new, earlier):
        (folder / "tracking").mkdir(parents=True)
    (earlier / "tracking/spool.jsonl").touch()
    assert study_id(earlier) == study_id(earlier) == digest({"study": str(earlier)})
    assert study_id(new) == study_id(new) != digest({"study": str(new)})


def test_what_cannot_be_synced_is_said(database):
    from orchestrator.commands import sync_search
    from orchestrator.experiment.config import Experiment

    with pytest.raises(InputError, match="there is no search 'nothing'"):
        sync_search("nothing", storage=database, uri=None, again=False, format="text")
    (database / "new").mkdir()
    (database / "new/experiment.yaml").write_text(Experiment().to_yaml())
    with pytest.raises(InputError, match="search 'new' has recorded nothing yet"):
        sync_search("new", storage=database, uri=None, again=False, format="text")


def test_where_the_reason_is_known_nothing_is_said_of_time(tmp_path, warnings):
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 1000)
    tracker = Tracker(uri=database_uri(tmp_path), storage=tmp_path, experiment="here", warn=warnings.append)
    with pytest.raises(InputError, match=r"mlflow\.db is damaged"):
        tracker.check()
    assert warnings == []
