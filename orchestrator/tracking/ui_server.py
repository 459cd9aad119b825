"""A server of MLflow's over the searches in a folder: started, known by this machine's names, and ended."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from orchestrator.addresses import database_file, database_uri
from orchestrator.searches.layout import ARTIFACTS
from trainables.errors import InputError

_EVERYWHERE = ("0.0.0.0", "::")  # all interfaces
_PROCESS = Path(__file__).with_name("ui_process.py")
_START_SECONDS = 180.0  # half a minute is usual on a busy machine
_MARK = "X-Cascade-Server"  # header of all answers, by which a server is told from others on its port


class UiServer:
    """A running MLflow server."""

    def __init__(self, host: str, port: int, process: subprocess.Popen[bytes], log: IO[bytes], *, mark: str) -> None:
        """Hold what was started.

        Args:
            host: network interface that it listens on.
            port: TCP port.
            process: leader of the server's process group.
            log: what it writes.
            mark: what it alone answers with.
        """
        self.address = f"http://{_for_browser(host)}:{port}"
        self._place = _place(host, port)
        self._process = process
        self._log = log
        self._mark = mark

    def wait_until_healthy(self, timeout_seconds: float) -> None:
        """Wait until it answers, and no other server in its place.

        Raises:
            InputError: if it ends as another program has come to listen on its port.
            RuntimeError: if it ends or does not answer in time, with the end of its log.
        """
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                taken = os.strerror(errno.EADDRINUSE)
                if taken.lower() in self._said().lower():
                    raise _not_to_be_had(self._place, taken)
                raise RuntimeError(f"MLflow did not start, exit code {self._process.returncode}: {self._tail()}")
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self.address}/health", timeout=2) as answer,
            ):
                if answer.headers.get(_MARK) == self._mark:
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
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._log.close()

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def _tail(self) -> str:
        return " | ".join(self._said().strip().splitlines()[-5:]) or "it wrote nothing"


@contextlib.contextmanager
def serve(
    storage: Path,
    *,
    port: int,
    host: str = "127.0.0.1",
    say: Callable[[str], None] = lambda _text: None,
) -> Iterator[UiServer]:
    """Run an MLflow server over the tracked searches, healthy inside the block and ended after it.

    Args:
        storage: folder of the searches, with the `mlflow.db` in it.
        port: TCP port to listen on.
        host: network interface to listen on.
        say: told once the server is being started.

    Raises:
        InputError: if nothing was tracked in the folder, or the port or the interface cannot be had.
        RuntimeError: if the server does not come up, with the end of its log.
    """
    database = database_file(storage)
    if not database.is_file():
        raise InputError(f"no search has been tracked in {storage}; run cascade search first, or name its folder")
    _require_free(host, port)
    say(f"starting MLflow over {storage} …")
    mark = uuid.uuid4().hex
    environment = os.environ | {
        "UVICORN_HEADERS": f"{_MARK}:{mark}",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    if not is_loopback(host):
        environment = _known_as(own_names(host), port) | environment
    command = [sys.executable, "-I", str(_PROCESS), sys.executable, "-P", "-m", "mlflow", "server"]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database_uri(storage)]
    command += ["--default-artifact-root", (database.parent / ARTIFACTS).as_uri()]
    with tempfile.TemporaryFile() as log:
        # A group of its own: its workers end with it, and Ctrl-C reaches us alone.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # which ends with us
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
        server = UiServer(host, port, process, log, mark=mark)
        try:
            server.wait_until_healthy(_START_SECONDS)
            yield server
        finally:
            server.stop()


def _require_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are just closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and (
                isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
            ):
                raise InputError(
                    f"--host is {host!r}, but must be an address or a name of this machine ({error.strerror}); "
                    "give one, 127.0.0.1 say"
                ) from error
            raise _not_to_be_had(_place(host, port), error) from error


def _place(host: str, port: int) -> str:
    return f"port {port} on {host}"


def _not_to_be_had(place: str, why: object) -> InputError:
    return InputError(f"{place} cannot be listened on ({why}); choose another one with --port")


def _for_browser(host: str) -> str:
    if host in _EVERYWHERE:  # which is no address to go to
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"
    return for_url(host)


def for_url(host: str) -> str:
    """A name or address as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether an interface is for this machine alone."""
    return host in ("localhost", "::1") or host.startswith("127.")


def own_names(host: str) -> list[str]:
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
    urls = [f"{for_url(name)}:{port}" for name in names]
    private = ["10.*", "192.168.*", *(f"172.{second}.*" for second in range(16, 32)), "fc00:*", "fd00:*"]
    local = [f"{for_url(name)}:{port}" for name in ("localhost", "127.0.0.1", "::1", "0.0.0.0")]
    return {
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join([*urls, *map(for_url, names), *local, *private]),
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{url}" for url in urls),
    }
