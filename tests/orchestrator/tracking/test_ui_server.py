"""MLflow's server over tracked searches: what is wrong before it is started, and by which names it goes."""

import socket
from pathlib import Path

import pytest

from orchestrator.tracking.ui_server import _known_as, for_url, own_names, serve
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
