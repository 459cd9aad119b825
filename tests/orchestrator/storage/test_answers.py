"""Commands on a store that takes a request and never answers."""

import os
import signal
import socket
import subprocess
import sys

import pytest

COMMAND = """
import sys

from orchestrator.cli import main
from orchestrator.storage.answers import answered

answered.__kwdefaults__["seconds"] = float(sys.argv.pop(1))
main()
"""

pytestmark = pytest.mark.integration


@pytest.fixture
def silent():
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def front(silent, tmp_path):
    """Start `cascade front` on that server, which waits so many seconds for an answer."""
    environment = os.environ | {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "s3cret"}
    environment |= {"CASCADE_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    storage = f"s3://models/place?endpoint_override=127.0.0.1:{silent.getsockname()[1]}&scheme=http&region=us-east-1"
    started = []

    def start(seconds):
        words = [sys.executable, "-c", COMMAND, str(seconds), "front", "mine", "--storage", storage]
        started.append(subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_command_that_gives_up_says_so_and_ends(front):
    process = front(0.5)
    _, said = process.communicate(timeout=30)  # of the minutes that S3's own client would take
    assert process.returncode == 2
    assert said.startswith("cascade: --storage is s3://models/place, which cannot be read: no answer in")
    assert said.count("\n") == 1


def test_a_command_that_waits_ends_by_an_interrupt(front, silent):
    process = front(600)
    with silent.accept()[0]:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "atexit" not in said
