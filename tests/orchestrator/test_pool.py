"""Processes beside this one end with it, and say nothing of their own."""

import json
import os
import signal
import subprocess
import sys

import pytest

from orchestrator.pool import process_pool
from orchestrator.signals import INTERRUPTED

# Its workers hold standard output, which is at its end once all of them have ended.
WORKING = """
import os, sys, time
from orchestrator.pool import process_pool

def work(seconds):
    os.write(1, b"works\\n")
    time.sleep(seconds)

if __name__ == "__main__":
    try:
        with process_pool(2) as pool:
            list(pool.map(work, [600, 600, 600]))
    except KeyboardInterrupt:
        print("stopped", flush=True)
        sys.exit(130)
"""


def working(folder):
    """A process, in a group of its own, whose two processes work."""
    (folder / "working.py").write_text(WORKING)
    running = subprocess.Popen(
        [sys.executable, "working.py"],
        cwd=folder,
        env={"PYTHONPATH": ":".join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )
    assert [running.stdout.readline() for _ in range(2)] == ["works\n"] * 2
    return running


@pytest.mark.integration
@pytest.mark.parametrize(("number", "whom"), [(signal.SIGTERM, "it"), (signal.SIGTERM, "all"), (signal.SIGINT, "all")])
def test_who_is_stopped_ends_its_processes_with_one_line(tmp_path, number, whom):
    running = working(tmp_path)
    if whom == "it":
        running.send_signal(number)
    else:
        os.killpg(running.pid, number)
    said, _ = running.communicate(timeout=60)
    assert said == "stopped\n"
    assert running.returncode == INTERRUPTED


@pytest.mark.integration
def test_processes_end_with_one_that_is_killed(tmp_path):
    running = working(tmp_path)
    running.kill()
    running.communicate(timeout=60)


def noted(path, text):
    path.write_text(text)


@pytest.mark.integration
def test_each_process_begins_with_what_it_is_given(tmp_path):
    with process_pool(1, noted, tmp_path / "note", "begun") as pool:
        assert pool.submit(json.loads, "1").result(timeout=60) == 1
    assert (tmp_path / "note").read_text() == "begun"
