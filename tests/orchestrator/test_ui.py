"""The pages over tracked searches: a real server in a real process, and what is wrong before one is started."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from orchestrator.experiment.config import Experiment
from orchestrator.tracking import Tracker, records
from orchestrator.ui import open_ui
from tests.ports import free_port
from trainables.errors import InputError


def test_folder_without_a_tracked_search_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no search has been tracked in .*; run cascade search first"):
        open_ui(tmp_path, port=free_port(), say=lambda _: None)


def test_folder_whose_searches_are_tracked_at_a_server_is_bad_input_which_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, uri in (("one", "http://me:s3cret@host:5000"), ("two", "http://host:5000"), ("begun", None)):
        tracker = Tracker(uri=uri, storage=tmp_path, warn=print)
        tracker.start_search(name, {}, "", f"id-{name}")
        tracker.close()
        if uri is not None:
            (tmp_path / name / "experiment.yaml").write_text(Experiment(tracking={"uri": uri}).to_yaml())
    said = (
        rf"what {tmp_path} holds is tracked at http://host:5000; look there, or .* --uri sqlite:///{tmp_path}/mlflow.db"
    )
    with pytest.raises(InputError, match=said):
        open_ui(tmp_path, port=free_port(), say=lambda _: None)


def test_bucket_of_which_nothing_was_tracked_here_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASCADE_CACHE", str(tmp_path))
    said = rf"is s3://b/p, a bucket, and no .* in {tmp_path}/\w+, this machine's copy .* by cascade sync NAME --again$"
    with pytest.raises(InputError, match=said):
        open_ui("s3://b/p", port=free_port(), say=lambda _: None)


def test_folder_that_cannot_be_written_to_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").touch()
    monkeypatch.setattr("orchestrator.ui.os.access", lambda path, _: path == tmp_path)
    with pytest.raises(InputError, match=r"mlflow\.db cannot be written to, .*; give --storage a copy"):
        open_ui(tmp_path, port=free_port(), say=lambda _: None)


@pytest.mark.integration
def test_runs_and_artifacts_are_served_until_the_terminal_is_closed(tmp_path: Path) -> None:
    storage = tmp_path / "wh?at 100%"
    tracker = Tracker(uri=None, storage=storage, warn=print)
    tracker.check()
    tracker.start_search("digits", {"num_trials": 1}, "data: digits", "id")
    tracker.start_trial(0, {"temperature": 4.0})
    tracker._outbox.put(records.writing("search", "overview.html", "page"))
    tracker.finish("stopped")
    tracker.close()

    (tmp_path / "flask.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')\n")  # nothing of the folder is run
    port = free_port()
    program = f"""
import signal
from pathlib import Path
from orchestrator.ui import open_ui

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that `nohup` runs have it ignored
open_ui(Path({str(storage)!r}), port={port})
"""
    user = subprocess.Popen(
        [sys.executable, "-P", "-u", "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert user.stdout is not None
    try:
        line = next(line for line in user.stdout if line.startswith("all runs: "))
        page = line.removeprefix("all runs: ").strip()
        best = next(user.stdout).removeprefix("best networks: ").strip()
        overview = next(user.stdout).removeprefix("overview of digits: ").strip()
        assert page == f"http://127.0.0.1:{port}/#/experiments/1/runs?workflowType=machine_learning"
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search",
            json.dumps({"experiment_ids": ["1"]}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            runs = {run["info"]["run_name"]: run["info"]["run_id"] for run in json.load(answer)["runs"]}
        assert set(runs) == {"digits", "trial 0 of digits"}
        assert f"/experiments/1/runs/{runs['digits']}/artifacts/overview.html" in overview
        assert "viewStateShareKey=cascade-front" in best
        artifact = f"http://127.0.0.1:{port}/get-artifact?path=config.yaml&run_uuid={runs['digits']}"
        with urllib.request.urlopen(artifact, timeout=30) as answer:
            assert answer.read() == b"data: digits"
        user.send_signal(signal.SIGHUP)  # which raises SIGINT there
        assert user.wait(30) == 0
    finally:
        user.kill()
        user.wait()
        user.stdout.close()
    assert set(tmp_path.iterdir()) == {storage, tmp_path / "flask.py"}
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the server outlived its user"
