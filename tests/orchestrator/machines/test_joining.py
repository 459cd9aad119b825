"""What keeps a process out of a cluster is one line."""

import os
import socket
import subprocess
import sys

import pytest
from ray.exceptions import AuthenticationError

from orchestrator.machines.joining import joining
from trainables.errors import InputError

MISMATCH = """Version mismatch: The cluster was started with:
    Ray: 2.61.0
    Python: 3.12.1
This process on Ray Client was started with:
    Ray: 2.60.0
    Python: 3.11.7
"""


# A Ray that asks for a token, and whether a process that has none can say so.
_A_RAY_WITH_A_TOKEN = """
import os, subprocess, sys
import ray

address = ray.init("local", num_cpus=1, include_dashboard=False).address_info["gcs_address"]
without = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
sys.exit(subprocess.run([sys.executable, "-c", sys.argv[1], address], env=without, timeout=120).returncode)
"""
_JOINS = """
import sys
import ray
from orchestrator.machines.joining import joining

with joining(sys.argv[1]):
    ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
"""


def refused(error, address="auto"):
    with pytest.raises(InputError) as refusal, joining(address):
        raise error
    return str(refusal.value)


def test_another_version_of_ray_or_python_is_said_in_one_line():
    said = refused(RuntimeError(MISMATCH))
    assert said.startswith("the cluster runs Ray 2.61.0 and Python 3.12.1, but this process runs Ray 2.60.0 and Python")
    assert "\n" not in said


def test_a_cluster_that_does_not_know_the_token_says_how_to_give_it():
    assert "set RAY_AUTH_MODE=token" in refused(AuthenticationError("InvalidAuthToken"))


@pytest.mark.integration
def test_a_ray_that_asks_for_a_token_is_not_called_absent():
    env = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    env["RAY_NUM_REDIS_GET_RETRIES"] = "1"  # of twenty, a second each
    words = [sys.executable, "-c", _A_RAY_WITH_A_TOKEN, _JOINS]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=240)
    last = done.stderr.strip().splitlines()[-1]
    assert "but Ray there does not take this machine's token; set RAY_AUTH_MODE=token" in last


def test_no_cluster_is_bad_input():
    assert "no Ray answers there" in refused(ConnectionError("nobody"))


def test_an_address_at_which_nothing_answers_is_said_at_once():
    with socket.socket() as taken, socket.create_server(("127.0.0.1", 0)) as server:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        port, open_port = taken.getsockname()[1], server.getsockname()[1]
        for address in (f"127.0.0.1:{port}", "nowhere.invalid:6379", "my..host:6379"):
            with pytest.raises(InputError, match=f"is '{address}', but nothing answers there"), joining(address):
                pytest.fail("joined")
        with joining(f"127.0.0.1:{open_port}"):
            pass


def test_other_failures_are_not_hidden():
    with pytest.raises(RuntimeError, match="something else"), joining("auto"):
        raise RuntimeError("something else")


def test_a_search_cannot_run_through_ray_client():
    with pytest.raises(InputError, match="must run on a machine of the cluster"), joining("ray://head:10001"):
        pytest.fail("joined")
