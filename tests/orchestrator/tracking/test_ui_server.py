"""MLflow's server over tracked searches: what is wrong before it is started, and by which names it goes."""

import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from orchestrator.tracking import Tracker
from orchestrator.tracking.ui_server import UiServer, _known_as, for_url, own_names, serve
from trainables.errors import InputError


def test_busy_port_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = rf"port {port} on 127\.0\.0\.1 .*; choose another one with --port"
        with pytest.raises(InputError, match=message), serve(tmp_path, port=port):
            pass


def test_port_out_of_range_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(InputError, match=r"port 70000"), serve(tmp_path, port=70000):
        pass


@contextmanager
def stranger(port: int, asked: Callable[[], None]) -> Iterator[int]:
    """A server of somebody else's that says of every page that all is well; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            asked()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_an_answer_of_another_server_on_the_port_is_not_taken_for_its_own() -> None:
    program = "import sys; sys.stdin.read(); sys.exit('bind: address already in use')"
    with tempfile.TemporaryFile() as log:
        own = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=log)
        assert own.stdin is not None
        with stranger(0, asked=own.stdin.close) as port:  # the own one ends once the stranger was asked
            message = rf"^port {port} on 127\.0\.0\.1 cannot be .* \(Address already in use\); .* with --port$"
            with pytest.raises(InputError, match=message):
                UiServer("127.0.0.1", port, own, log, mark="own").wait_until_healthy(60)


@pytest.mark.integration
def test_a_port_that_is_taken_while_the_server_starts_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    tracker = Tracker(uri=None, storage=tmp_path, warn=print)
    tracker.check()  # which makes the database
    tracker.close()
    monkeypatch.setattr("orchestrator.tracking.ui_server._require_free", lambda host, port: None)
    with (
        stranger(free_port, asked=lambda: None),
        pytest.raises(InputError, match=rf"^port {free_port} on 127.*; choose another one with --port$"),
        serve(tmp_path, port=free_port),
    ):
        pass


@pytest.mark.parametrize("host", ["nonsense.invalid", "192.0.2.1"])
def test_what_is_no_address_of_this_machine_is_bad_input(tmp_path: Path, host: str) -> None:
    (tmp_path / "mlflow.db").touch()
    message = rf"--host is '{host}', but must be an address or a name of this machine \(.*\); give one, 127.0.0.1 say"
    with pytest.raises(InputError, match=message), serve(tmp_path, port=5000, host=host):
        pass


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # of MLflow's own mapper
def test_other_machines_may_use_every_name_of_this_one_and_strangers_none() -> None:
    from mlflow.server.security_utils import is_allowed_host_header, should_block_cors_request

    names = own_names("0.0.0.0")
    hosts, origins = (value.split(",") for value in _known_as(names, 5000).values())
    assert socket.gethostname().lower() in names
    for name in (*names, "localhost", "127.0.0.1", "[::1]", "0.0.0.0", "10.1.2.3", "172.31.0.9"):
        address = f"{for_url(name) if name in names else name}:5000"
        assert is_allowed_host_header(hosts, address)
        if name in names:  # a browser names the page's origin in all that changes or asks for a list
            assert not should_block_cors_request(f"http://{address}", "POST", origins)
    assert not is_allowed_host_header(hosts, "stranger.example:5000")
    assert should_block_cors_request("http://stranger.example:5000", "POST", origins)
    assert own_names("192.0.2.2") == ["192.0.2.2"]


@pytest.mark.integration
def test_damaged_database_is_told_with_the_servers_words(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(RuntimeError, match=r"not a database"), serve(tmp_path, port=free_port):
        pass


@pytest.mark.integration
def test_a_server_ends_with_who_started_it_even_if_that_is_killed(database: Path, free_port: int) -> None:
    scratch = database / "scratch"
    scratch.mkdir()
    program = (
        "import sys; from pathlib import Path; from orchestrator.tracking.ui_server import serve\n"
        "with serve(Path(sys.argv[1]), port=int(sys.argv[2])) as server:\n"
        "    print(server._process.pid, flush=True); server.wait()"
    )
    user = subprocess.Popen(
        [sys.executable, "-c", program, str(database), str(free_port)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(scratch), "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert user.stdout is not None
    try:
        leader = os.pidfd_open(int(user.stdout.readline()))
    finally:
        user.kill()
        user.wait()
        user.stdout.close()
    try:
        assert select.select([leader], [], [], 60)[0], "the server outlived its user"
    finally:
        os.close(leader)
    assert list(scratch.iterdir()) == []
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", free_port)) != 0
