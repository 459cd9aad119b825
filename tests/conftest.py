import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

# Tests run side by side, a core each; threads that wait for one another on a busy machine take ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers run at a low priority, and would hardly run at all beside tests that compute.
os.environ.setdefault("RAY_worker_niceness", "0")

import pytest
from filelock import FileLock
from hypothesis import settings

from orchestrator.front.archive import Candidate
from tests.commands import OneProcess, run_alone
from tests.ports import free_port
from trainables.config import CascadeConfig

# Where tests run in the background of a shell, Ctrl-C is ignored, by them and by all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# On a busy machine an example may take any time.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")

# A search that is over in seconds: 8x8 digits, a network of some channels, one process that trains it.
TINY = """
model: {name: vgg-small, width: 0.25}
data: {name: digits, image_size: 8, val_fraction: 0.3}
teacher: {epochs: 2, batch_size: 128, learning_rate: 0.05}
cascade: {recipe: {epochs: 3, batch_size: 128, learning_rate: 0.05}, pruning: {num_prunings: 6}}
space: {num_assistants: [0, 1], student_macs_kept: [0.2, 0.5], schedule: [joint, sequential]}
num_trials: 2
num_starting_points: 2
resources: {max_concurrent: 1}
tracking: {models: none}
"""

S3_KEYS = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "s3cret"}


@pytest.fixture(scope="session")
def cascade_command():
    """Run `cascade` as a process of its own, in a folder."""
    return run_alone


@pytest.fixture(scope="session")
def cascade_commands(tmp_path_factory):
    """Run `cascade` commands in a process that all tests share, over one Ray, in a folder; what each came to.

    It costs a third of what as many processes cost, where it does not matter that a command starts afresh. Ray's
    workers have the keys to `s3`, and a cache of their own.
    """
    folder = tmp_path_factory.mktemp("commands")
    shared = OneProcess(folder / "log", S3_KEYS | {"CASCADE_CACHE": str(folder / "cache")})
    yield shared
    shared.close()


@pytest.fixture
def commands_afresh(tmp_path_factory):
    """Run `cascade` commands in one process as `cascade_commands` does, but in a new one, with this environment."""
    new = OneProcess(tmp_path_factory.mktemp("commands") / "log")
    yield new
    new.close()


@pytest.fixture(scope="session")
def tiny_search(tmp_path_factory, cascade_command, worker_id):
    """A folder in which the tiny experiment `tiny.yaml` was searched, once for all tests that only read it."""
    base = tmp_path_factory.getbasetemp()
    folder = (
        base if worker_id == "master" else base.parent
    ) / "tiny"  # processes that share the tests share the parent
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed to make it
            folder.mkdir()
            (folder / "tiny.yaml").write_text(TINY)
            cascade_command("search", "tiny.yaml", cwd=folder)
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="session")
def s3_server():
    """The port of an S3 server with a bucket `models`; any key opens it."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        make = urllib.request.Request(f"http://127.0.0.1:{port}/models", method="PUT")
        for _ in range(600):
            assert server.poll() is None
            try:
                urllib.request.urlopen(make, timeout=10).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def s3(s3_server, monkeypatch, request):
    """Give the address of an empty place in a bucket, and have the keys in the environment."""
    for name, value in S3_KEYS.items():
        monkeypatch.setenv(name, value)
    place = hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:12]
    return f"s3://models/{place}?endpoint_override=127.0.0.1:{s3_server}&scheme=http&region=us-east-1"


@pytest.fixture(scope="session")
def tiny_yaml():
    """The tiny experiment as YAML."""
    return TINY


@pytest.fixture
def make_candidate():
    """A candidate of which only what matters is said."""

    def make(trial=0, level=1, val_accuracy=0.9, macs_kept=0.1, **others):
        fields = {
            "num_assistants": level - 1,
            "val_accuracy_before_recalibration": val_accuracy,
            "macs": int(macs_kept * 1e6),
            "params": 1000,
            "params_kept": macs_kept,
            "latency_ms": None,
            "network": f"candidates/{trial}-{level}",
            "cascade": json.dumps(CascadeConfig(macs_kept=(macs_kept,)).to_dict()),
        }
        return Candidate(trial=trial, level=level, val_accuracy=val_accuracy, macs_kept=macs_kept, **fields | others)

    return make


def pytest_collection_modifyitems(items):
    """What takes long first, that it is not left for one process at the end: what says so, then whole searches."""
    items.sort(key=lambda item: (item.get_closest_marker("integration") is None, -_allowed_seconds(item)))


def _allowed_seconds(item):
    allowed = item.get_closest_marker("timeout")
    return 0 if allowed is None else allowed.kwargs.get("timeout", *allowed.args)
