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

from orchestrator.tracking import Tracker, records
from orchestrator.ui import _for_url, _known_as, _own_names, found_pages, open_ui, serve
from trainables.errors import InputError


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_folder_without_a_tracked_search_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no search has been tracked in .*; run cascade search first"):
        open_ui(tmp_path, port=_free_port(), say=lambda _: None)


def test_folder_that_cannot_be_written_to_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").touch()
    monkeypatch.setattr("orchestrator.ui.os.access", lambda path, _: path == tmp_path)
    with pytest.raises(InputError, match=r"mlflow\.db cannot be written to, .*; give --storage a copy"):
        open_ui(tmp_path, port=_free_port(), say=lambda _: None)


def test_busy_port_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port} on 127\.0\.0\.1 .*; choose another one with --port"):
            open_ui(tmp_path, port=port, say=lambda _: None)


def test_port_out_of_range_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(InputError, match=r"port 70000"):
        open_ui(tmp_path, port=70000, say=lambda _: None)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # of MLflow's own mapper
def test_other_machines_may_use_every_name_of_this_one_and_strangers_none() -> None:
    from mlflow.server.security_utils import is_allowed_host_header, should_block_cors_request

    names = _own_names("0.0.0.0")
    hosts, origins = (value.split(",") for value in _known_as(names, 5000).values())
    assert socket.gethostname().lower() in names
    for name in (*names, "localhost", "127.0.0.1", "[::1]", "0.0.0.0", "10.1.2.3", "172.31.0.9"):
        address = f"{_for_url(name) if name in names else name}:5000"
        assert is_allowed_host_header(hosts, address)
        if name in names:  # a browser names the page's origin in all that changes or asks for a list
            assert not should_block_cors_request(f"http://{address}", "POST", origins)
    assert not is_allowed_host_header(hosts, "stranger.example:5000")
    assert should_block_cors_request("http://stranger.example:5000", "POST", origins)
    assert _own_names("192.0.2.2") == ["192.0.2.2"]


def test_links_lead_to_pages_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"search": ["young", "done"], "study": ["sent", "kept", "killed"]}
    files = {"young": {"config.yaml"}, "done": {"overview.html"}, "sent": {"report.html"}}

    def latest(_address: str, which: str, _number: int) -> list[object]:
        (names,) = (names for kind, names in kinds.items() if f"'{kind}'" in which)
        return [{"info": {"run_name": name, "run_id": name, "experiment_id": "1"}} for name in names]

    monkeypatch.setattr("orchestrator.ui._latest_runs", latest)
    monkeypatch.setattr("orchestrator.ui._artifacts", lambda _address, run_id: files.get(run_id, set()))
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/report.html").touch()
    assert found_pages("http://here", tmp_path) == {
        "overview of done": "http://here/#/experiments/1/runs/done/artifacts/overview.html?workflowType=machine_learning",
        "report of sent": "http://here/#/experiments/1/runs/sent/artifacts/report.html?workflowType=machine_learning",
        "report of kept": (tmp_path / "kept/report.html").as_uri(),
    }


@pytest.mark.integration
def test_damaged_database_is_told_with_the_servers_words(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(RuntimeError, match=r"not a database"), serve(tmp_path, port=_free_port()):
        pass


@pytest.mark.integration
def test_runs_and_artifacts_are_served_until_the_terminal_is_closed(tmp_path: Path) -> None:
    storage = tmp_path / "wh?at 100%"
    tracker = Tracker(uri=None, storage=storage, warn=print)
    tracker.check()
    tracker.start_search("digits", {"num_trials": 1}, "data: digits", "id")
    tracker.start_trial(0, {"temperature": 4.0})
    tracker._put(records.writing("search", "overview.html", "page"))
    tracker.finish("stopped")
    tracker.close()

    (tmp_path / "flask.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')\n")  # nothing of the folder is run
    port = _free_port()
    program = (
        f"from pathlib import Path; from orchestrator.ui import open_ui; open_ui(Path({str(storage)!r}), port={port})"
    )
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
        assert set(runs) == {"digits", "trial 0"}
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
