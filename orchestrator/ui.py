"""MLflow's pages over the searches in a folder: a server of our own, started, shown and ended."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from orchestrator.addresses import database_file, database_uri
from orchestrator.evidence.folder import REPORT
from orchestrator.signals import terminated_as_interrupted
from orchestrator.tracking.moved import follow_move
from orchestrator.tracking.spool import FOLDER
from orchestrator.tracking.views import VIEWS
from trainables.errors import InputError

_EVERYWHERE = ("0.0.0.0", "::")  # all interfaces
_PAGES = (("search", "overview", "overview.html"), ("study", "report", REPORT))


def open_ui(storage: Path, *, port: int, host: str = "127.0.0.1", say: Callable[[str], None] = print) -> None:
    """Serve the tracked searches until Ctrl-C, and say where to look.

    Args:
        storage: folder of the searches, with the `mlflow.db` in it.
        port: TCP port to listen on.
        host: network interface to listen on; the default is for this machine alone.
        say: takes the lines for people.

    Raises:
        InputError: as `serve`, or if the folder cannot be written to.
        RuntimeError: as `serve`, or if the server ends by itself.
    """
    _require_writable(storage)
    _bring_up_to_date(storage, say)
    # The server's block is the innermost: it ends the server before the interrupt is taken.
    with (
        terminated_as_interrupted(signal.SIGHUP),  # of a terminal that is closed: the server has a session of its own
        contextlib.suppress(KeyboardInterrupt),
        serve(storage, port=port, host=host, say=say) as server,
    ):
        say(f"all runs: {runs_page(server.address)}")
        say(f"best networks: {best_page(server.address)}")
        for what, page in found_pages(server.address, storage).items():
            say(f"{what}: {page}")
        if not _is_loopback(host):
            say(f"from other machines: http://{_for_url(_own_names(host)[0])}:{port}")
        say("Ctrl-C ends it")
        server.wait()


def _require_writable(storage: Path) -> None:
    for needed in (storage, storage / "mlflow.db"):
        if needed.exists() and not os.access(needed, os.W_OK):
            raise InputError(
                f"{needed} cannot be written to, as MLflow does to serve it; give --storage a copy of the folder, or "
                "change its permissions"
            )


def _bring_up_to_date(storage: Path, say: Callable[[str], None]) -> None:
    """Find artifacts again where the folder was moved, and send what killed searches and studies have left."""
    with contextlib.suppress(sqlite3.Error):  # which the server tells of
        follow_move(storage)
    if any(storage.glob(f"*/{FOLDER}/spool.jsonl")):
        from orchestrator.tracking.syncing import sync_storage

        sync_storage(storage, warn=say)


class UiServer:
    """A running MLflow server."""

    def __init__(self, address: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        """Hold what was started.

        Args:
            address: such as `http://127.0.0.1:5000`.
            process: leader of the server's process group.
            log: what it writes.
        """
        self.address = address
        self._process = process
        self._log = log

    def wait_until_healthy(self, timeout_seconds: float) -> None:
        """Wait until it answers.

        Raises:
            RuntimeError: if it ends or does not answer in time, with the end of its log.
        """
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"MLflow did not start, exit code {self._process.returncode}: {self._tail()}")
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=2):
                return
            time.sleep(0.2)
        raise RuntimeError(f"MLflow did not answer at {self.address} within {timeout_seconds:g} s: {self._tail()}")

    def wait(self) -> None:
        """Wait until it ends by itself.

        Raises:
            RuntimeError: when it did, with the end of its log.
        """
        self._process.wait()
        raise RuntimeError(f"MLflow ended with exit code {self._process.returncode}: {self._tail()}")

    def stop(self, timeout_seconds: float = 10.0) -> None:
        """End the whole process group that was started, by force after the timeout."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_seconds)
        self._log.close()

    def _tail(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return " | ".join(lines[-5:]) or "it wrote nothing"


@contextlib.contextmanager
def serve(
    storage: Path,
    *,
    port: int,
    host: str = "127.0.0.1",
    timeout_seconds: float = 180.0,
    say: Callable[[str], None] = lambda _text: None,
) -> Iterator[UiServer]:
    """Run an MLflow server over the tracked searches, healthy inside the block and ended after it.

    Args:
        storage: folder of the searches, with the `mlflow.db` in it.
        port: TCP port to listen on.
        host: network interface to listen on.
        timeout_seconds: how long its start may take; half a minute is usual on a busy machine.
        say: told once the server is being started.

    Raises:
        InputError: if nothing was tracked in the folder, or the port cannot be had.
        RuntimeError: if the server does not come up, with the end of its log.
    """
    database = database_file(storage)
    if not database.is_file():
        raise InputError(f"no search has been tracked in {storage}; run cascade search first, or name its folder")
    _require_free(host, port)
    say(f"starting MLflow over {storage} …")
    environment = os.environ | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    if not _is_loopback(host):
        environment = _known_as(_own_names(host), port) | environment
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database_uri(storage)]
    command += ["--default-artifact-root", (database.parent / "mlartifacts").as_uri()]
    # It looks for modules where it runs, which is not to be a folder that may have been sent to the user.
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as empty:
        # A group of its own: its workers end with it, and Ctrl-C reaches us alone.
        process = subprocess.Popen(
            command,
            cwd=empty,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        server = UiServer(f"http://{_for_browser(host)}:{port}", process, log)
        try:
            server.wait_until_healthy(timeout_seconds)
            yield server
        finally:
            server.stop()


def runs_page(address: str) -> str:
    """Where to look: the runs of the experiment that was last worked on.

    A fresh browser would otherwise show MLflow's pages for language models.

    Args:
        address: of a running server, such as `http://127.0.0.1:5000`.
    """
    runs = _latest_runs(address, "", 1)
    place = f"/experiments/{runs[0]['info']['experiment_id']}/runs" if runs else "/experiments"
    return f"{address}/#{place}?workflowType=machine_learning"


def best_page(address: str) -> str:
    """Where the networks of all fronts are, the most accurate first.

    Args:
        address: of a running server, such as `http://127.0.0.1:5000`.
    """
    runs = _latest_runs(address, "", 1)
    return address + VIEWS["front"].place(runs[0]["info"]["experiment_id"]) if runs else f"{address}/#/experiments"


def found_pages(address: str, storage: Path) -> dict[str, str]:
    """Pages on what the latest searches and studies found, by what they are, the newest first.

    Args:
        address: of a running server, such as `http://127.0.0.1:5000`.
        storage: folder of the searches; a study's report may lie in it alone.
    """
    pages: dict[str, str] = {}
    for kind, what, file in _PAGES:
        for run in _latest_runs(address, f"tags.`cascade.kind` = '{kind}'", 5):
            info = run["info"]
            about, page = f"{what} of {info['run_name']}", ""
            if file in _artifacts(address, info["run_id"]):
                place = f"/experiments/{info['experiment_id']}/runs/{info['run_id']}/artifacts/{file}"
                page = f"{address}/#{place}?workflowType=machine_learning"
            elif kind == "study" and (storage / info["run_name"] / file).is_file():
                page = (storage.resolve() / info["run_name"] / file).as_uri()
            if page:
                pages.setdefault(about, page)
    return pages


def _artifacts(address: str, run_id: str) -> set[str]:
    """Files of a run, without those in folders; none where their store does not answer."""
    try:
        with urllib.request.urlopen(f"{address}/api/2.0/mlflow/artifacts/list?run_id={run_id}", timeout=30) as answer:
            return {file["path"] for file in json.load(answer).get("files", [])}
    except OSError:
        return set()


def _latest_runs(address: str, which: str, number: int) -> list[Any]:
    experiments = _post(f"{address}/api/2.0/mlflow/experiments/search", {"max_results": 1000}).get("experiments", [])
    ids = [experiment["experiment_id"] for experiment in experiments]
    query = {
        "experiment_ids": ids,
        "filter": which,
        "order_by": ["attributes.start_time DESC"],
        "max_results": number,
    }
    runs: list[Any] = _post(f"{address}/api/2.0/mlflow/runs/search", query).get("runs", []) if ids else []
    return runs


def _post(url: str, content: object) -> Any:  # noqa: ANN401 - JSON
    request = urllib.request.Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def _require_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are just closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise InputError(
                f"port {port} on {host} cannot be listened on ({error}); choose another one with --port"
            ) from error


def _for_browser(host: str) -> str:
    if host in _EVERYWHERE:  # which is no address to go to
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"
    return _for_url(host)


def _for_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _own_names(host: str) -> list[str]:
    """Names and addresses by which other machines may reach an interface of this one, the first for people."""
    if host not in _EVERYWHERE:
        return [host]
    names = [socket.gethostname(), socket.getfqdn()]
    with contextlib.suppress(OSError):
        names += [str(info[4][0]) for info in socket.getaddrinfo(names[0], None, type=socket.SOCK_STREAM)]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outwards:
        outwards.connect(("192.0.2.1", 9))  # sends nothing; it says which address others would see
        names.append(outwards.getsockname()[0])
    return list(dict.fromkeys(name.lower() for name in names))


def _known_as(names: Sequence[str], port: int) -> dict[str, str]:
    """Settings by which MLflow takes these for names of its own, beside those that it takes by itself.

    It refuses others, so that no page of a stranger's can have a browser ask or change anything here.
    """
    urls = [f"{_for_url(name)}:{port}" for name in names]
    private = ["10.*", "192.168.*", *(f"172.{second}.*" for second in range(16, 32)), "fc00:*", "fd00:*"]
    local = [f"{_for_url(name)}:{port}" for name in ("localhost", "127.0.0.1", "::1", "0.0.0.0")]
    return {
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join([*urls, *map(_for_url, names), *local, *private]),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{url}" for url in urls),
    }
